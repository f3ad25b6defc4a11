"""The allocation that a shell is in, after salloc or in a batch script, as settings of a run."""

import os
import re
from collections.abc import Sequence


def allocation_faults(tasks: int) -> list[str]:
    """What keeps the allocation from holding `tasks` on each node."""
    cpus = re.match(r"\d+", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if cpus is None or int(cpus.group()) >= tasks:
        return []
    return [
        f"gpus={tasks}: a task a GPU is started, and this allocation has {cpus.group()} cores on a "
        f"node; ask for it with --ntasks-per-node={tasks}"
    ]


def allocated(settings: Sequence[str]) -> list[str]:
    """`nodes=` and `gpus=` as the allocation has them, where the settings do not say.

    Tasks a node are those that were asked for, else one for each GPU, else one.
    """
    given = {text.partition("=")[0] for text in settings}
    environment = os.environ
    nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
    tasks = re.match(r"\d+", environment.get("SLURM_NTASKS_PER_NODE", ""))
    gpus = re.findall(r"\d+$", environment.get("SLURM_GPUS_PER_NODE", ""))
    count = tasks.group() if tasks else (gpus or [environment.get("SLURM_GPUS_ON_NODE", "1")])[0]
    return [
        f"{key}={value}" for key, value in (("nodes", nodes), ("gpus", count)) if key not in given
    ]
