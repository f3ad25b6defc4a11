"""What the partitions of a cluster give to a job, asked of SLURM once in a process."""

import functools
import re
from dataclasses import dataclass

from clf.config.slurm_words import gpus, minutes
from slurm.queue import ask


@dataclass(frozen=True)
class Partition:
    """What a job can have of a partition; None: no limit."""

    name: str
    state: str
    minutes: int | None
    nodes: int  # of one job
    gpus: int  # of the largest node, as cpus and mem_mb
    cpus: int
    mem_mb: int
    fewest_gpus: int = 0  # of the smallest node that has any


@functools.cache
def partitions() -> dict[str, Partition]:
    """All partitions by name, and the default one under "" too.

    Raises:
        QueueError: SLURM does not answer
    """
    found: dict[str, Partition] = {}
    nodes = ask(["sinfo", "-h", "-N", "-a", "-o", "%R|%N|%c|%m|%G"]).splitlines()
    for line in ask(["scontrol", "-o", "-a", "show", "partition"]).splitlines():
        facts = dict(re.findall(r"(\w+)=(\S*)", line))
        name = facts.get("PartitionName", "")
        rows = [row.split("|") for row in nodes if row.startswith(f"{name}|")]
        found[name] = _partition(name, facts, rows)
        if facts.get("Default") == "YES":
            found[""] = found[name]
    return found


def gpus_per_node(asked: str | None) -> int:
    """GPUs of the smallest GPU node of a partition (of several: a,b), 0 if it has none.

    Raises:
        QueueError: SLURM does not answer
    """
    known = partitions()
    names = (asked or "").split(",")
    counts = [known[name].fewest_gpus for name in names if name in known]
    return min((count for count in counts if count), default=0)


def _partition(name: str, facts: dict[str, str], rows: list[list[str]]) -> Partition:
    most = facts.get("MaxNodes", "")
    counts = [gpus(row[4]) for row in rows]
    return Partition(
        name,
        facts.get("State", "UP"),
        minutes(facts.get("MaxTime", "")),
        nodes=min(int(most), len(rows)) if most.isdigit() else len(rows),
        gpus=max(counts, default=0),
        cpus=max((int(row[2].rstrip("+")) for row in rows), default=0),
        mem_mb=max((int(row[3].rstrip("+")) for row in rows), default=0),
        fewest_gpus=min((count for count in counts if count), default=0),
    )
