"""Why a job ended early, in one line with what to do: `diagnose`. Imports no torch."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.run_folder import HANG, RunFolder
from slurm.records import FOLLOWING, LOCAL, errors, events_of_last_start, first_error, read_job

START_MARK = "clf: start "  # a rank prints it first; the log after it is that of the latest start
TAIL = 200_000  # characters at the end of the log that are searched


@dataclass(frozen=True)
class Diagnosis:
    """The cause of a job's early end."""

    # "out of memory", "time limit", "node failure", "lost rank", "NCCL", "hardware", "hang",
    # "bad data", "preempted", "signalled", "error in code", "killed" or "stopped"
    kind: str
    rank: int | None
    host: str | None
    summary: str  # in one line
    remedy: str  # what to do

    def line(self) -> str:
        """The diagnosis in one line."""
        places = [f"rank {self.rank}" if self.rank is not None else "", self.host or ""]
        where = ", ".join(place for place in places if place)
        return f"{self.kind}{f' ({where})' if where else ''}: {self.summary}; {self.remedy}"


REMEDIES = {
    "out of memory": "halve data.micro_batch_size (the batch stays, in more parts)",
    "host memory": "ask for more with slurm.mem_gb, or lower data.prefetch or data.threads",
    "time limit": "go on with launch/jobs.py resume, or give it longer with --time",
    "node failure": "SLURM puts the job into the queue again, without nodes that are down",
    "lost rank": "look at the other ranks' logs; jobs.py resume goes on",
    "NCCL": "look at the other ranks' logs; NCCL_DEBUG=INFO shows the network that it uses",
    "hardware": "tell who runs the machine; a job of SLURM starts again, and after a second time "
    "without the node",
    "hang": "logs/stacks_rank*.txt has all stacks; hang_timeout_s says how long a rank may stall",
    "bad data": "repair or remove the file, then go on with launch/jobs.py resume",
    "preempted": "its state is saved; launch/jobs.py resume goes on if it is not in the queue",
    "error in code": "step through it with launch/train.py --debug; go on with jobs.py resume",
    "signalled": "it goes on from its last checkpoint; scancel --signal=TERM to the job, without "
    "--full, lets the ranks save first",
    "killed": "somebody or the kernel killed it; a node out of memory kills the largest process",
    "killed here": "somebody or the kernel ended it, as a machine out of memory does with the "
    "largest process; its log has its last words, and jobs.py resume goes on",
    "stopped": "jobs.py resume goes on",
}
# What SLURM writes into the batch script's log when it ends a job whose ranks cannot report it.
SLURM_LINES = (
    (r"oom[-_]kill|Out[ -]Of[ -]Memory", "out of memory", "host memory"),
    (r"DUE TO TIME LIMIT", "time limit", "time limit"),
    (r"DUE TO NODE FAILURE|Node failure on", "node failure", "node failure"),
    (r"DUE TO PREEMPTION", "preempted", "preempted"),
    (r"srun: forcing job termination", "signalled", "signalled"),
)
# The first such line is the cause; srun then ends the other tasks.
TASK = re.compile(r"srun: error: (\S+): tasks? (\d+)[\d,-]*: (.+)")
BY_ITSELF = "Exited with exit code"
# What a driver, CUDA and NCCL say of a GPU that is broken.
BROKEN = re.compile(
    r".*(uncorrectable (ECC|NVLink)|double[ -]bit ECC|fallen off the bus|GPU is lost|NVRM: Xid).*",
    re.IGNORECASE,
)


def diagnose(run_dir: Path) -> Diagnosis | None:
    """What ended the latest start of a run; None if nothing is known to be wrong."""
    events = events_of_last_start(run_dir)
    if any(event["event"] in ("finished", "preempted") for event in events):
        return None
    from_slurm, error = _from_log(_log(run_dir)), first_error(run_dir)
    if (error or from_slurm) and (broken := _broken(run_dir, events)) is not None:
        return broken
    if error is None:
        return from_slurm
    if error["type"] == HANG:
        return _diagnosis("hang", error, REMEDIES["hang"])
    if FOLLOWING.search(_text(error)):
        if read_job(run_dir).get("cluster") == LOCAL:
            return _diagnosis("lost rank", error, REMEDIES["lost rank"])
        return from_slurm or _diagnosis("node failure", error, REMEDIES["node failure"])
    return _from_error(error)


