"""What SLURM's environment variables say about the job that this process is in, and what is left
over in a shell from a job that it does not belong to."""

import os
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from clf.config.slurm_words import gpus
from clf.cores import usable_cores

# What SLURM sets in an allocation, a step or a task, and what its srun would take for a wish. Not
# what a user or a site may set for all jobs, such as SLURM_CONF, SLURM_JWT or SLURM_MPI_TYPE.
OF_A_JOB = re.compile(
    r"SLURM_(ARRAY_|CLUSTER_NAME$|CPUS?_|DISTRIBUTION$|EXPORT_ENV$|GPUS?_|GPUS$|GTIDS$|HET_|JOBID$"
    r"|JOB_|LAUNCH_NODE|LOCALID$|MEM_|NNODES$|NODEID$|NODELIST$|NODE_ALIASES$|NPROCS$|NTASKS"
    r"|OVERCOMMIT$|PRIO_PROCESS$|PROCID$|PTY_|RESTART_COUNT$|RLIMIT_|SCRIPT_CONTEXT$|SRUN_COMM_"
    r"|STEP|SUBMIT_|TASK|THREADS_PER_CORE$|TOPOLOGY_|TRES_|UMASK$|WORKING_CLUSTER$)"
)
# Of these, what may be a wish of the user for all jobs, where the shell is in none.
WISHES = re.compile(r"SLURM_(CPU_BIND|DISTRIBUTION|GPU_BIND|MEM_BIND|OVERCOMMIT|THREADS_PER_CORE)")
# What Lightning, DeepSpeed and torch read as the place of a process among others.
OF_A_RANK = re.compile(
    r"(LOCAL_|GROUP_|NODE_|ROLE_)?RANK$|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE$|MASTER_(ADDR|PORT)$"
    r"|JSM_NAMESPACE_|TORCHELASTIC_|SLURM_(PROCID|LOCALID|NODEID|NTASKS|NPROCS)$"
)


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


def node_list() -> str:
    """The nodes of this step of a job, which may be fewer than the job has; else of the job."""
    return os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")


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


def allocation_faults(nodes: int, tasks: int) -> list[str]:
    """What keeps the allocation from running `tasks` on each of at least so many nodes."""
    there = int(os.environ.get("SLURM_JOB_NUM_NODES", nodes))
    if there < nodes:
        return [f"nodes={nodes}: this allocation has {there}; set nodes={there}, or leave it out"]
    cores = re.match(r"\d+", os.environ.get("SLURM_JOB_CPUS_PER_NODE", ""))
    if cores is None or int(cores.group()) >= tasks:
        return []
    return [
        f"gpus={tasks}: one task is started for each GPU, and this allocation has {cores.group()} "
        f"cores on a node; ask for it with --ntasks-per-node={tasks}"
    ]


def without_job(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without what belongs to a job or a rank: that of a new job. With the
    SLURM_MEM_PER_CPU of the shell's allocation, for one, srun ends a job that asks for memory by
    the node."""
    in_job = "SLURM_JOB_ID" in environment or "SLURM_JOBID" in environment
    left = {name for name in environment if OF_A_JOB.match(name) or OF_A_RANK.match(name)}
    kept = set() if in_job else {name for name in left if WISHES.match(name)}
    return {name: text for name, text in environment.items() if name not in left - kept}


def forget_ranks() -> list[str]:
    """Take out of this process's environment what would make it one rank of several; a note of
    what was there."""
    found = [name for name in os.environ if OF_A_RANK.match(name)]
    said = {name: os.environ.pop(name) for name in found}
    telling = [
        f"{name}={said[name]}"
        for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "WORLD_SIZE")
        if said.get(name) not in (None, "1" if name == "WORLD_SIZE" else "0")
    ]
    if not telling:
        return []
    verb = "is" if len(telling) == 1 else "are"
    return [
        f"{', '.join(telling)} {verb} left over in this shell; this command is one process, and "
        "goes by none of it"
    ]


def many_of_this() -> str | None:
    """The fault of a command that torchrun or srun has started several times; None if it was not.

    What these set may be left over in a shell: the processes of srun have a slurmstepd above them.
    """
    environment = os.environ
    count, starter = 1, ""
    if "TORCHELASTIC_RUN_ID" in environment:
        count, starter = _number("WORLD_SIZE"), "torchrun"
    elif "SLURM_PTY_PORT" not in environment and "slurmstepd" in _ancestors():
        count, starter = _number("SLURM_STEP_NUM_TASKS"), "srun"
    if count < 2:
        return None
    here = " (--inside-job: in this allocation)" if "SLURM_JOB_ID" in environment else ""
    return (
        f"{starter} has started this command {count} times, and each would be a run of its own; "
        f"start it once, with `python launch/submit.py`, which starts a process for each device"
        f"{here}"
    )


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 1


def _ancestors() -> list[str]:
    """The names of the processes above this one; [] where there is no /proc to read them from."""
    names, process = [], os.getppid()
    while process > 1:
        try:
            facts = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            break
        name, _, fields = facts.partition("(")[2].rpartition(")")
        names.append(name)
        process = int(fields.split()[1])
    return names
