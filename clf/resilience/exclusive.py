"""Files that one process alone creates, and how old a file is by its file system's own clock: for
folders that several machines share. Imports no torch."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clf.atomic import beside


def mark(path: Path) -> tuple[int, int] | None:
    """What every renewal of a file changes; None: there is no such file."""
    try:
        # Opening asks the server; a mere stat may be answered from an NFS client's memory.
        with path.open("rb") as file:
            facts = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def age(path: Path) -> float | None:
    """Seconds since a file was renewed, by the clock of the file system that it is on; None:
    there is none. Negative where that clock has jumped back since."""
    last = mark(path)
    if last is None:
        return None
    probe = beside(path)
    try:
        with written(probe, b""):
            now = probe.stat().st_mtime
    except OSError:  # a folder that may only be read
        now = time.time()
    return now - last[1] / 1e9


@contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """A private file, until the end of the block or until it has been renamed.

    Raises:
        FileExistsError: it is there already
    """
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield
    finally:
        path.unlink(missing_ok=True)


def create(path: Path, content: bytes) -> bool:
    """Create a private file with its content, in one act; whether it was not there."""
    temporary = beside(path)
    with written(temporary, content):
        try:
            os.link(temporary, path)
        except FileExistsError:  # which over NFS may also answer the repetition of a lost question
            return os.stat(temporary).st_nlink == 2
        except OSError:  # no hard links here; a reader may meet the file before its content
            return _create_in_place(path, content)
    return True


def _create_in_place(path: Path, content: bytes) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    return True
