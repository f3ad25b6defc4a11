"""Disks that are full or read-only, for tests: a small file system in memory where mounting is
allowed, else the same errors from the calls that write."""

import errno
import io
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Disk:
    """A folder on a disk of its own.

    Attributes:
        folder: where the disk is
        is_mounted: whether it is a file system, that other processes see too
    """

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.folder, self.is_mounted = folder, is_mounted

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte more fits."""
        if not self.is_mounted:
            with self._raising(errno.ENOSPC):
                yield
            return
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        if not self.is_mounted:
            with self._raising(errno.EROFS):
                yield
            return
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)
        yield
        subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)

    @contextmanager
    def _raising(self, number: int) -> Iterator[None]:
        """The calls by which Python writes, below the folder."""

        def refuse(path: Any, writes: bool) -> None:
            if writes and str(path).startswith(str(self.folder)):
                raise OSError(number, os.strerror(number), str(path))

        open_file, open_low, make = io.open, os.open, os.mkdir

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            refuse(path, bool(set(mode) & set("wax+")))
            return open_file(path, mode, *args, **kwargs)

        def opened_low(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            refuse(path, bool(flags & WRITING))
            return open_low(path, flags, *args, **kwargs)

        def made(path: Any, *args: Any, **kwargs: Any) -> None:
            refuse(path, not os.path.exists(path))
            make(path, *args, **kwargs)

        with (
            patch.object(io, "open", opened),
            patch("builtins.open", opened),
            patch.object(os, "open", opened_low),
            patch.object(os, "mkdir", made),
        ):
            yield


def why_not_mounted() -> str:
    """What keeps this process from mounting a disk; "" if nothing does."""
    return "" if os.geteuid() == 0 else "only root may mount a small file system (tmpfs)"


@contextmanager
def small_disk(folder: Path, size: str = "8m") -> Iterator[Disk]:
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield Disk(folder, is_mounted)
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", folder], check=True)
