"""Why a job ended before its time, in one line, and what to do. `diagnose`. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm import events
from slurm.job import START_MARK, first_error

TAIL = 200_000  # characters of the log that are looked at


@dataclass(frozen=True)
class Diagnosis:
    """What went wrong first."""

    # "out of memory", "time limit", "node failure", "NCCL", "bad data", "preempted",
    # "error in code" or "killed"
    kind: str
    rank: int | None
    host: str | None
    summary: str  # in one line
    remedy: str  # what to do

    def line(self) -> str:
        """All of it in one line."""
        places = [f"rank {self.rank}" if self.rank is not None else "", self.host or ""]
        where = ", ".join(place for place in places if place)
        return f"{self.kind}{f' ({where})' if where else ''}: {self.summary}; {self.remedy}"


REMEDIES = {
    "out of memory": "halve data.micro_batch_size (the batch stays, in more parts)",
    "host memory": "ask for more with slurm.mem_gb, or lower data.prefetch or data.threads",
    "time limit": "go on with launch/jobs.py resume, or give it longer with --time",
    "node failure": "SLURM puts the job into the queue again, without nodes that are down",
    "NCCL": "look at the other ranks' logs; NCCL_DEBUG=INFO shows the network it uses",
    "bad data": "mend the file or take it out, then go on with launch/jobs.py resume",
    "preempted": "all is saved; go on with launch/jobs.py resume if it is not in the queue",
    "error in code": "step through it with launch/train.py --debug; go on with jobs.py resume",
    "killed": "somebody or the kernel killed it; a node out of memory kills the largest process",
}
# What SLURM writes into the log of the batch script, where no rank could say it.
SPOKEN = (
    (r"oom[-_]kill|Out[ -]Of[ -]Memory", "out of memory", "host memory"),
    (r"DUE TO TIME LIMIT", "time limit", "time limit"),
    (r"DUE TO NODE FAILURE|Node failure on", "node failure", "node failure"),
    (r"DUE TO PREEMPTION", "preempted", "preempted"),
)
# The first of them is the cause; srun ends the other tasks then.
TASK = re.compile(r"srun: error: (\S+): tasks? (\d+)[\d,-]*: (.+)")
BY_ITSELF = "Exited with exit code"
# What a rank says when another one is gone.
FOLLOWING = re.compile(
    r"connection (closed|reset|refused)|broken pipe|remote process exit|did not answer",
    re.IGNORECASE,
)


def diagnose(run_dir: Path) -> Diagnosis | None:
    """What ended the latest start of a run first; None where nothing is known to be wrong."""
    ended = [event for event in events.last_start(run_dir) if event["event"] != "start"]
    if any(event["event"] in ("finished", "preempted") for event in ended):
        return None
    log, error = _log(run_dir), first_error(run_dir)
    spoken = _from_log(log)
    if error is None:
        return spoken
    if FOLLOWING.search(_said(error)):
        return spoken or _diagnosis("node failure", error, REMEDIES["node failure"])
    return _from_error(error)


def _from_error(error: dict[str, Any]) -> Diagnosis:
    said = _said(error)
    if "OutOfMemoryError" in said or "out of memory" in said:
        kind = "out of memory"
    elif error["type"] == "MemoryError" or "DefaultCPUAllocator" in said:
        return _diagnosis("out of memory", error, REMEDIES["host memory"])
    elif re.search(r"\bnccl|DistBackendError|gloo", said, re.IGNORECASE):
        kind = "NCCL"
    elif error["type"] == "DataError" or said.partition(": ")[2].startswith("data."):
        kind = "bad data"
    else:
        kind = "error in code"
    return _diagnosis(kind, error, REMEDIES[kind])


def _diagnosis(kind: str, error: dict[str, Any], remedy: str) -> Diagnosis:
    said = error["message"] if error["for_the_user"] else _said(error)
    summary = (said.strip().splitlines() or [""])[0][:200]
    return Diagnosis(kind, error["rank"], error["host"], summary, remedy)


def _from_log(log: str) -> Diagnosis | None:
    """What SLURM said of the job."""
    task = TASK.search(log)  # None where srun saw no task end badly
    host, rank = (task[1], int(task[2])) if task else (None, None)
    for pattern, kind, remedy in SPOKEN:
        if found := re.search(rf".*({pattern}).*", log):
            return Diagnosis(kind, rank, host, found[0].strip()[:200], REMEDIES[remedy])
    if task and not task[3].startswith(BY_ITSELF):
        return Diagnosis("killed", rank, host, task[3].strip(), REMEDIES["killed"])
    return None


def _log(run_dir: Path) -> str:
    """What the batch script and rank 0 wrote since the latest start."""
    logs = sorted((run_dir / "logs").glob("*_0_log.out"), key=lambda path: path.stat().st_mtime)
    text = logs[-1].read_text(errors="replace")[-TAIL:] if logs else ""
    return text[max(0, text.rfind(START_MARK)) :]


def _said(error: dict[str, Any]) -> str:
    return f"{error['type']}: {error['message']}"
