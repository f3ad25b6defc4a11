"""Starting runs, ending them, and starting them again."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clf.config import ConfigError, RunConfig
from clf.resilience.anew import set_aside
from clf.run_folder import RunFolder, read_status
from launch.runs.folders import Run, create, find_run, update
from launch.runs.requests import Request, before_the_queue, to_resume
from slurm import queue
from slurm.devices import resources
from slurm.executor import submit
from slurm.records import LOCAL, clear_errors, note_cancelled, private_files, read_job
from slurm.state import local_job_lives, read_state


def start(cfg: RunConfig, run: Run, notes: Sequence[str] = (), new_code: bool = True) -> Any:
    """Make the run's folder ready and submit its job; gives submitit's handle of the job."""
    make_ready(cfg, run, notes, new_code)
    return submit(cfg, run.path)


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
    if not record or not now.lives:
        hint = "" if record else "; it was not submitted: stop it where it was started"
        raise ConfigError([f"{run_dir.name}: there is no job to cancel, it is {now.state}{hint}"])
    if record["cluster"] != LOCAL:
        queue.cancel(record["job_id"])
        note_cancelled(run_dir)
        return f"{run_dir.name}: job {record['job_id']} is cancelled; `resume` continues it"
    pid = int(record["job_id"])
    if not local_job_lives(run_dir):
        raise ConfigError([f"{run_dir.name}: process {pid} is gone; nothing is left to cancel"])
    os.kill(pid, signal.SIGINT)
    note_cancelled(run_dir)
    return f"{run_dir.name}: process {pid} was asked to stop; `resume` continues it"
