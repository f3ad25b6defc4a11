"""How fast a training is, what it waits for, and what to set where it waits for its data.

Imports no torch: commands show the same words.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config import DataConfig
from clf.cores import CORES_PER_RANK
from clf.metrics.measures import percent

MUCH = 0.1  # of an epoch's time: more waiting is worth a word
WORTH_S = 5.0  # less waiting in an epoch is not, as in a run of a few steps
BUSY = 0.75  # of the cores' time: more than that, and they are what bounds the loader
NETWORK = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "afs", "pvfs2"}
NETWORK |= {"wekafs", "glusterfs", "fuse.glusterfs", "fuse.ceph", "fuse.sshfs", "fuse.s3fs"}


@dataclass(frozen=True)
class Speed:
    """Of a training, as rank 0 sees it; None: not known yet.

    Attributes:
        now: images a second over all ranks, since the log line before
        average: the same since this start began, evaluations left out
        waiting_share: of the time of the epoch that rank 0 has waited for its loader
        memory_gib: the most that torch has had on rank 0's GPU, or on the CPU the most that the
            whole process of rank 0 has had
        memory_of: "GPU" or "process"
        advice: what to set where it waits too much for its data
    """

    now: float | None = None
    average: float | None = None
    waiting_share: float | None = None
    memory_gib: float | None = None
    memory_of: str = "process"
    advice: str | None = None


def in_words(speed: Mapping[str, Any]) -> list[str]:
    """The numbers of a Speed, each as a person reads it; [] of none."""
    words = []
    if speed.get("now"):
        average = f" ({speed['average']:,.0f} on average)" if speed.get("average") else ""
        words.append(f"{speed['now']:,.0f} images/s{average}")
    if speed.get("waiting_share") is not None:
        words.append(f"waited for data {percent(speed['waiting_share'], digits=0)}")
    if speed.get("memory_gib") is not None:
        words.append(f"{speed['memory_of']} memory {speed['memory_gib']:.2g} GiB")
    return words


def advice(
    share: float, waited_s: float, data: DataConfig, cores: int, cores_busy: float
) -> str | None:
    """What to set so that training waits less for its data; None: it waits little.

    Args:
        share: of an epoch's time that was waiting, which took `waited_s` seconds
        cores: that this rank has
        cores_busy: share of their time in the epoch that this process used
    """
    if share <= MUCH or waited_s < WORTH_S:
        return None
    what = f"training waits for its data {percent(share, digits=0)} of the time (rank 0)"
    return f"{what}: {_remedy(data, cores, cores_busy)}"


def _remedy(data: DataConfig, cores: int, cores_busy: float) -> str:
    """The first of the remedies that fits."""
    cache = data.cache == "none"
    system = file_system(Path(data.root)) if data.root else ""
    if data.threads is not None and data.threads < cores:
        return f"set data.threads=null; it is {data.threads}, and the rank has {cores} cores"
    if cores_busy >= BUSY:
        more = "give it more (slurm.cpus_per_gpu)" if CORES_PER_RANK in os.environ else ""
        less = "set data.cache=ram or disk, which decodes each image once" if cache else ""
        instead = ", or ".join(one for one in (less, more) if one) or "store the images smaller"
        return f"its {cores} cores are busy decoding; {instead}"
    if system in NETWORK and data.stage == "none":
        return (
            f"its cores wait for a network file system ({system}); set data.stage=node, which "
            "copies the data once to the node's own disk"
        )
    if cache:
        return "its cores wait for the disk; set data.cache=ram, which reads each file once"
    return "its cores wait for the disk; tar files and shards read faster than many small files"


def file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """The kind of the file system that a path is on, as Linux calls it; "" elsewhere."""
    if not mounts.is_file():
        return ""
    real = os.path.realpath(path)
    found = ("", "")
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, at, kind, *_ = line.split(" ")
        at = at.replace("\\040", " ")
        if (real == at or real.startswith(at.rstrip("/") + "/")) and len(at) >= len(found[0]):
            found = (at, kind)
    return found[1]
