"""What SLURM's environment variables say about the job that this process is in."""

import os
import re
import socket
from collections.abc import Sequence

from clf.config.slurm_words import gpus
from clf.cores import usable_cores


def job_id() -> str | None:
    """The id of this job, "12" or "12_3" in an array; None outside of SLURM."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often SLURM has put this job into the queue again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def node_name() -> str:
    """The name of this machine; SLURM's own name for it within a job."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def cores_of_task() -> int | None:
    """Cores of this task of a job; None outside of a job, and where its tasks share the cores.

    Where SLURM binds each task to cores of its own, the task sees only these: they are its share
    already.
    """
    on_node = os.environ.get("SLURM_CPUS_ON_NODE")
    if on_node is None or "SLURM_PROCID" not in os.environ:
        return None
    if per_task := os.environ.get("SLURM_CPUS_PER_TASK"):
        return min(int(per_task), usable_cores())
    return usable_cores() if usable_cores() < int(on_node) else None


def allocated(settings: Sequence[str]) -> list[str]:
    """`nodes=` and `gpus=` of the allocation that this shell is in, where the settings give none.

    The tasks on a node are as many as the allocation was asked for, else one for each GPU, else
    one.
    """
    given = {text.partition("=")[0] for text in settings}
    environment = os.environ
    nodes = environment.get("SLURM_JOB_NUM_NODES", "1")
    per_node = re.match(r"\d+", environment.get("SLURM_NTASKS_PER_NODE", ""))
    if per_node:
        tasks = per_node.group()
    elif asked := environment.get("SLURM_GPUS_PER_NODE"):  # 4, or a100:4
        tasks = str(gpus(f"gpu:{asked}"))
    else:
        tasks = environment.get("SLURM_GPUS_ON_NODE", "1")
    found = {"nodes": nodes, "gpus": tasks}
    return [f"{key}={value}" for key, value in found.items() if key not in given]


def allocation_faults(tasks: int) -> list[str]:
    """What keeps the allocation from running `tasks` on each node."""
    cores = re.match(r"\d+", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if cores is None or int(cores.group()) >= tasks:
        return []
    return [
        f"gpus={tasks}: one task is started for each GPU, and this allocation has {cores.group()} "
        f"cores on a node; ask for it with --ntasks-per-node={tasks}"
    ]
