"""`RUN/logs/events.jsonl`: what became of each start of a job, one JSON object a line.

time (seconds since 1970), event ("start", "preempted", "requeued", "ended", "failed",
"finished"), job_id, restart (0 for the first start), nodes, reason, epoch, step
(where a start left if it was preempted; where it had begun if it then was requeued, ended or
failed). Imports no torch.
"""

import json
import os
import time
from pathlib import Path
from typing import Any


def record(run_dir: Path, event: str, **fields: Any) -> None:
    """Add a line; a kill in between leaves no half line that would be read."""
    line = {
        "time": time.time(),
        "event": event,
        "job_id": job_id(),
        "restart": restart(),
        "nodes": nodes(),
        "reason": None,
        "epoch": None,
        "step": None,
        **fields,
    }
    path = run_dir / "logs" / "events.jsonl"
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(run_dir: Path) -> list[dict[str, Any]]:
    """All events in order; a last line that a full disk cut is left out."""
    path = run_dir / "logs" / "events.jsonl"
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def last_start(run_dir: Path) -> list[dict[str, Any]]:
    """The events of the latest start."""
    events = read(run_dir)
    begins = [place for place, event in enumerate(events) if event["event"] == "start"]
    return events[begins[-1] :] if begins else events


def job_id() -> str | None:
    """SLURM's id of this job, "12" or "12_3" in an array; None outside of SLURM."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restart() -> int:
    """How often SLURM has put this job into the queue again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def nodes() -> list[str]:
    """Names of the job's nodes; [] outside of SLURM."""
    from submitit.slurm.slurm import _parse_node_list

    return _parse_node_list(os.environ.get("SLURM_JOB_NODELIST", ""))
