"""Starting runs, ending them, and starting them again."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clf.atomic import private_files
from clf.config import ConfigError, RunConfig
from clf.resilience.anew import set_aside
from clf.resilience.lease import Lease, living
from clf.run_folder import RunFolder, read_status
from launch.runs.folders import Run, create, find_run, take_lease, update
from launch.runs.requests import Request, before_the_queue, to_resume
from slurm import queue
from slurm.devices import resources
from slurm.executor import submit
from slurm.records import LOCAL, clear_errors, note_cancelled, read_job
from slurm.state import local_job_lives, read_state


def start(
    cfg: RunConfig,
    run: Run,
    notes: Sequence[str] = (),
    new_code: bool = True,
    lease: Lease | None = None,
) -> Any:
    """Make the run's folder ready and submit its job; gives submitit's handle of the job.

    Args:
        lease: of the run; None: it is taken here

    Raises:
        ConfigError: another process or job writes into the folder
    """
    lease = lease or take_lease(run.path)
    try:
        make_ready(cfg, run, notes, new_code)
        return submit(cfg, run.path, lease)
    except BaseException:
        lease.release()
        raise


def make_ready(cfg: RunConfig, run: Run, notes: Sequence[str] = (), new_code: bool = True) -> None:
    """Everything in the run folder that a job looks for when it starts.

    Args:
        notes: what the user was told when the run was checked
        new_code: take the code as it is now; False: the run's own snapshot stays
    """
    if run.refresh:
        with private_files():
            set_aside(RunFolder(run.path))
    if new_code:
        create(cfg, run, notes)
    else:
        update(cfg, run, notes)
    clear_errors(run.path)
    status = read_status(run.path) or {}
    if status.get("state") == "finished":  # and is to go on for more epochs
        with private_files():
            RunFolder.write_json(RunFolder(run.path).status, {**status, "state": "starting"})


def resume(
    run_dir: Path,
    overrides: Sequence[str] = (),
    allow_change: bool = False,
    announce: Callable[[str], None] = lambda text: None,
    refresh: bool = False,
) -> tuple[Request, Run]:
    """What `start` takes to continue a run with its own configuration and the `overrides`. A run
    that is finished has nothing to start.

    Raises:
        ConfigError: with every fault
    """
    cfg = to_resume(run_dir, overrides, refresh)
    run = find_run(cfg, allow_change, refresh)
    if run.state == "finished":
        return Request(cfg), run
    return Request(cfg, resume_notes(cfg, [run_dir], None, announce)), run


def resume_notes(
    cfg: RunConfig,
    runs: Sequence[Path],
    array: Path | None,
    announce: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Notes of the preflight for runs that are started again.

    Raises:
        ConfigError: what this machine or SLURM cannot give
    """
    found = resources(cfg)
    found.add(before_the_queue(cfg, runs, array, announce=announce))
    if found.faults:
        raise ConfigError(found.faults)
    return found.notes


def cancel(run_dir: Path) -> str:
    """End the run's job, or take it out of the queue; gives a sentence that says what was done.

    Raises:
        ConfigError: the run has no job that could be ended from here
    """
    record = read_job(run_dir)
    now = read_state(run_dir)
    if not now.lives:
        raise ConfigError([f"{run_dir.name}: there is no job to cancel, it is {now.state}"])
    if record.get("cluster", LOCAL) != LOCAL:
        queue.cancel(record["job_id"])
        note_cancelled(run_dir)
        return f"{run_dir.name}: job {record['job_id']} is cancelled; `resume` continues it"
    if local_job_lives(run_dir):
        again = bool(record.get("cancelled"))
        note_cancelled(run_dir)
        os.kill(int(record["job_id"]), signal.SIGQUIT if again else signal.SIGTERM)
        how = "is ended now" if again else "was asked to stop"
        return f"{run_dir.name}: process {record['job_id']} {how}; `resume` continues it"
    return _cancel_process(run_dir)


def _cancel_process(run_dir: Path) -> str:
    """Ask a run that is in the process of its command to leave."""
    who = living(run_dir)
    if who is None:
        raise ConfigError([f"{run_dir.name}: its process is gone; nothing is left to cancel"])
    if not who.is_here():
        raise ConfigError([f"{run_dir.name}: it is {who.line()}; cancel it on that machine"])
    os.kill(who.processes[0].pid, signal.SIGTERM)
    return (
        f"{run_dir.name}: process {who.processes[0].pid} was asked to stop; where it was started "
        "it says how to go on"
    )
