"""The state of a run: what its records, its status.json and SLURM say together.

    read_state(run_dir).state     read_states(run_dirs)     what_it_does(run_dir)

`slurm.records` reads and writes the records. Imports no torch.
"""

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.resilience import lease
from clf.resilience.lease import Holder
from clf.resilience.processes import UNSEEN, Process, this_process
from clf.run_folder import SILENT_S, RunFolder, read_scalars, read_status
from slurm import bad_nodes, environment, queue, records
from slurm.devices import has_slurm
from slurm.failures import diagnose

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
LIVING = ("queued", "starting", "running", "ending")
NO_RECORD = "it ended without a record of why"


@dataclass
class RunState:
    """A run in the words of the commands; None: not known."""

    path: Path
    state: str  # queued, starting, running, finished, failed, cancelled, preempted, ...
    reason: str | None
    job_id: str | None
    nodes: str | None
    nodes_asked: str | None  # a range, such as 1-4
    epoch: int | None
    epochs: int | None
    best: float | None  # top-1 on the validation images, 0..1
    metrics: dict[str, float]
    eta_s: float | None
    speed: dict[str, Any]  # as `clf.tracking.bounds.Speed`
    restarts: int
    updated: float | None  # seconds since 1970
    diagnosis: str | None
    wandb: str | None
    stopped_early: str | None  # why
    left_out: list[str]  # nodes, and why
    saved: dict[str, Any]  # the newest checkpoint: file, step, ...; {}: none of this start yet
    not_written: dict[str, str]  # files -> why the disk does not take them

    @property
    def lives(self) -> bool:
        return self.state in LIVING


def read_states(run_dirs: Iterable[Path]) -> list[RunState]:
    """The states of several runs, asking the queue once."""
    paths = list(run_dirs)
    jobs = [record for path in paths if _is_of_slurm(record := records.read_job(path))]
    known: dict[str, queue.QueuedJob] = {}
    if jobs:
        try:
            known = queue.jobs(record["job_id"] for record in jobs)
        except queue.QueueError:
            known = {}  # then the folders alone must do
    return [read_state(path, known) for path in paths]


def read_state(run_dir: Path, known: Mapping[str, queue.QueuedJob] | None = None) -> RunState:
    """The state of a run.

    Args:
        known: jobs that are in the queue, so that it is not asked for each run
    """
    status, record = read_status(run_dir) or {}, records.read_job(run_dir)
    events = records.read_events(run_dir)
    job = _ask_slurm(record, status, known)
    state, reason = _state(run_dir, status, record, job)
    restarts = [job.restarts or 0 if job else 0, *(one.get("restart") or 0 for one in events)]
    nodes = (job.nodes if job else None) or ",".join(_last(events, "nodes") or [])
    training = state in ("running", "ending") and status.get("state") == "running"
    return RunState(
        path=run_dir,
        state=state,
        reason=reason,
        job_id=record.get("job_id"),
        nodes=nodes or status.get("host"),
        nodes_asked=asked if isinstance(asked := record.get("nodes"), str) else None,
        epoch=status.get("epoch"),
        epochs=status.get("epochs"),
        best=best_top1(run_dir),
        metrics=status.get("metrics") or {},
        eta_s=status.get("eta_s") if training else None,
        speed=status.get("speed") or {},
        restarts=max(restarts),
        updated=status.get("updated"),
        diagnosis=None if state == "finished" else diagnosis(run_dir),
        wandb=status.get("wandb"),
        stopped_early=status.get("stopped_early"),
        left_out=bad_nodes.left_out(run_dir, events),
        saved=status.get("checkpoint") or {},
        not_written=status.get("not_written") or {},
    )


def what_it_does(run_dir: Path) -> str:
    """What a job of the run does now, such as "is job 7 of SLURM, running"; "" if there is none,
    or if it is the job that this process is in.

    Raises:
        queue.QueueError: SLURM does not answer
    """
    status, record = read_status(run_dir) or {}, records.read_job(run_dir)
    job = None
    if _is_of_slurm(record):
        if record["job_id"] == environment.job_id():
            return ""
        job = queue.job(record["job_id"])
    state, _ = _state(run_dir, status, record, job)
    if state not in LIVING:
        return ""
    if job is not None and job.lives:
        return f"is job {job.job_id} of SLURM, {job.state.lower()}"
    who = _writer(run_dir, record, job)
    if who is not None:
        return f"is running now ({who.line()})"
    if state == "starting":
        return "is starting now"
    return f"is running now (epoch {status.get('epoch')} of {status.get('epochs')})"


def diagnosis(run_dir: Path) -> str | None:
    """Why a run ended, in one line; None if nothing is known to be wrong."""
    found = diagnose(run_dir)
    return None if found is None else found.line()


def best_top1(run_dir: Path) -> float | None:
    """The best top-1 of all validated epochs."""
    found = [row.get("val/acc_top1") for row in read_scalars(run_dir)]
    return max((float(text) for text in found if text), default=None)


def local_job_lives(run_dir: Path) -> bool:
    """Whether the process that controls a local job is still running."""
    record = records.read_job(run_dir)
    if record.get("cluster") != records.LOCAL:
        return False
    if record.get("host", socket.gethostname()) != socket.gethostname():
        return False  # it cannot be seen from here
    return Process(int(record["job_id"]), record.get("began", "")).lives()


def _is_of_slurm(record: Mapping[str, Any]) -> bool:
    return record.get("cluster", records.LOCAL) != records.LOCAL and has_slurm()


