"""Writes files and folders completely or not at all, even if the process is killed.

    write_text(path, text)
    write_file(path, lambda temporary: torch.save(checkpoint, temporary))
    write_folder(path, lambda temporary: shutil.copytree(source, temporary, dirs_exist_ok=True))

Each is written under another name beside its target and then renamed, so that a reader never meets
half of it. What a killed process left behind ends in `.part`.

    writer = PatientWriter()  # for a training that must outlive a full disk
    written = writer.write(path, lambda: write_text(path, text))
"""

import contextlib
import errno
import os
import re
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

UNFINISHED = r"^\..+\.[0-9a-f]{8}\.part$"  # what `beside` names


def write_text(path: Path, text: str) -> None:
    """Replace the file by `text` in UTF-8; line ends stay as they are, and so do the bytes of
    names that are no UTF-8, as `os.listdir` gives them."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")

    write_file(path, write)


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Replace the file `path` by the one that `write` creates at the temporary path it is given.

    The content is on the disk before the rename: after a power cut there is the old file or the
    new one. If `write` raises an error, the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)  # the rename itself


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, on a line of its own also if what is there ends in half of one.

    Raises:
        OSError: the file is as it was
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        is_cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = ("\n" * is_cut + line + "\n").encode()
        if (written := os.write(descriptor, content)) < len(content):
            with contextlib.suppress(OSError):
                if os.fstat(descriptor).st_size == size + written:  # no other process has added
                    os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)


def link_file(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`, or a copy where there are no hard links."""

    def make(temporary: Path) -> None:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    write_file(target, make)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` from the temporary one, private and empty, that `fill` is given.

    Raises:
        OSError: `path` is there already and is not an empty folder; it stays as it is
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    temporary.mkdir(mode=0o700)
    try:
        fill(temporary)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync(path.parent)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left of the folder `path`, which no process may still write."""
    for left in path.parent.glob(f".{path.name}.*.part"):
        shutil.rmtree(left)


def remove_unfinished(folder: Path, older_than_s: float = 60) -> None:
    """Delete the files that killed processes left half written in a folder and its subfolders. A
    younger one may be in the making."""
    for path in folder.rglob(".*.part"):
        if re.search(UNFINISHED, path.name) and path.is_file():
            with contextlib.suppress(OSError):  # another process has finished it; a read-only disk
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Files that are written within, by this process and those that it starts, can be read by their
    owner alone. Also a decorator: `@private_files()`."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


class Unwritten(OSError):
    """Files that a run has made and that its disk has not taken.

    Args:
        missing: path -> why
        folder: of the run
    """

    def __init__(self, missing: Mapping[Path, str], folder: Path) -> None:
        files = ", ".join(
            f"{os.path.relpath(path, folder)} ({why})" for path, why in sorted(missing.items())
        )
        count = "1 file" if len(missing) == 1 else f"{len(missing)} files"
        super().__init__(
            f"{count} of {folder} could not be written, so what is there is old or incomplete: "
            f"{files}. Make the disk writable (df -h {folder}; df -i {folder}; ls -ld {folder})"
        )


class PatientWriter:
    """Writes files for a training that goes on while its disk is full or read-only.

    What fails is warned of once a minute at most, whatever the number of files. A write that is
    `kept` is tried again by `retry`; for another one the caller does that. Threads may share it.

    Attributes:
        missing: path -> why its latest content is not on the disk
    """

    WARN_EVERY_S = 60.0

    def __init__(self) -> None:
        self.missing: dict[Path, str] = {}
        self._kept: dict[Path, Callable[[], object]] = {}
        self._warned: float | None = None  # seconds of the monotonic clock
        self._failures = 0
        self._lock = threading.Lock()

    def write(self, path: Path, write: Callable[[], object], keep: bool = False) -> bool:
        """Whether the file is written. An OSError of `write` is none of the caller's.

        Args:
            path: the file, for the warning
            write: writes all of it or leaves the old one, as the functions of this module do
            keep: leave `write` to `retry`, unless a later one of this path comes first
        """
        try:
            write()
        except OSError as problem:
            self._failed(path, problem, write if keep else None)
            return False
        with self._lock:
            self._kept.pop(path, None)
            self.missing.pop(path, None)
        return True

    @property
    def waiting(self) -> list[tuple[Path, str]]:
        """What `retry` would write, each with the reason why it was not."""
        return [(path, self.missing.get(path, "")) for path in list(self._kept)]

    def retry(self) -> bool:
        """Try what was kept once more, in order; whether nothing is missing now."""
        for path, write in list(self._kept.items()):
            self.write(path, write, keep=True)
        return not self.missing

    def lacking(self, folder: Path) -> "Unwritten | None":
        """For the end of the run of that folder: try what was kept once more. The error that says
        what is missing; None if nothing is."""
        return None if self.retry() else Unwritten(self.missing, folder)

    def _failed(self, path: Path, problem: OSError, keep: Callable[[], object] | None) -> None:
        with self._lock:
            self.missing[path] = reason(problem)
            self._failures += 1
            if keep is not None:
                self._kept[path] = keep
            now, others = time.monotonic(), len(self.missing) - 1
            if self._warned is not None and now - self._warned < self.WARN_EVERY_S:
                return
            self._warned = now
        more = f", and {others} other file{'s' if others > 1 else ''}" if others else ""
        # The number makes each text another one: Python shows a warning once only.
        warnings.warn(
            f"{path}{more} cannot be written (failure {self._failures}): {reason(problem)}. The "
            f"training goes on, and tries again. {remedy(problem, path)}",
            stacklevel=3,
        )


def say(text: str) -> None:
    """Print a line. A full disk under the log loses it, and ends nothing."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def reason(problem: OSError) -> str:
    """What the system says, without the name of a temporary file."""
    return problem.strerror or str(problem)


def remedy(problem: OSError, path: Path) -> str:
    """What a user can do so that the file can be written."""
    folder = path.parent
    if problem.errno == errno.ENOSPC:
        return f"Make space on that disk: df -h {folder}; df -i {folder}"
    if problem.errno == errno.EDQUOT:
        return "Your quota is used up: delete files there, or ask for more"
    if problem.errno == errno.EROFS:
        return f"That disk is read-only: mount it for writing, or see why it is: mount; ls {folder}"
    if problem.errno in (errno.EACCES, errno.EPERM):
        return f"Let this user write there: ls -ld {folder}"
    return f"See what is wrong with that disk: ls -ld {folder}; df -h {folder}"


def beside(path: Path) -> Path:
    """A new name in the folder of `path`; `remove_unfinished` deletes what is left under it."""
    # Not the process id: two nodes that share a file system may have the same one.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
