"""How many devices a node has and what this machine can give, found out without importing torch."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from clf.config import RunConfig
from clf.cores import usable_cores

QUERY_TIMEOUT_S = 20


def has_slurm() -> bool:
    """Whether jobs can be submitted to SLURM from this machine.

    The programs alone do not make a cluster: without any configuration there is nowhere to go.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        return False
    if "SLURM_CONF" in os.environ or Path("/etc/slurm/slurm.conf").exists():
        return True
    try:
        asked = subprocess.run(
            ["sinfo", "-h"], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # it looked for a controller
    return "configuration source" not in asked.stderr


def local_gpus() -> list[str]:
    """Ids of this machine's GPUs, as CUDA_VISIBLE_DEVICES takes them; [] on a machine without
    any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [item for item in visible.split(",") if item.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi"):
        listing = _output(["nvidia-smi", "-L"])
        return [str(index) for index in range(len(re.findall(r"^GPU \d+", listing, re.MULTILINE)))]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def devices_per_node(cfg: RunConfig) -> int:
    """`gpus` as given; else all GPUs of a node, or 1 process where there are none.

    Under SLURM a node is one of the partition asked for (the default one otherwise).
    """
    if cfg.gpus is not None:
        return cfg.gpus
    if cfg.strategy.accelerator == "cpu" or cfg.strategy.name == "single":
        return 1
    return max(1, slurm_gpus(cfg.slurm.partition) if has_slurm() else len(local_gpus()))


def slurm_gpus(partition: str | None) -> int:
    """GPUs of the smallest GPU node of a partition, 0 if it has none."""
    where = ["-p", partition] if partition else []
    listing = _output(["sinfo", "-h", "-N", "-o", "%P|%G", *where])
    counts = []
    for line in listing.splitlines():
        name, _, resources = line.strip().partition("|")
        if partition is None and not name.endswith("*"):
            continue  # the default partition is marked with a star
        counts += [int(count) for count in re.findall(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources)]
    return min(counts, default=0)


def resource_faults(cfg: RunConfig) -> list[str]:
    """What is asked for and this machine cannot give, in the form of `clf.config.rules`."""
    if has_slurm():
        return []
    faults = []
    gpus = len(local_gpus())
    if cfg.nodes > 1:
        faults.append(
            f"nodes={cfg.nodes}: this machine has no SLURM (no sbatch on the PATH), so a run has "
            "one node here; set nodes=1, or submit on a login node of your cluster"
        )
    if cfg.strategy.accelerator == "gpu" and gpus == 0:
        faults.append(
            "strategy.accelerator=gpu: no GPU was found on this machine; "
            "set strategy.accelerator=auto to use the CPU"
        )
    elif cfg.strategy.accelerator != "cpu" and 0 < gpus < (cfg.gpus or 1):
        faults.append(
            f"gpus={cfg.gpus}: this machine has {gpus}; set gpus={gpus} or less"
            " (or strategy.accelerator=cpu for CPU processes)"
        )
    elif cfg.gpus and (gpus == 0 or cfg.strategy.accelerator == "cpu"):
        cores = usable_cores()
        if cfg.gpus > cores:
            faults.append(
                f"gpus={cfg.gpus}: without GPUs each is a CPU process, and this machine has "
                f"{cores} cores; set gpus={cores} or less"
            )
    return faults


def uses_gpus(cfg: RunConfig) -> bool:
    """Whether the run will take GPUs of this machine."""
    return cfg.strategy.accelerator != "cpu" and bool(local_gpus())


def cores_of_task() -> int | None:
    """Cores of this task of a SLURM job; None outside of one, and where its tasks share them.

    Where SLURM binds each task to cores of its own, those that the task sees are not to be shared
    out once more.
    """
    on_node = os.environ.get("SLURM_CPUS_ON_NODE")
    if on_node is None or "SLURM_PROCID" not in os.environ:
        return None
    if asked := os.environ.get("SLURM_CPUS_PER_TASK"):
        return min(int(asked), usable_cores())
    return usable_cores() if usable_cores() < int(on_node) else None


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        ).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: a null character in it
        return ""  # no answer: as on a machine without the tool