def _ask_slurm(
    record: Mapping[str, Any],
    status: Mapping[str, Any],
    known: Mapping[str, queue.QueuedJob] | None,
) -> queue.QueuedJob | None:
    """SLURM's job of the run. Nothing is asked about a finished run that has left the queue."""
    if not _is_of_slurm(record):
        return None
    job_id = record["job_id"]
    if known is not None and (job_id in known or status.get("state") == "finished"):
        return known.get(job_id)
    try:
        return queue.job(job_id)
    except queue.QueueError:
        return None  # then the folder alone must do


def _state(
    run_dir: Path,
    status: Mapping[str, Any],
    record: Mapping[str, Any],
    job: queue.QueuedJob | None,
) -> tuple[str, str | None]:
    """The state and its reason: SLURM decides about a job that lives, the folder about its end."""
    if job is not None and job.lives:
        return _of_living_job(status, record, job)
    own = status.get("state")
    who = _writer(run_dir, record, job)
    if who is not None or local_job_lives(run_dir):
        return _of_living_process(run_dir, status, record, who), None
    if own == "finished":
        return "finished", None
    if job is not None and job.state in ENDED and job.state != "COMPLETED":
        return ENDED[job.state], job.reason
    if record.get("cancelled"):  # SLURM forgets how a job ended within minutes
        return "cancelled", None
    if records.first_error(run_dir) is not None:
        return "failed", None
    if left := _left_without_a_word(run_dir, status):
        return "lost", f"its process {left.processes[0].pid} is gone"
    if own == "failed":
        return "failed", None
    if own in ("preempted", "stopped"):
        return _stopped(status, record)
    if job is not None:
        reason = f"exit code {job.exit_code}" if job.exit_code else None
        return ("failed" if job.state == "FAILED" else "ended"), reason
    return _without_a_job(run_dir, status, record)


def _of_living_job(
    status: Mapping[str, Any], record: Mapping[str, Any], job: queue.QueuedJob
) -> tuple[str, str | None]:
    old = _is_old(status, record)
    if status.get("state") == "finished" and not old:
        return "finished", None
    if job.waits:
        return "queued", job.reason
    if job.state == "COMPLETING":
        return "ending", None
    return ("running" if status.get("state") == "running" and not old else "starting"), None


def _of_living_process(
    run_dir: Path, status: Mapping[str, Any], record: Mapping[str, Any], who: Holder | None
) -> str:
    """Of a run whose process is there, of which only the status that it has written itself counts:
    another one is of an earlier start."""
    if status.get("state") == "finished" and not _is_old(status, record):
        return "finished"
    if record.get("cancelled") or records.first_error(run_dir) is not None:
        return "ending"
    if who is None or status.get("state") != "running" or status.get("host") != who.host:
        return "starting"
    own = status.get("pid") in [process.pid for process in who.processes]
    return "running" if own else "starting"


def _writer(run_dir: Path, record: Mapping[str, Any], job: queue.QueuedJob | None) -> Holder | None:
    """The living process that holds the run's lease, if it is not this one. That of a SLURM job
    which has ended does not live, even if its last renewal is young."""
    who = lease.living(run_dir)
    if who is None or this_process() in who.processes:
        return None
    ended = _is_of_slurm(record) and (job is None or not job.lives)
    return None if ended and not who.is_here() and who.job_id == record["job_id"] else who


def _left_without_a_word(run_dir: Path, status: Mapping[str, Any]) -> Holder | None:
    """Who holds the lease and is gone, where the status says nothing of its end: it may hold that
    of an earlier start."""
    who = lease.holder(run_dir)
    if who is None or not who.is_gone():
        return None
    own = status.get("pid") in [process.pid for process in who.processes]
    own = own or status.get("updated", 0) > who.since
    return None if own and status.get("state") != "running" else who


def _stopped(status: Mapping[str, Any], record: Mapping[str, Any]) -> tuple[str, str | None]:
    """Of a run that was asked to leave, and has."""
    if status.get("state") == "preempted" and record.get("cluster", records.LOCAL) != records.LOCAL:
        return "preempted", "it was not started again"
    return "stopped", f"by {status['signal']}" if status.get("signal") else None


def _without_a_job(
    run_dir: Path, status: Mapping[str, Any], record: Mapping[str, Any]
) -> tuple[str, str | None]:
    """Of a run that SLURM does not know (any more) and that has not recorded its end."""
    if status.get("state") == "running":
        if _process_is_gone(status):
            return "lost", "its process is gone"
        updated = status.get("updated") or RunFolder(run_dir).status.stat().st_mtime
        if time.time() - updated < SILENT_S:
            return "running", None
        return "lost", f"it wrote nothing for {SILENT_S} seconds; its process is gone or hangs"
    on_slurm = record.get("cluster", records.LOCAL) != records.LOCAL
    if on_slurm and time.time() - record["submitted"] < SILENT_S:
        return "starting", None
    return "ended", NO_RECORD


def _is_old(status: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether the status was written before the latest submission."""
    updated = status.get("updated")
    return not status or (updated is not None and updated < record.get("submitted", 0))


def _process_is_gone(status: Mapping[str, Any]) -> bool:
    """Whether the run's process has ended, if it was one of this machine."""
    if status.get("host") != socket.gethostname() or "pid" not in status:
        return False  # it cannot be seen from here
    return not Process(int(status["pid"]), status.get("process_began", UNSEEN)).lives()


def _last(events: list[dict[str, Any]], name: str) -> Any:
    return next((one[name] for one in reversed(events) if one.get(name)), None)