def _broken(run_dir: Path, events: list[dict[str, Any]]) -> Diagnosis | None:
    """A GPU that is broken, as a rank's error or log says; other ranks' errors follow from it."""
    for error in errors(run_dir):
        if BROKEN.search(_text(error)):
            return _diagnosis("hardware", error, REMEDIES["hardware"])
    first = RunFolder(run_dir).log(str(read_job(run_dir).get("job_id")), "*")
    for path in sorted(first.parent.glob(first.name)):
        text = path.read_text(errors="replace")[-TAIL:]
        if found := BROKEN.search(text[max(0, text.rfind(START_MARK)) :]):
            rank = int(path.name.split("_")[-2])
            host, summary = _node_of(run_dir, events, rank), found[0].strip()[:200]
            return Diagnosis("hardware", rank, host, summary, REMEDIES["hardware"])
    return None


def _node_of(run_dir: Path, events: list[dict[str, Any]], rank: int) -> str | None:
    """Where a rank of the latest start has run; None: not known."""
    nodes, gpus = events[0]["nodes"] if events else [], read_job(run_dir).get("gpus") or 1
    return nodes[rank // gpus] if rank // gpus < len(nodes) else None


def _from_error(error: dict[str, Any]) -> Diagnosis:
    text = _text(error)
    if "OutOfMemoryError" in text or "out of memory" in text:
        kind = "out of memory"
    elif error["type"] == "MemoryError" or "DefaultCPUAllocator" in text:
        return _diagnosis("out of memory", error, REMEDIES["host memory"])
    elif re.search(r"\bnccl|DistBackendError|gloo", text, re.IGNORECASE):
        kind = "NCCL"
    elif error["type"] == "RankDied":
        return _diagnosis("killed", error, REMEDIES["killed here"])
    elif error["type"] == "KeyboardInterrupt":
        return _diagnosis("stopped", error, REMEDIES["stopped"])
    elif error["type"] == "DataError" or text.partition(": ")[2].startswith("data."):
        kind = "bad data"
    else:
        kind = "error in code"
    return _diagnosis(kind, error, REMEDIES[kind])


def _diagnosis(kind: str, error: dict[str, Any], remedy: str) -> Diagnosis:
    text = error["message"] if error["for_the_user"] else _text(error)
    summary = (text.strip().splitlines() or [""])[0][:200]
    return Diagnosis(kind, error["rank"], error["host"], summary, remedy)


def _from_log(log: str) -> Diagnosis | None:
    """What SLURM text of the job."""
    task = TASK.search(log)  # None where srun saw no task end badly
    host, rank = (task[1], int(task[2])) if task else (None, None)
    for pattern, kind, remedy in SLURM_LINES:
        if found := re.search(rf".*({pattern}).*", log):
            return Diagnosis(kind, rank, host, found[0].strip()[:200], REMEDIES[remedy])
    if task and not task[3].startswith(BY_ITSELF):
        return Diagnosis("killed", rank, host, task[3].strip(), REMEDIES["killed"])
    return None


def _log(run_dir: Path) -> str:
    """What the batch script and rank 0 have written since the latest start."""
    pattern = RunFolder(run_dir).log("*", 0)
    logs = sorted(pattern.parent.glob(pattern.name), key=lambda path: path.stat().st_mtime)
    text = logs[-1].read_text(errors="replace")[-TAIL:] if logs else ""
    return text[max(0, text.rfind(START_MARK)) :]


def _text(error: dict[str, Any]) -> str:
    return f"{error['type']}: {error['message']}"
