"""What would end a job hours later in the queue, looked for before it is queued: all of it at once.

findings = look(cfg, [run_dir])  # asks SLURM, reads the disk, fetches the weights
"""

import importlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clf.config import RunConfig
from clf.config.faults import nearest
from clf.data.generated import is_generated
from slurm.queue import ANSWER_S, QueueError, ask
from slurm.script import script

FREE_GIB = 1.0  # two checkpoints, W&B's files and the logs of a small model
# sbatch's message -> the setting that it is about
REFUSALS = {
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


@dataclass
class Findings:
    """`faults` as in `clf.config.rules`; `notes` may be as they are meant."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Partition:
    """What a job can have; None: no limit."""

    name: str
    state: str
    minutes: int | None
    nodes: int  # of a job
    gpus: int  # of the largest node, as cpus and mem_mb
    cpus: int
    mem_mb: int


def look(
    cfg: RunConfig, runs: Sequence[Path], array: Path | None = None, fetch: bool = True
) -> Findings:
    """Everything wrong with a resolved config, as far as it can be seen from here.

    Args:
        runs, array: as for `slurm.script.script`
        fetch: download weights that are not there
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


def partitions() -> dict[str, Partition]:
    """All partitions by name; the default one under "" too. Raises QueueError."""
    found: dict[str, Partition] = {}
    nodes = ask(["sinfo", "-h", "-N", "-a", "-o", "%R|%N|%c|%m|%G"])
    for line in ask(["scontrol", "-o", "-a", "show", "partition"]).splitlines():
        fields = dict(re.findall(r"(\w+)=(\S*)", line))
        name = fields.get("PartitionName", "")
        rows = [row.split("|") for row in nodes.splitlines() if row.startswith(f"{name}|")]
        most = fields.get("MaxNodes", "")
        made = Partition(
            name,
            fields.get("State", "UP"),
            _minutes(fields.get("MaxTime", "")),
            min(int(most), len(rows)) if most.isdigit() else len(rows),
            max((_gpus(row[4]) for row in rows), default=0),
            max((int(row[2].rstrip("+")) for row in rows), default=0),
            max((int(row[3].rstrip("+")) for row in rows), default=0),
        )
        found[name] = made
        if fields.get("Default") == "YES":
            found[""] = made
    return found


def partition_faults(cfg: RunConfig, known: dict[str, Partition]) -> Iterator[str]:
    """What a partition cannot give. Of several (a,b) nothing is told here: sbatch knows."""
    asked = cfg.slurm
    name = asked.partition or ""
    if "," in name:
        return
    if name not in known:
        names = [key for key in known if key]
        if not name:
            yield f"slurm.partition=null: there is no default; give one of {', '.join(names)}"
            return
        guess = nearest(name, names)
        hint = f"; did you mean {guess[0]}?" if guess else ""
        yield f"slurm.partition={name}: expected one of {', '.join(names)}{hint}"
        return
    part = known[name]
    where, gpus = f"partition {part.name}", cfg.gpus or 1
    if part.state != "UP":
        yield f"slurm.partition={part.name}: it is {part.state} and takes no jobs; choose another"
    if asked.time is not None and part.minutes is not None and asked.time > part.minutes:
        yield (
            f"slurm.time={asked.time}: {where} allows {part.minutes} minutes; set "
            f"slurm.time={part.minutes} or less: a run that is not done by then goes on by itself"
        )
    if cfg.nodes > part.nodes:
        yield f"nodes={cfg.nodes}: {where} gives at most {part.nodes}; set nodes={part.nodes}"
    if cfg.strategy.accelerator != "cpu":
        if part.gpus == 0:
            yield (
                f"strategy.accelerator={cfg.strategy.accelerator}: {where} has no GPUs; set "
                "strategy.accelerator=cpu to train on its CPUs, or another slurm.partition"
            )
        elif gpus > part.gpus:
            yield (
                f"gpus={gpus}: a task a GPU is started, and the nodes of {where} have {part.gpus}; "
                f"set gpus={part.gpus} and more nodes"
            )
    cores = gpus * (asked.cpus_per_gpu or 1)
    if part.cpus and cores > part.cpus:
        key = "gpus" if asked.cpus_per_gpu is None else "slurm.cpus_per_gpu"
        value = gpus if asked.cpus_per_gpu is None else asked.cpus_per_gpu
        most = part.cpus if asked.cpus_per_gpu is None else part.cpus // gpus
        yield (
            f"{key}={value}: {cores} cores on a node, and those of {where} have {part.cpus}; "
            f"set {key}={most} or less"
        )
    if asked.mem_gb is not None and part.mem_mb and asked.mem_gb * 1024 > part.mem_mb:
        most = part.mem_mb // 1024
        yield (
            f"slurm.mem_gb={asked.mem_gb}: the nodes of {where} have {most} GiB; "
            f"set slurm.mem_gb={most} or less"
        )


def refused(text: str) -> str | None:
    """What SLURM has against a batch script, or None; nothing is queued."""
    command = ["sbatch", "--test-only"]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise QueueError(f"{' '.join(command)}: no answer in {ANSWER_S} s") from None
    if done.returncode == 0:
        return None
    said = " ".join(done.stderr.split()) or f"sbatch ended with {done.returncode}"
    key = next((key for word, key in REFUSALS.items() if word in said.lower()), "slurm")
    return f"{key}: SLURM refuses the job: {said}; `sinfo` shows what there is"


def disk_faults(runs_dir: Path) -> Iterator[str]:
    """Whether the run folder can be made and has room."""
    there = next(path for path in (runs_dir, *runs_dir.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        yield f"runs_dir={runs_dir}: {there} cannot be written to; set another runs_dir"
        return
    free = shutil.disk_usage(there).free / 2**30
    if free < FREE_GIB:
        yield (
            f"runs_dir={runs_dir}: {free:.2f} GiB are free there, and a run needs {FREE_GIB:g} for "
            "its checkpoints and logs; free some, or set another runs_dir"
        )


def weights_faults(cfg: RunConfig) -> Iterator[str]:
    """Fetches weights that torchvision names into torch's cache: nodes often have no internet.

    This imports torch. A file of the user's is looked at by `clf.config.rules`.
    """
    weights = cfg.model.weights
    if not (cfg.model.pretrained or weights) or (weights and Path(weights).is_file()):
        return
    module, _, name = cfg.model._target_.rpartition(".")
    fetch = getattr(getattr(importlib.import_module(module), name), "fetch_weights", None)
    if fetch is None:
        return  # a model of the user's own, which knows itself where its weights are
    try:
        fetch(weights)
    except ValueError as error:
        said = str(error)
        yield said if said.startswith("model.") else f"model.weights={weights}: {said}"


def _wandb(cfg: RunConfig, found: Findings) -> None:
    from clf.tracking.wandb_key import NO_KEY, has_key

    mode = (
        os.environ.get("WANDB_MODE", "auto") if cfg.tracking.mode == "auto" else cfg.tracking.mode
    )
    if mode not in ("auto", "online"):
        return
    if has_key(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")):
        return
    if mode == "online":
        found.faults.append(
            f"tracking.mode=online: {NO_KEY}; or set tracking.mode=offline and upload it later"
        )
    else:
        found.notes.append(
            "W&B has no key here: the run is recorded offline; `wandb login`, then "
            "`python launch/jobs.py sync` uploads it"
        )


def _is_local(path: Path) -> bool:
    temporary = {Path(tempfile.gettempdir()), Path("/tmp"), Path("/dev/shm")}
    return any(folder in path.parents for folder in temporary)


def _gpus(resources: str) -> int:
    return sum(int(count) for count in re.findall(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources))


def _minutes(text: str) -> int | None:
    """SLURM's [days-]hours:minutes:seconds; None for UNLIMITED."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + minutes
