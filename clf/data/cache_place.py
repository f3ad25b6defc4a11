"""Where decoded images are kept (data.cache): the folder of this node, the room in it, and the
locks by which processes agree who writes there, who reads, and who may delete.

What is kept under a name is four files: NAME.pixels and NAME.rows, NAME.json, which is written last
and says that they are whole, and NAME.users. Whoever reads or writes holds a shared lock on
NAME.users, and the system takes it from a process that dies. So a name whose lock nobody holds
belongs to nobody: `sweep` deletes it in memory, and on a disk if it is not whole.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from clf.atomic import reason, remedy, remove_unfinished, say
from clf.config import DataConfig
from clf.data.reader import DataError

MEMORY = Path("/dev/shm")
ENDINGS = (".json", ".pixels", ".rows", ".build", ".users")  # in the order of their deletion
POLL_S = 0.2
SAY_EVERY_S = 60
SILENT_S = 600  # a builder that has written nothing for so long is given up


def own_folder(base: str | Path, setting: str) -> Path:
    """A folder on this node that belongs to this user alone; made if it is not there.

    Raises:
        ValueError: it belongs to somebody else; names the setting that chooses another one
        OSError: it cannot be made
    """
    place = Path(base).expanduser() / f"clf-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.is_symlink() or place.stat().st_uid != os.getuid():
        raise ValueError(f"{setting}: {place} belongs to somebody else; set another folder")
    return place


def node_disk(folder: str | None) -> str:
    """A folder on the node's own disk."""
    return folder or os.environ.get("SLURM_TMPDIR") or tempfile.gettempdir()


def known_folder(cfg: DataConfig) -> Path:
    """The folder in which this user's decoded images are kept; it may not be there."""
    return Path(_base(cfg)).expanduser() / f"clf-{os.getuid()}" / "cache"


def _base(cfg: DataConfig) -> str:
    return cfg.cache_dir or (node_disk(None) if cfg.cache == "disk" else str(MEMORY))


def cache_folder(cfg: DataConfig) -> Path:
    """The same, made if it is not there; DataError: it cannot be had."""
    base = _base(cfg)
    given = f"data.cache={cfg.cache}"
    if cfg.cache != "disk" and cfg.cache_dir is None and not MEMORY.is_dir():
        raise DataError(
            f"{given}: this machine has no {MEMORY}, which all processes share; set data.cache_dir "
            "to a folder in memory, data.cache=disk, or data.cache=none"
        )
    try:
        folder = own_folder(base, "data.cache_dir") / "cache"
        folder.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise DataError(
            f"{given}: nothing can be written in {base} ({reason(error)}); set data.cache_dir to "
            "another folder of this node, or data.cache=none"
        ) from error
    return folder


def free_bytes(folder: Path, kind: str) -> int:
    """How much could still be written there; in memory no more than this process may have."""
    free = shutil.disk_usage(folder).free
    return free if kind == "disk" else min([free, *_free_memory()])


def _free_memory() -> Iterator[int]:
    """Of the machine, and of each control group that this process is in: SLURM gives a job one."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        yield int(next(one for one in lines if one.startswith("MemAvailable")).split()[1]) * 1024
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                top, limit, used = "/sys/fs/cgroup", "memory.max", "memory.current"
            elif "memory" in controllers.split(","):
                top, limit = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
                used = "memory.usage_in_bytes"
            else:
                continue
            inside = Path(f"{top}{path}")
            while len(inside.parts) >= len(Path(top).parts):
                with contextlib.suppress(OSError, ValueError):  # "max" says that there is none
                    yield _left(inside, limit, used)
                inside = inside.parent


def _left(group: Path, limit: str, used: str) -> int:
    most, now = int((group / limit).read_text()), int((group / used).read_text())
    files = 0  # cached pages of files, which the system gives back
    for line in (group / "memory.stat").read_text().splitlines():
        if line.startswith(("inactive_file ", "total_inactive_file ")):
            files = int(line.split()[1])
    return max(0, most - now + files)


def hold(path: Path) -> int:
    """A shared lock on NAME.users: while this process has it, nobody deletes what it names.

    Returns:
        the open file; closing it gives the lock back
    """
    while True:
        file = _open(path)
        fcntl.flock(file, fcntl.LOCK_SH)  # whoever deletes holds it for a moment
        if _is_still(path, file):
            return file
        os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_still(path: Path, file: int) -> bool:
    """Whether the open file is the one at the path, which somebody may have deleted since."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file))
    except FileNotFoundError:
        return False


def release(path: Path, file: int, delete: bool) -> None:
    """Give the lock back.

    Args:
        delete: what it names, if no other process holds it
    """
    try:
        if delete:
            _delete_unless_held(path, file)
    finally:
        os.close(file)


def _delete_unless_held(path: Path, file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    if not _is_still(path, file):
        return False
    for ending in ENDINGS:
        path.with_suffix(ending).unlink(missing_ok=True)
    return True


def sweep(folder: Path, whole_too: bool) -> None:
    """Delete what no process holds: all of it, or what a killed process has left half written."""
    for path in sorted(folder.glob("*.users")):
        if not whole_too and path.with_suffix(".json").exists():
            continue
        with contextlib.suppress(FileNotFoundError):
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            release(path, file, delete=True)
    remove_unfinished(folder)


def sweep_memory() -> None:
    """Delete what killed runs of this user have left in memory, whatever this run asks for."""
    folder = MEMORY / f"clf-{os.getuid()}" / "cache"
    with contextlib.suppress(OSError):
        sweep(folder, whole_too=True)


@contextmanager
def building(path: Path, is_there: Callable[[], bool], leave: Callable[[], bool]) -> Iterator[bool]:
    """Lets one process of the node in at a time; the lock of one that dies goes to the next.

    Args:
        path: NAME.users, which this process holds
        is_there: whether another process has written it all by now
        leave: whether this process was asked to leave, so that it must not wait any longer

    Yields:
        whether this process is to write it

    Raises:
        DataError: the process that writes it has written nothing for `SILENT_S`
    """
    file = _open(path.with_suffix(".build"))
    try:
        yield _wait(path.with_suffix(".pixels"), file, is_there, leave) and not is_there()
    finally:
        os.close(file)


def _wait(pixels: Path, file: int, is_there: Callable[[], bool], leave: Callable[[], bool]) -> bool:
    """Whether this process got the lock; False: it need not, or must leave."""
    began = said = changed = time.monotonic()
    size = -1
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise DataError(
                    f"data.cache: {pixels.parent} takes no locks ({reason(error)}), by which "
                    "processes agree who writes there; set data.cache_dir to a folder of this "
                    f"node's own disk. {remedy(error, pixels)}"
                ) from error
        if is_there() or leave():
            return False
        now, before = time.monotonic(), size
        with contextlib.suppress(FileNotFoundError):
            size = pixels.stat().st_size
        if size != before:
            changed = now
        if now - changed > SILENT_S:
            raise DataError(
                f"data.cache: another process of this node decodes the images to {pixels} and has "
                f"written nothing for {SILENT_S // 60} min; end it (fuser {pixels}), or set "
                "data.cache=none"
            )
        if now - said > SAY_EVERY_S:
            said = now
            minutes = (now - began) / 60
            say(f"cache: waiting for another process, which decodes: {minutes:.0f} min")
        time.sleep(POLL_S)
