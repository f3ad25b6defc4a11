"""Writes files and folders completely or not at all, even if the process is killed.

    write_text(path, text)
    write_file(path, lambda temporary: torch.save(checkpoint, temporary))
    write_folder(path, lambda temporary: shutil.copytree(source, temporary, dirs_exist_ok=True))

Each is written under another name beside its target and then renamed, so that a reader never meets
half of it. What a killed process left behind ends in `.part`.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path

UNFINISHED = r"^\..+\.[0-9a-f]{8}\.part$"  # what `_beside` names


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
    temporary = _beside(path)
    try:
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)  # the rename itself


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
    temporary = _beside(path)
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
            with contextlib.suppress(FileNotFoundError):  # another process has finished it
                if time.time() - path.stat().st_mtime > older_than_s:
                    path.unlink()


def _beside(path: Path) -> Path:
    # Not the process id: two nodes that share a file system may have the same one.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
