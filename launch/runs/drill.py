"""`jobs.py drill RUN`: preempt a running job for real, and compare where it left with where it goes
on."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.config import ConfigError
from clf.run_folder import read_status
from slurm import queue
from slurm.records import read_job

POLL_S = 0.5
LEAVE_S = 300  # for a step to end and its checkpoint to be written
COMPARED = {  # field of status.json -> name
    "epoch": "epochs done",
    "step": "optimizer step",
    "batch": "batch of the epoch",
    "learning_rate": "learning rate",
    "wandb_id": "W&B run",
}


@dataclass(frozen=True)
class Comparison:
    """A number with which the run left, and the one with which it went on."""

    name: str
    before: Any
    after: Any

    @property
    def same(self) -> bool:
        return self.before == self.after


@dataclass(frozen=True)
class Stage:
    """A stage of the drill that was reached."""

    # "signalled", "left" and "back" if all goes well; "stayed": the run did not leave in time;
    # "gone": its job is not in the queue any more
    name: str
    job_id: str
    step: int | None = None  # "left": the optimizer step at which the run left
    comparisons: list[Comparison] = field(default_factory=list)  # "back"


def drill(run_dir: Path) -> Iterator[Stage]:
    """Each stage as soon as it is reached; the last is "back", "stayed" or "gone".

    Raises:
        ConfigError: the run is no running job of SLURM
        queue.QueueError: SLURM does not answer
    """
    job_id = _running_job(run_dir)
    yield Stage("signalled", job_id)
    queue.ask(["scancel", "--signal=USR2", job_id])
    left = _wait(run_dir, "preempted", LEAVE_S)
    if left is None:
        yield Stage("stayed", job_id)
        return
    yield Stage("left", job_id, left["left"]["step"])
    back = _wait(run_dir, "running", None, job_id)
    if back is None:
        yield Stage("gone", job_id)
        return
    yield Stage("back", job_id, comparisons=_compare(left, back))


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
    """The status once the run is in a state and has written at which place; None if that does not
    happen in time, or the job is gone."""
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


def _compare(left: dict[str, Any], back: dict[str, Any]) -> list[Comparison]:
    def value(status: dict[str, Any], place: str, key: str) -> Any:
        return status[key] if key == "wandb_id" else status[place][key]

    return [
        Comparison(name, value(left, "left", key), value(back, "began", key))
        for key, name in COMPARED.items()
    ]
