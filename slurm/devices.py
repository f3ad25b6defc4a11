"""How many devices a node has and what this machine can give, found out without importing torch."""

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from clf.config import RunConfig
from clf.config.device_rules import gpu_fault
from clf.config.faults import Findings
from clf.config.node_range import is_elastic, least_nodes
from clf.config.slurm_words import gpus as gpus_in
from clf.cores import usable_cores
from slurm.partitions import gpus_per_node
from slurm.queue import ANSWER_S, QueueError


def has_slurm() -> bool:
    """Whether jobs can be submitted to SLURM from this machine.

    The programs alone are no cluster: without a configuration there is none to submit to.
    """
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        return False
    if "SLURM_CONF" in os.environ or Path("/etc/slurm/slurm.conf").exists():
        return True
    return _looks_for_a_controller(shutil.which("sinfo") or "sinfo")


@functools.cache
def _looks_for_a_controller(sinfo: str) -> bool:
    """Asked once: a command wants to know in several places, and a busy controller is slow."""
    try:
        asked = subprocess.run(
            [sinfo, "-h"], capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # it looked for a controller
    return "configuration source" not in asked.stderr


def local_gpus() -> list[str]:
    """Ids of this machine's GPUs as CUDA_VISIBLE_DEVICES takes them; [] if there are none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [item for item in visible.split(",") if item.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi"):
        listing = _output(["nvidia-smi", "-L"])
        return [str(index) for index in range(len(re.findall(r"^GPU \d+", listing, re.MULTILINE)))]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def devices_per_node(cfg: RunConfig) -> int:
    """`gpus` as given; else all GPUs of a node, or 1 process where there are none.

    Under SLURM a node has the GPUs that `slurm.options.gres` asks for, or those of the partition.
    """
    if cfg.gpus is not None:
        return cfg.gpus
    if cfg.strategy.accelerator == "cpu" or cfg.strategy.name == "single":
        return 1
    if not has_slurm():
        return max(1, len(local_gpus()))
    if asked := gpus_in(str(cfg.slurm.options.get("gres") or "")):
        return asked
    try:
        return max(1, gpus_per_node(cfg.slurm.partition))
    except QueueError:
        return 1  # slurm.preflight asks again and reports it


def resources(cfg: RunConfig) -> Findings:
    """What the run asks for and this machine cannot give; without SLURM only."""
    found = Findings()
    if has_slurm():
        return found
    if least_nodes(cfg) > 1:
        found.faults.append(
            f"nodes={cfg.nodes}: this machine has no SLURM (no sbatch on the PATH), so a run has "
            "one node here; set nodes=1, or submit on a login node of your cluster"
        )
    if is_elastic(cfg):
        found.notes.append(f"nodes={cfg.nodes}: this machine has no SLURM, so the run has 1 node")
    gpus, cores = cfg.gpus or 1, usable_cores()
    if fault := gpu_fault(cfg.strategy.accelerator, gpus, len(local_gpus())):
        found.faults.append(fault)
    elif not uses_gpus(cfg) and gpus > cores:
        found.notes.append(
            f"gpus={gpus}: without GPUs each is a CPU process, and this machine has {cores} cores, "
            f"which they share; gpus={cores} or less is faster"
        )
    return found


def uses_gpus(cfg: RunConfig) -> bool:
    """Whether the run will use GPUs of this machine."""
    return cfg.strategy.accelerator != "cpu" and bool(local_gpus())


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, check=False
        ).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):  # ValueError: a null character in it
        return ""  # as on a machine without the tool
