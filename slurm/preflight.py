"""Finds what would end a job hours after it was queued, before it is: all faults at once.

findings = look(cfg, [run_dir])  # asks SLURM, reads the disk, fetches the weights
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from clf.config import RunConfig
from clf.config.faults import Findings, nearest
from clf.config.node_range import least_nodes
from clf.data.generated import is_generated
from clf.tracking.wandb_key import NO_KEY, has_key
from slurm import environment
from slurm.partitions import Partition, partitions
from slurm.queue import ANSWER_S, QueueError
from slurm.script import script

FREE_GIB = 1.0  # two checkpoints, W&B's files and the logs of a small model
# Words of sbatch's message -> the setting that it is about
REFUSALS = {
    "generic resource": "slurm.options.gres",
    "account": "slurm.account",
    "qos": "slurm.qos",
    "feature": "slurm.constraint",
    "node name": "slurm.nodelist",
    "node list": "slurm.nodelist",
    "reservation": "slurm.reservation",
    "dependency": "slurm.dependency",
    "time limit": "slurm.time",
    "partition": "slurm.partition",
}


def look(
    cfg: RunConfig, runs: Sequence[Path], array: Path | None = None, fetch: bool = True
) -> Findings:
    """Everything that is wrong with a resolved config, as far as this machine can see.

    Args:
        runs, array: as for `slurm.script.script`
        fetch: download weights that are not in torch's cache
    """
    found = Findings()
    try:
        found.faults += partition_faults(cfg, partitions())
        if not found.faults and (refusal := refused(script(cfg, runs, array))):
            found.faults.append(refusal)
    except QueueError as error:
        found.faults.append(f"slurm: {error}; is this a login node of the cluster?")
    found.faults += disk_faults(Path(cfg.runs_dir))
    _wandb(cfg, found)
    if fetch:
        found.faults += weights_faults(cfg)
    for key, path in (("data.root", cfg.data.root), ("runs_dir", cfg.runs_dir)):
        if path and _is_local(Path(path)) and not is_generated(cfg.data):
            found.notes.append(
                f"{key}={path} lies among temporary files, which the nodes of most clusters do not "
                "share with this machine"
            )
    return found


def partition_faults(cfg: RunConfig, known: Mapping[str, Partition]) -> Iterator[str]:
    """What a partition cannot give. A list of several (a,b) is left to sbatch."""
    name = cfg.slurm.partition or ""
    if "," in name:
        return
    if name in known:
        part = known[name]
        yield from _limit_faults(cfg, part)
        yield from _gpu_faults(cfg, part)
        yield from _core_faults(cfg, part)
        return
    names = [key for key in known if key]
    if not name:
        yield f"slurm.partition=null: there is no default; give one of {', '.join(names)}"
        return
    guess = nearest(name, names)
    hint = f"; did you mean {guess[0]}?" if guess else ""
    yield f"slurm.partition={name}: expected one of {', '.join(names)}{hint}"


def _limit_faults(cfg: RunConfig, part: Partition) -> Iterator[str]:
    """State, time, nodes and memory."""
    asked, where = cfg.slurm, f"partition {part.name}"
    if part.state != "UP":
        yield f"slurm.partition={part.name}: it is {part.state} and takes no jobs; choose another"
    if asked.time is not None and part.minutes is not None and asked.time > part.minutes:
        yield (
            f"slurm.time={asked.time}: {where} allows {part.minutes} minutes; set "
            f"slurm.time={part.minutes} or less: a run that is not done by then goes on by itself"
        )
    if least_nodes(cfg) > part.nodes:
        yield f"nodes={cfg.nodes}: {where} gives at most {part.nodes}; set nodes={part.nodes}"
    if asked.mem_gb is not None and part.mem_mb and asked.mem_gb * 1024 > part.mem_mb:
        most = part.mem_mb // 1024
        yield (
            f"slurm.mem_gb={asked.mem_gb}: the nodes of {where} have {most} GiB; "
            f"set slurm.mem_gb={most} or less"
        )


def _gpu_faults(cfg: RunConfig, part: Partition) -> Iterator[str]:
    where, gpus = f"partition {part.name}", cfg.gpus or 1
    if cfg.strategy.accelerator == "cpu":
        return
    if part.gpus == 0:
        yield (
            f"strategy.accelerator={cfg.strategy.accelerator}: {where} has no GPUs; set "
            "strategy.accelerator=cpu to train on its CPUs, or another slurm.partition"
        )
    elif gpus > part.gpus:
        yield (
            f"gpus={gpus}: one task is started for each GPU, and the nodes of {where} have "
            f"{part.gpus}; set gpus={part.gpus} and more nodes"
        )


def _core_faults(cfg: RunConfig, part: Partition) -> Iterator[str]:
    gpus, per_gpu = cfg.gpus or 1, cfg.slurm.cpus_per_gpu
    cores = gpus * (per_gpu or 1)
    if not part.cpus or cores <= part.cpus:
        return
    key, value, most = ("gpus", gpus, part.cpus)
    if per_gpu is not None:
        key, value, most = "slurm.cpus_per_gpu", per_gpu, part.cpus // gpus
    yield (
        f"{key}={value}: {cores} cores on a node, and those of partition {part.name} have "
        f"{part.cpus}; set {key}={most} or less"
    )


def refused(text: str) -> str | None:
    """Why SLURM would refuse a batch script, or None; nothing is queued."""
    command = ["sbatch", "--test-only"]
    try:
        done = subprocess.run(
            command,
            input=text,
            env=environment.without_job(os.environ),
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise QueueError(f"{' '.join(command)}: no answer in {ANSWER_S} s") from None
    if done.returncode == 0:
        return None
    message = " ".join(done.stderr.split()) or f"sbatch ended with {done.returncode}"
    key = next((key for word, key in REFUSALS.items() if word in message.lower()), "slurm")
    if option := re.search(r"option '--([\w-]+)", message):
        key = f"slurm.options.{option[1]}"
    return f"{key}: SLURM refuses the job: {message}; `sinfo` shows what there is"


def disk_faults(runs_dir: Path) -> Iterator[str]:
    """Whether the run folder can be created and has room."""
    existing = next(path for path in (runs_dir, *runs_dir.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield f"runs_dir={runs_dir}: {existing} cannot be written to; set another runs_dir"
        return
    free = shutil.disk_usage(existing).free / 2**30
    if free < FREE_GIB:
        yield (
            f"runs_dir={runs_dir}: {free:.2f} GiB are free there, and a run needs {FREE_GIB:g} for "
            "its checkpoints and logs; make room, or set another runs_dir"
        )


def weights_faults(cfg: RunConfig) -> Iterator[str]:
    """Fetches weights that torchvision or timm names into its cache: nodes often have no internet.

    This imports torch. `clf.config.rules` checks a file of the user's.
    """
    weights = cfg.model.weights
    if not (cfg.model.pretrained or weights) or (weights and Path(weights).is_file()):
        return
    from clf.models.build import fetch_weights

    try:
        fetch_weights(cfg)
    except ValueError as error:
        message = str(error)
        yield message if message.startswith("model.") else f"model.weights={weights}: {message}"


def _wandb(cfg: RunConfig, found: Findings) -> None:
    mode = (
        os.environ.get("WANDB_MODE", "auto") if cfg.tracking.mode == "auto" else cfg.tracking.mode
    )
    if mode not in ("auto", "online", "shared"):
        return
    if has_key(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
        return
    if mode != "auto":
        found.faults.append(
            f"tracking.mode={mode}: {NO_KEY}; or set tracking.mode=offline and upload it later"
        )
    else:
        found.notes.append(
            "W&B has no key here: the run is recorded offline; `wandb login`, then "
            "`python launch/jobs.py sync` uploads it"
        )


def _is_local(path: Path) -> bool:
    temporary = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")}
    return any(folder in path.parents for folder in temporary)
