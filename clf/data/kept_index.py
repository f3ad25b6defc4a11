"""The images of a run are those that it began with: rank 0 lists them once, and keeps the list in
the run folder (`clf.data.index_file`). All ranks, and every later start, read that.

    splits = splits_of_run(folder.data_index, cfg.data)

The ranks agree through the file alone, because the data are read before there is a process group:
the others wait until it is there. It never changes while the run lives, so that a rank which finds
it early reads the same.
"""

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clf.atomic import remedy, write_text
from clf.config import DataConfig
from clf.data import generated, index_file
from clf.data.index import ImageSplits, Survey, load_splits, read_rows
from clf.data.index_file import Kept, KnownFile
from clf.data.packed import file_sizes
from clf.data.reader import SPLITS, DataError, first_and_count

SHOWN = 3  # images that a message names
POLL_S = 0.2
SAY_EVERY_S = 60  # that rank 0 is still reading
REFRESH = (
    "start again from the weights of the run with the images that are there now: --refresh-data "
    "(jobs.py resume NAME --refresh-data, or the command that began the run)"
)


def splits_of_run(path: Path, cfg: DataConfig, keep: bool = True) -> ImageSplits:
    """The images of the run that keeps its list at `path`, with what is wrong with their files now
    among the notes.

    Args:
        keep: list the images if there is no list yet, and keep it; False: for an evaluation

    Raises:
        DataError: as `load_splits`; or the list is damaged, or images of it are gone
    """
    if generated.is_generated(cfg):
        generated.ensure(cfg)
    if not keep:
        return _looked_at(path, cfg) if _fits(path, cfg) else load_splits(cfg)
    rank = int(os.environ.get("RANK", "0"))
    if rank:
        _wait(path, cfg)
        return _read(path, cfg).splits
    failure = _failure(path)
    if failure.exists():  # a disk that is read-only refuses to delete even what is not there
        failure.unlink()
    try:
        notes = [] if _fits(path, cfg) else _write(path, cfg)
        splits = _looked_at(path, cfg)
    except Exception as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            write_text(failure, f"{_this_start()}\n{error}")
        raise
    return replace(splits, notes=[*splits.notes, *notes])


def known_survey(path: Path, cfg: DataConfig, files: bool = True) -> Survey | None:
    """What there is to say of a run's images before it goes on; None if it has no list of those
    that these settings choose.

    Args:
        files: look whether they are there
    """
    try:
        if not _fits(path, cfg):
            return None
        meta = index_file.read_meta(path)
        assert meta is not None
        is_folder = cfg.root is None or not Path(cfg.root).expanduser().is_file()
        notes = _looked_at(path, cfg).notes if files and is_folder else meta["notes"]
    except DataError as error:
        return Survey(None, error.faults)
    return Survey(meta["classes"], [], notes)


def _fits(path: Path, cfg: DataConfig) -> bool:
    """Whether there is a list of the images that these settings choose. A setting that is newer
    than the list had no say in it."""
    meta = index_file.read_meta(path)
    return meta is not None and not _differing(meta["settings"], cfg)


def _differing(then: dict[str, Any], cfg: DataConfig) -> list[str]:
    now = index_file.settings_of(cfg)
    return [key for key in now if key in then and now[key] != then[key]]


def _write(path: Path, cfg: DataConfig) -> list[str]:
    """List the images and keep the list; notes on why an earlier one is replaced."""
    meta = index_file.read_meta(path)
    splits = load_splits(cfg)
    keys = ", ".join(f"data.{key}" for key in _differing(meta["settings"], cfg)) if meta else ""
    if meta is not None and (other := set(meta["classes"]) ^ set(splits.classes)):
        raise DataError(
            f"{keys}: changed, and now the classes are others than those that the run began with; "
            f"they differ in {first_and_count(sorted(other), SHOWN)}. Set it back, or {REFRESH}"
        )
    try:
        index_file.write(path, splits, cfg)
    except OSError as error:
        raise DataError(
            f"{path}, the list of the run's images, cannot be written: {error.strerror or error}. "
            f"{remedy(error, path)}"
        ) from error
    if meta is None:
        return []
    return [f"{keys}: changed, so the images of the run were listed anew from here on"]


