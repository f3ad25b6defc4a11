"""What is known of a run: its folder's own word, and SLURM's where it was submitted there."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.run_folder import SILENT_S, read_scalars, read_status
from slurm import events, queue
from slurm.devices import has_slurm
from slurm.executor import LOCAL, read_record
from slurm.failures import diagnose
from slurm.job import first_error

# SLURM's word for how a job ended -> ours
ENDED = {
    "COMPLETED": "ended",
    "CANCELLED": "cancelled",
    "TIMEOUT": "out of time",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "node failure",
    "PREEMPTED": "preempted",
    "BOOT_FAIL": "node failure",
    "DEADLINE": "out of time",
}


@dataclass
class RunState:
    """A run in the words of the commands; None: not known."""

    path: Path
    state: str  # queued, starting, running, finished, failed, cancelled, preempted, ...
    reason: str | None
    job_id: str | None
    nodes: str | None
    epoch: int | None
    epochs: int | None
    best: float | None  # top-1 on the validation images, 0..1
    metrics: dict[str, float]
    eta_s: float | None
    restarts: int
    updated: float | None  # seconds since 1970
    diagnosis: str | None
    wandb: str | None

    @property
    def lives(self) -> bool:
        return self.state in ("queued", "starting", "running", "ending")


def read_states(run_dirs: Iterable[Path]) -> list[RunState]:
    """All of them, with one question to the queue."""
    paths = list(run_dirs)
    records = [read_record(path) or {} for path in paths]
    ids = [one["job_id"] for one in records if one.get("cluster", LOCAL) != LOCAL]
    known: dict[str, queue.QueuedJob] = {}
    if ids and has_slurm():
        try:
            known = queue.jobs(ids)
        except queue.QueueError:
            known = {}  # the folders tell what they know
    return [read_state(path, known) for path in paths]


def read_state(run_dir: Path, known: Mapping[str, queue.QueuedJob] | None = None) -> RunState:
    """One run.

    Args:
        known: jobs that are in the queue, so that it is not asked for each
    """
    status, record = read_status(run_dir) or {}, read_record(run_dir) or {}
    told = events.read(run_dir)
    job = _job(record, status, known)
    state, reason = _state(run_dir, status, record, job)
    restarts = [job.restarts or 0 if job else 0, *(one.get("restart") or 0 for one in told)]
    nodes = (job.nodes if job else None) or ",".join(_last(told, "nodes") or [])
    training = state in ("running", "ending") and status.get("state") == "running"
    return RunState(
        path=run_dir,
        state=state,
        reason=reason,
        job_id=record.get("job_id"),
        nodes=nodes or status.get("host"),
        epoch=status.get("epoch"),
        epochs=status.get("epochs"),
        best=best_top1(run_dir),
        metrics=status.get("metrics") or {},
        eta_s=status.get("eta_s") if training else None,
        restarts=max(restarts),
        updated=status.get("updated"),
        diagnosis=None if state == "finished" else diagnosis(run_dir),
        wandb=status.get("wandb"),
    )


def diagnosis(run_dir: Path) -> str | None:
    """Why a run ended, in one line; None if nothing is known to be wrong."""
    found = diagnose(run_dir)
    return None if found is None else found.line()


def best_top1(run_dir: Path) -> float | None:
    """The best top-1 of all validated epochs."""
    found = [row.get("val/acc_top1") for row in read_scalars(run_dir)]
    return max((float(text) for text in found if text), default=None)


def _job(
    record: dict[str, Any],
    status: dict[str, Any],
    known: Mapping[str, queue.QueuedJob] | None,
) -> queue.QueuedJob | None:
    """SLURM's job of the run. Of a finished run nothing more is asked."""
    if record.get("cluster", LOCAL) == LOCAL or not has_slurm():
        return None
    job_id = record["job_id"]
    if known is not None and (job_id in known or status.get("state") == "finished"):
        return known.get(job_id)
    try:
        return queue.job(job_id)
    except queue.QueueError:
        return None  # what the folder says is said without it


def _state(
    run_dir: Path, status: dict[str, Any], record: dict[str, Any], job: queue.QueuedJob | None
) -> tuple[str, str | None]:
    """The state and its reason: SLURM's word on a job that lives, the folder's on how it ended."""
    own = status.get("state")
    since = record.get("submitted", 0)
    if own == "finished":
        return "finished", None
    if job is not None and job.waits:
        return "queued", job.reason
    if job is not None and job.lives:
        if job.state == "COMPLETING":
            return "ending", None
        said = own == "running" and (status.get("updated") or 0) > since
        return ("running" if said else "starting"), None
    if job is not None and job.state in ENDED and job.state != "COMPLETED":
        return ENDED[job.state], job.reason
    if record.get("cancelled"):  # SLURM forgets how a job ended within minutes
        return "cancelled", None
    if own == "failed" or first_error(run_dir) is not None:
        return "failed", None
    if own == "preempted":
        return "preempted", "it was not started again"
    if job is not None:
        reason = f"exit code {job.exit_code}" if job.exit_code else None
        return ("failed" if job.state == "FAILED" else "ended"), reason
    if own == "running" and time.time() - (status.get("updated") or 0) < SILENT_S:
        return "running", None
    if own == "running":
        return "lost", "it said nothing for a minute; its process is gone or hangs"
    if time.time() - since < SILENT_S:
        return "starting", None
    return "ended", "it left no word"


def _last(told: list[dict[str, Any]], name: str) -> Any:
    return next((one[name] for one in reversed(told) if one.get(name)), None)
