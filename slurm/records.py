"""The records of a run's jobs, as they are written and read; `slurm.state` says what they mean.

RUN/job.json                   the latest submission
RUN/logs/events.jsonl          what happened to each start of a job, one JSON object a line
RUN/logs/error_rank<r>.json    the error that ended a rank
SWEEP/sweep.json               the runs of a sweep

`status.json`, which the training writes, is `clf.run_folder.read_status`. Imports no torch.
"""

import json
import re
import socket
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clf.atomic import PatientWriter, append_line, private_files
from clf.config import RunConfig
from clf.config.faults import is_for_the_user
from clf.resilience.processes import process
from clf.run_folder import RunFolder, read_events, read_json, read_status
from slurm import environment
from slurm.submitit_adapter import node_names

_writer = PatientWriter()
LOCAL = "local"  # job.json's cluster, without SLURM
SWEEP = "sweep.json"
# The errors of a rank that has lost the connection to another one.
FOLLOWING = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exit|did not answer",
    re.IGNORECASE,
)


# --- job.json -------------------------------------------------------------------------------------


def read_job(run_dir: Path) -> dict[str, Any]:
    """The latest submission: job_id (without SLURM the number of the process that controls the
    ranks), began (when that process began), cluster ("slurm" or "local"), host, submitted (seconds
    since 1970), nodes, gpus, sweep, and cancelled if somebody ended the job. {} if there was
    none."""
    return read_json(RunFolder(run_dir).job) or {}


def write_job(
    cfg: RunConfig, run_dir: Path, job_id: str, cluster: str, sweep: str | None = None
) -> None:
    """Record a submission, replacing an earlier one."""
    control = process(int(job_id)) if cluster == LOCAL else None
    record = {
        "job_id": job_id,
        "began": control.began if control else None,
        "cluster": cluster,
        "host": socket.gethostname(),
        "submitted": time.time(),
        "nodes": cfg.nodes,
        "gpus": cfg.gpus,
        "sweep": sweep,
    }
    RunFolder.write_json(RunFolder(run_dir).job, record)


def note_cancelled(run_dir: Path) -> None:
    """Add to job.json that somebody ended the job; SLURM forgets this within minutes."""
    with private_files():
        RunFolder.write_json(RunFolder(run_dir).job, {**read_job(run_dir), "cancelled": True})


def note_stopped(run_dir: Path, signal: str) -> None:
    """Write into status.json that the run was asked to leave before it could write this itself, as
    it does while it trains."""
    status = read_status(run_dir) or {"run": run_dir.name}
    if status.get("state") != "finished":
        new = {"state": "stopped", "signal": signal, "error": None, "updated": time.time()}
        with private_files():
            RunFolder.write_json(RunFolder(run_dir).status, {**status, **new})


# --- events.jsonl ---------------------------------------------------------------------------------


def record_event(run_dir: Path, event: str, **fields: Any) -> None:
    """Add an event: "start", "preempted", "requeued", "ended", "failed", "finished", "lost" or
    "left out" (`slurm.bad_nodes`). A disk that does not take it is warned of, and ends nothing.

    Args:
        fields: reason; epoch and step: where a start stopped if it was preempted, and where it had
            begun if it then was requeued, ended or failed
    """
    line = {
        "time": time.time(),
        "event": event,
        "job_id": environment.job_id(),
        "restart": environment.restarts(),  # 0 for the first start
        "nodes": node_names(environment.node_list()),
        "reason": None,
        "epoch": None,
        "step": None,
        **fields,
    }
    path = RunFolder(run_dir).events
    _writer.write(path, lambda: append_line(path, json.dumps(line)))


def events_of_last_start(run_dir: Path) -> list[dict[str, Any]]:
    """The events since the latest start, with it."""
    events = read_events(run_dir)
    starts = [place for place, event in enumerate(events) if event["event"] == "start"]
    return events[starts[-1] :] if starts else events


# --- error_rank<r>.json ---------------------------------------------------------------------------


class RankDied(Exception):
    """A rank ended and could not say why."""


def record_error(run_dir: Path, rank: int, error: BaseException) -> None:
    """Write the error of a rank, for `first_error`."""
    record = {
        "time": time.time(),
        "rank": rank,
        "host": environment.node_name(),
        "type": type(error).__name__,
        "message": str(error),
        "for_the_user": is_for_the_user(error) or isinstance(error, RankDied),
        "traceback": "".join(traceback.format_exception(error)),
    }
    path = RunFolder(run_dir).error(rank)
    _writer.write(path, lambda: RunFolder.write_json(path, record))


def errors(run_dir: Path) -> list[dict[str, Any]]:
    """What `record_error` has written, of all ranks."""
    records = [read_json(path) for path in RunFolder(run_dir).errors]
    return [record for record in records if record]


def first_error(run_dir: Path) -> dict[str, Any] | None:
    """The error that came first over all ranks; later ones mostly follow from it. Of a rank that
    was killed the others know before whoever started it has written it down."""
    records = errors(run_dir)
    real = [one for one in records if one["type"] not in ("KeyboardInterrupt", "SystemExit")]
    if any(one["type"] == RankDied.__name__ for one in real):
        real = [one for one in real if not FOLLOWING.search(f"{one['type']}: {one['message']}")]
    return min(real or records, key=lambda record: record["time"], default=None)


def clear_errors(run_dir: Path) -> None:
    """Delete the errors of an earlier start."""
    for path in RunFolder(run_dir).errors:
        path.unlink(missing_ok=True)


# --- sweep.json -----------------------------------------------------------------------------------


def read_sweep(folder: Path) -> dict[str, dict[str, str]]:
    """The runs of a sweep's folder with their swept settings; {} if it is no sweep's."""
    return (read_json(folder / SWEEP) or {}).get("runs", {})


def write_sweep(folder: Path, runs: Mapping[str, Mapping[str, str]]) -> None:
    """Add runs to a sweep's folder, which is created if necessary."""
    with private_files():
        content = {"name": folder.name, "runs": {**read_sweep(folder), **runs}}
        RunFolder.write_json(folder / SWEEP, content)
