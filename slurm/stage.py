"""data.stage=node: copies a data set once to each node's own disk, and reads it from there.

cfg = stage(cfg)  # in each task, before the run; data.root is the copy then

The first task of a node copies, and the others wait for it; a second start finds the copy. The
copy is there whole or not at all.
"""

import fcntl
import hashlib
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from clf.atomic import remove_leftovers, write_folder
from clf.config import RunConfig
from clf.data.cache_place import node_disk, own_folder
from clf.data.tar import top_folder
from slurm.environment import node_name

THREADS = 8  # small files wait for a network file system, not for the disk
PROGRESS_S = 5.0  # between lines of progress
MIB = 2**20


def stage(cfg: RunConfig) -> RunConfig:
    """The config with this node's copy as `data.root`; unchanged where nothing is to be copied.

    Raises:
        ValueError: the data set is not there, or does not fit on the node's disk
    """
    data = cfg.data
    if data.stage != "node" or data.root is None:
        return cfg
    source = Path(data.root)
    if not source.exists():
        raise ValueError(f"data.root={source}: does not exist on {node_name()}; set data.root")
    place = own_folder(node_disk(data.stage_dir), "data.stage_dir")
    target = place / f"{source.name}-{_fingerprint(source)}"
    with _locked(place / f".{target.name}.lock"):
        if target.exists():
            print(f"staging: {target} is there already", flush=True)
        else:
            _copy_whole(source, target)
    root = top_folder(target) if source.is_file() else target
    return replace(cfg, data=replace(data, root=str(root), origin=str(source)))


def _fingerprint(source: Path) -> str:
    """A hash that differs after images were added or removed, or after a list of annotations or a
    tar file changed. It covers two levels of folders: split and class."""
    parts = [str(source)]
    endings = ("*.jsonl", "*.csv", "*.tsv", "*.tar")
    patterns = (*endings, *(f"*/{each}" for each in endings), "*/", "*/*/")
    covered = [source, *(path for each in patterns for path in sorted(source.glob(each)))]
    for path in covered:
        facts = path.stat()
        parts.append(f"{path} {facts.st_mtime_ns} {0 if path.is_dir() else facts.st_size}")
    return hashlib.sha256(os.fsencode("\n".join(parts))).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process of the node in at a time; a process that dies frees the lock."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("staging: waiting for another process of this node that is copying", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy_whole(source: Path, target: Path) -> None:
    remove_leftovers(target)
    copy = _unpack if source.is_file() else _copy_folder
    try:
        write_folder(target, lambda folder: copy(source, folder))
    except (OSError, tarfile.TarError) as error:
        raise ValueError(
            f"data.stage=node: {source} was not copied to {target}: {error}"
        ) from error


def _copy_folder(source: Path, target: Path) -> None:
    files = _files(source, target)
    progress = Progress(sum(size for _, _, size in files), source, target)
    with ThreadPoolExecutor(THREADS) as pool:
        for size in pool.map(_copy_file, files):
            progress.at(progress.copied + size)
    progress.done(len(files))


def _files(source: Path, target: Path) -> list[tuple[Path, Path, int]]:
    """Makes the folders and links of the copy, and gives the files to copy with their sizes.

    What links lead to is copied once, and a link within the folder stays one: so the reader of the
    copy sees the links that lead back or to another class, as it would in the folder itself.
    """
    places = {os.path.realpath(source): target}
    files, waiting = [], [(source, target)]
    while waiting:
        folder, inside = waiting.pop()
        inside.mkdir(exist_ok=True)
        for entry in os.scandir(folder):
            copy = inside / entry.name
            if entry.is_symlink() and (link := _link(entry.path, copy, source, places)):
                os.symlink(link, copy)
            elif entry.is_dir():
                waiting.append((Path(entry.path), copy))
            elif entry.is_file():
                files.append((Path(entry.path), copy, entry.stat().st_size))
    return files


def _link(path: str, copy: Path, source: Path, places: dict[str, Path]) -> str | None:
    """Where a link of the copy leads, or None where it becomes a folder or a file.

    Args:
        places: real path of each folder that links lead to -> its copy; a new one is added
    """
    if not os.path.exists(path):
        return os.readlink(path)
    real = Path(os.path.realpath(path))
    for parent in (real, *real.parents):
        if str(parent) in places:
            there = places[str(parent)] / real.relative_to(parent)
            return os.path.relpath(there, copy.parent)
    if source.resolve().is_relative_to(real):
        return os.path.relpath(places[os.path.realpath(source)], copy.parent)
    if real.is_dir():
        places[str(real)] = copy
    return None


def _copy_file(file: tuple[Path, Path, int]) -> int:
    source, target, size = file
    shutil.copyfile(source, target)
    facts = source.stat()
    os.utime(target, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # so a cache knows the copy
    return size


def _unpack(source: Path, target: Path) -> None:
    """Unpacks a tar file, compressed or not; refuses members that would leave the folder."""
    progress = Progress(source.stat().st_size, source, target)
    count = 0
    with source.open("rb") as raw, tarfile.open(fileobj=raw) as file:
        for member in file:
            file.extract(member, target, filter="data")
            count += member.isfile()
            progress.at(raw.tell())
    progress.done(count)


class Progress:
    """Writes lines to the log while data are copied.

    Args:
        total: bytes to copy

    Raises:
        ValueError: the target's disk has no room for them
    """

    def __init__(self, total: int, source: Path, target: Path) -> None:
        free = shutil.disk_usage(target).free
        if total > free:
            raise ValueError(
                f"data.stage=node: {source} has {total / MIB:,.0f} MiB, and {target.parent} has "
                f"{free / MIB:,.0f} MiB free; set data.stage_dir to a larger disk"
            )
        self.total, self.copied = total, 0
        self.started = self.reported = time.monotonic()
        size = f"{total / MIB:,.0f} MiB"
        print(f"staging: {source} ({size}) to {target.parent} on {node_name()}", flush=True)

    def at(self, copied: int) -> None:
        self.copied, now = copied, time.monotonic()
        if now - self.reported >= PROGRESS_S:
            self.reported = now
            share, speed = copied / max(1, self.total), copied / MIB / (now - self.started)
            print(f"staging: {share:.0%}, {speed:,.0f} MiB/s", flush=True)

    def done(self, files: int) -> None:
        seconds = time.monotonic() - self.started
        print(f"staging: {files} files in {seconds:.0f} s", flush=True)
