"""`jobs.py drill RUN`: preempt a running job for real, and see that all of it comes back."""

import time
from pathlib import Path
from typing import Any

from clf.config import ConfigError
from clf.run_folder import read_status
from slurm import queue
from slurm.records import read_job

POLL_S = 0.5
LEAVE_S = 300  # for a step to end and its checkpoint to be written
SHOWN = {
    "epoch": "epoch",
    "step": "optimizer step",
    "batch": "batch of the epoch",
    "learning_rate": "learning rate",
    "wandb_id": "W&B run",
}


def drill(out: Any, run_dir: Path) -> int:
    """Exit code 0 if the run went on from the very place at which it left; 1 if not.

    Raises:
        ConfigError: the run is no running job of SLURM
        queue.QueueError: SLURM does not answer
    """
    job_id = _running_job(run_dir)
    out.print(f"sending SIGUSR2 to job {job_id}, as SLURM does before it takes a job's nodes")
    queue.ask(["scancel", "--signal=USR2", job_id])
    left = _wait(run_dir, "preempted", LEAVE_S)
    if left is None:
        out.print(f"[red]the run did not leave within {LEAVE_S} s[/red]; see jobs.py logs")
        return 1
    out.print(f"left at step {left['step']}, all is saved; waiting for SLURM to start it again")
    out.print("(SLURM keeps a requeued job back for two minutes, unless its administrator says so)")
    back = _wait(run_dir, "running", None, job_id)
    if back is None:
        out.print("[red]the job is not in the queue any more[/red]; see jobs.py status")
        return 1
    return _compare(out, left, back)


def _running_job(run_dir: Path) -> str:
    record, status = read_job(run_dir), read_status(run_dir) or {}
    if record.get("cluster") != "slurm":
        raise ConfigError([f"{run_dir.name}: drill needs a job of SLURM, and this run is none"])
    if status.get("state") != "running" or not status.get("began"):
        state = status.get("state", "waiting for its first start")
        raise ConfigError([f"{run_dir.name}: drill needs a job that trains now; it is {state}"])
    return str(record["job_id"])


def _wait(
    run_dir: Path, state: str, seconds: float | None, job_id: str | None = None
) -> dict[str, Any] | None:
    """The status once the run is in a state and has said where; None if that does not come."""
    place = "left" if state == "preempted" else "began"
    deadline = None if seconds is None else time.monotonic() + seconds
    while deadline is None or time.monotonic() < deadline:
        status = read_status(run_dir) or {}
        if status.get("state") == state and status.get(place):
            return status
        if job_id is not None and not queue.lives(job_id):
            return None
        time.sleep(POLL_S)
    return None


def _compare(out: Any, left: dict[str, Any], back: dict[str, Any]) -> int:
    from rich.table import Table

    table = Table("", "left with", "went on with", "")
    same = True
    for key, name in SHOWN.items():
        before = left[key] if key == "wandb_id" else left["left"][key]
        after = back[key] if key == "wandb_id" else back["began"][key]
        equal = before == after
        same &= equal
        mark = "[green]same[/green]" if equal else "[red]differs[/red]"
        table.add_row(name, str(before), str(after), mark)
    out.print(table)
    return 0 if same else 1
