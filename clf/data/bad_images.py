"""Images that cannot be read, where a run leaves them out (data.on_bad_image=skip): which they are,
and how many are too many."""

import os
from collections.abc import Iterable
from pathlib import Path

import torch.distributed
from lightning.pytorch.utilities import rank_zero_warn

from clf.atomic import PatientWriter, write_file
from clf.config import DataConfig
from clf.data.exclude import place_in_data
from clf.data.reader import DataError, first_and_count


class BadImages:
    """Those that this rank has met so far, in all splits.

    Args:
        cfg: its `max_bad_fraction` of an epoch's images may be left out
        file: lists their paths, one a line, as `data.exclude` takes them; those of earlier starts
            of the run come first. None: no list
        writer: of the list, where a disk takes nothing
    """

    def __init__(
        self, cfg: DataConfig, file: Path | None = None, writer: PatientWriter | None = None
    ) -> None:
        self.cfg, self.limit, self.file = cfg, cfg.max_bad_fraction, file
        self._writer = writer or PatientWriter()
        self.reasons: dict[str, str] = {}  # by path, in the order in which they were met
        self._new: dict[str, str] = {}  # of which the other ranks do not know yet

    def add(self, path: str, reason: str) -> None:
        """Note an image, however often it is met. That of a node's own copy of the data is named by
        the original, which is there after the job."""
        if self.cfg.origin is not None:
            path = os.path.join(self.cfg.origin, place_in_data(path, self.cfg))
        if path not in self.reasons:
            self.reasons[path] = self._new[path] = reason

    def settle(self, split: str, count: int, images: int) -> None:
        """At an epoch's end, on all ranks together: list what is new, and say so.

        Args:
            count: of the images that were left out, over all ranks
            images: of the epoch, over all ranks

        Raises:
            DataError: too many
        """
        if not count:
            return
        new: dict[str, str] = {}
        for of_rank in _of_all_ranks(self._new):
            new |= of_rank
        self._new.clear()
        self.reasons |= new
        if new:
            if _rank() == 0:
                self._list()
            listed = f", listed in {self.file}" if self.file is not None else ""
            rank_zero_warn(
                f"{split}: {count} of {images} images cannot be read and are left out{listed}; new "
                f"among them: {_examples(new)}"
            )
        self.check(split, count, images)

    def check(self, split: str, count: int, images: int) -> None:
        """Raises DataError if so many of the images are too many."""
        if count <= self.limit * images:
            return
        if self._new:  # this rank leaves alone
            self._list()
        raise DataError(
            f"data.max_bad_fraction={self.limit:g}: {count} of {images} images of the {split} "
            f"split, {count / images:.2%}, cannot be read: {_examples(self.reasons)}. Replace them "
            "or take them out, or set data.max_bad_fraction higher"
        )

    def _list(self) -> None:
        if self.file is not None:
            file, paths = self.file, list(self.reasons)
            self._writer.write(file, lambda: _add_to_list(file, paths), keep=True)


def _add_to_list(file: Path, paths: Iterable[str]) -> None:
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
        listed = text.removesuffix("\n").split("\n")  # a name may hold other line breaks
    except FileNotFoundError:
        listed = []
    lines = dict.fromkeys([*listed, *(path.replace("\n", "\\n") for path in paths)])
    content = "".join(f"{line}\n" for line in lines)

    def write(temporary: Path) -> None:  # for names that are no UTF-8
        temporary.write_text(content, encoding="utf-8", errors="surrogateescape")

    write_file(file, write)


def _examples(reasons: dict[str, str]) -> str:
    """The first reason, which begins with its path, and further paths."""
    first, *others = reasons
    more = f"; {first_and_count(others, 4)}" if others else ""
    return reasons[first].partition("; ")[0] + more


def _rank() -> int:
    return torch.distributed.get_rank() if _is_distributed() else 0


def _of_all_ranks(found: dict[str, str]) -> list[dict[str, str]]:
    if not _is_distributed():
        return [dict(found)]
    gathered: list[dict[str, str]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, found)
    return gathered


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
