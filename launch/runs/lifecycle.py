"""Ending runs and starting them again."""

import os
import shlex
import signal
from pathlib import Path
from typing import Any

from clf.config import ConfigError, RunConfig
from launch.runs.folders import Run, create, find_run, shown
from slurm import queue
from slurm.devices import has_slurm
from slurm.executor import submit
from slurm.records import LOCAL, clear_errors, note_cancelled, read_job
from slurm.state import local_job_lives, read_state


def cancel(run_dir: Path) -> str:
    """End the run's job, or take it out of the queue; says what was done.

    Raises:
        ConfigError: nothing of it is running from here
    """
    record = read_job(run_dir)
    now = read_state(run_dir)
    if not record or not now.lives:
        hint = "" if record else "; it was not submitted: stop it where it was started"
        raise ConfigError([f"{run_dir.name}: there is no job to cancel, it is {now.state}{hint}"])
    if record["cluster"] != LOCAL:
        queue.cancel(record["job_id"])
        note_cancelled(run_dir)
        return f"{run_dir.name}: job {record['job_id']} is cancelled; `resume` goes on with it"
    pid = int(record["job_id"])
    if not local_job_lives(run_dir):
        raise ConfigError([f"{run_dir.name}: process {pid} is gone; nothing is left to cancel"])
    os.kill(pid, signal.SIGINT)
    note_cancelled(run_dir)
    return f"{run_dir.name}: process {pid} was told to stop; `resume` goes on with it"


def resume(out: Any, run_dir: Path, new_code: bool) -> int:
    """Start a run again: with its own config, and the code that it began with unless `new_code`."""
    from launch.terminal.following import follow_job, print_submitted
    from launch.terminal.summary import print_complete

    cfg = _config(run_dir)
    run = find_run(cfg)
    if run.state == "finished":
        print_complete(out, run)
        return 0
    _preflight(cfg, [run_dir], None)
    _ready(cfg, run, new_code)
    job = submit(cfg, run_dir)
    if has_slurm():
        print_submitted(out, job.job_id, run_dir)
        return 0
    again = f"python launch/jobs.py resume {shlex.quote(shown(run_dir))}"
    return follow_job(out, job, run_dir, again)


def resume_sweep(out: Any, sweep: Any, new_code: bool) -> int:
    """Start again those runs of a sweep that are neither done nor in the queue."""
    from launch.runs.sweep import Sweep, start
    from slurm.state import read_states

    waiting = [
        one.path for one in read_states(sweep.run_dirs) if one.state != "finished" and not one.lives
    ]
    if not waiting:
        out.print(f"Nothing to start: all runs of {sweep.folder.name} are done, or still going on.")
        return 0
    configs = [_config(path) for path in waiting]
    _preflight(configs[0], waiting, sweep.folder)
    chosen = Sweep(sweep.folder, {path.name: sweep.runs[path.name] for path in waiting})
    return start(out, chosen, configs, new=new_code)


def _config(run_dir: Path) -> RunConfig:
    """The run's own, in the place where the folder is now."""
    from clf.config.compose import load

    cfg = load(run_dir / "config.yaml")
    cfg.name, cfg.runs_dir = run_dir.name, str(run_dir.parent)
    return cfg


def _preflight(cfg: RunConfig, runs: list[Path], array: Path | None) -> None:
    from launch.runs.checking import look, print_notes
    from slurm.devices import resources

    found = resources(cfg)
    found.add(look(cfg, runs, array))
    if found.faults:
        raise ConfigError(found.faults)
    print_notes(found.notes)


def _ready(cfg: RunConfig, run: Run, new_code: bool) -> None:
    if new_code:
        create(cfg, run)
    clear_errors(run.path)
