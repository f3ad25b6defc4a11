"""Whether a checkpoint is whole, and which one a run goes on from where some are damaged.

torch.save writes a zip archive, which has a checksum (CRC-32) of each tensor; torch.load never
looks at them. So a bit that a disk has lost would pass in silence.
"""

import os
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from clf.atomic import link_file
from clf.run_folder import RunFolder


def check_whole(path: Path) -> None:
    """Read the whole file and compare its checksums, about a second for each gigabyte.

    Raises:
        ValueError: the file is truncated, empty, no checkpoint, or holds another bit than was
            written
        FileNotFoundError: there is no such file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        size = path.stat().st_size
        raise ValueError(
            f"{path} is damaged: its {size:,} bytes are no whole file ({error})"
        ) from None
    if damaged is not None:
        raise ValueError(f"{path} is damaged: the checksum of {damaged} in it is another one")


def first_whole(candidates: Iterable[Path]) -> tuple[Path | None, list[str]]:
    """The first of these checkpoints that is there and whole, and what is wrong with those before
    it, a sentence each. None: none of them is."""
    damaged = []
    for path in (path for path in candidates if path.exists()):
        try:
            check_whole(path)
        except ValueError as error:
            damaged.append(str(error))
        else:
            return path, damaged
    return None, damaged


def newest_whole(folder: RunFolder) -> tuple[Path | None, list[str]]:
    """The checkpoint that a run goes on from, and what is wrong with newer ones, a line each.

    `last.ckpt` is the newest, then those that it replaced, then the best one. None: the run has not
    saved anything yet.

    Raises:
        ValueError: there are checkpoints, and all of them are damaged
    """
    path, damaged = first_whole([folder.last, *folder.replaced, folder.best])
    if path is not None:
        return path, [f"{why}; the run goes on from {path.name}" for why in damaged]
    if damaged:
        raise ValueError(
            "\n".join(damaged) + f"\nNo checkpoint of {folder.path} is whole. Put one there from a "
            "backup, or start again from the beginning under another --name"
        )
    return None, []


def best_or_last(folder: RunFolder) -> tuple[Path, str | None]:
    """The best checkpoint; if it is damaged the last one, and a sentence that says so.

    Raises:
        ValueError: both are damaged
    """
    try:
        check_whole(folder.best)
    except ValueError as error:
        check_whole(folder.last)
        return folder.last, f"{error}; the final evaluation is that of {folder.last.name}"
    return folder.best, None


def keep_replaced(last: Path, keep: int) -> None:
    """Give `last.ckpt`, which is about to be replaced, a further name: last-1.ckpt, where the one
    of before becomes last-2.ckpt, and so on; `keep` of them stay in all, the new one included."""
    if not last.exists():
        return
    for number in range(keep - 1, 1, -1):
        younger = replaced_path(last, number - 1)
        if younger.exists():
            os.replace(younger, replaced_path(last, number))
    if keep > 1:
        link_file(last, replaced_path(last, 1))


def replaced_path(last: Path, number: int) -> Path:
    return last.with_name(f"{last.stem}-{number}{last.suffix}")