def _wait(path: Path, cfg: DataConfig) -> None:
    """Until rank 0 has kept the list. DataError: it could not."""
    failure, started = _failure(path), time.monotonic()
    for minute in itertools.count(1):
        while time.monotonic() < started + minute * SAY_EVERY_S:
            # A network file system may keep for long that a file is not there, unless its folder is
            # read.
            if path.name in os.listdir(path.parent) and _fits(path, cfg):
                return
            if failure.exists():
                start, _, words = failure.read_text(encoding="utf-8").partition("\n")
                if start == _this_start():  # else it is that of an earlier one
                    raise DataError(words.splitlines())
            time.sleep(POLL_S)
        print(f"waiting for rank 0, which lists the images: {minute} min", flush=True)


def _failure(path: Path) -> Path:
    return path.with_name(f"{path.stem}.failed")


def _this_start() -> str:
    """The same text on all ranks of one start of a job."""
    names = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "-") for name in names)


def _read(path: Path, cfg: DataConfig) -> Kept:
    kept = index_file.read(path, cfg, lambda: _contents(cfg))
    if kept.lost and cfg.on_bad_image != "skip":
        raise DataError(_gone(kept, kept.lost))
    return kept


def _contents(cfg: DataConfig) -> Iterator[bytes]:
    """Of the images that the reader gives in memory, whatever else is wrong with the data now."""
    try:
        rows = read_rows(cfg).rows
    except DataError as error:
        rows = error.rows
        if not rows:
            raise
    for row in itertools.chain.from_iterable(rows.values()):
        if isinstance(row.image, bytes):
            yield row.image


def _looked_at(path: Path, cfg: DataConfig) -> ImageSplits:
    """The splits, with notes on files that have changed. DataError: some are gone."""
    kept = _read(path, cfg)
    sizes = file_sizes([file.path for file in kept.files])
    pairs = list(zip(kept.files, sizes, strict=True))
    gone = [*kept.lost, *(file.path for file, size in pairs if size < 0 <= file.size)]
    if gone and cfg.on_bad_image != "skip":
        raise DataError(_gone(kept, gone))
    changed = [(file, size) for file, size in pairs if 0 <= size != file.size]
    if tars := [_resized(file, size) for file, size in changed if file.holds_images]:
        raise DataError(
            f"data.root: {first_and_count(tars, SHOWN)}: where each image begins in it was listed "
            f"when the run began, and may be another place now. Put it back as it was, or {REFRESH}"
        )
    return replace(kept.splits, notes=[*kept.splits.notes, *_notes(kept, gone, changed)])


def _notes(kept: Kept, gone: list[str], changed: list[tuple[KnownFile, int]]) -> Iterator[str]:
    if gone:
        yield (
            f"data.on_bad_image=skip: {_some(kept, gone)} are gone, and are left out: "
            f"{first_and_count(gone, SHOWN)}"
        )
    if changed:
        named = [_resized(file, size) for file, size in changed]
        yield (
            f"data.root: {_some(kept, named)} have another size now, and are read as they are: "
            f"{first_and_count(named, SHOWN)}"
        )


def _resized(file: KnownFile, size: int) -> str:
    return f"{file.path} ({size:,} bytes, then {file.size:,})"


def _gone(kept: Kept, gone: list[str]) -> str:
    return (
        f"data.root: {_some(kept, gone)} are gone: {first_and_count(gone, SHOWN)}. Put them "
        "back; give data.root=FOLDER if all were moved there; leave them out with "
        f"data.on_bad_image=skip; or {REFRESH}"
    )


def _some(kept: Kept, named: list[str]) -> str:
    """How many files, and of how many: not all of a large data set are looked at."""
    images = sum(len(getattr(kept.splits, split)) for split in SPLITS)
    if len(kept.files) < images and images > index_file.LOOKED_AT:
        looked_at = f"{len(kept.files):,} files looked at, of the {images:,} images"
        return f"{len(named):,} of {looked_at} that the run began with,"
    return f"{len(named):,} of the {images:,} images that the run began with"
