"""Decoded images that all processes of a node share (data.cache): each is decoded once, and an
epoch reads its pixels from memory or from the node's own disk.

    caches = open_caches([train, val], cfg)  # the first process of the node decodes, others wait
    caches["train"].picture(index)           # what the transform takes; None: read the file

The pixels lie end to end in one file, which every process maps into its memory. A training image is
kept as large as its smallest crop needs, and never larger than its file; an image of an evaluation,
which is the same each time, as the transform makes it, where that is smaller than its file.

N images of a split, h x w stored pixels of an image of H x W.
"""

import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import simplejpeg
import torch

from clf.atomic import say
from clf.config import DataConfig
from clf.data import cache_build, cache_place, cache_size
from clf.data.index import Split
from clf.data.index_file import root_of
from clf.data.packed import THREADS, digest, file_of, start_of
from clf.data.picture import Box, Finished
from clf.data.reader import Span
from clf.data.transforms import EvalTransform

FORMAT = 1  # to be raised where the files or the decoding change
LOOKED_AT = 100_000  # files at most whose sizes and times are compared


class CachedPicture:
    """A `clf.data.picture.Picture` whose pixels are a view of the map. Boxes are those of the whole
    image; where it is stored smaller they are mapped.

    Args:
        pixels_hwC: uint8
        height, width: of the whole image, H and W
    """

    __slots__ = ("height", "pixels_hwC", "width")

    def __init__(self, pixels_hwC: np.ndarray, height: int, width: int) -> None:
        self.pixels_hwC, self.height, self.width = pixels_hwC, height, width

    def crop(self, box: Box, size: int) -> np.ndarray:
        """As `Picture.crop`. It is a copy: a transform may write into it, and the map stays."""
        h, w, _ = self.pixels_hwC.shape
        top, left, height, width = stored_box(box, (self.height, self.width), (h, w))
        return self.pixels_hwC[top : top + height, left : left + width].copy()


def stored_box(box: Box, whole: tuple[int, int], stored: tuple[int, int]) -> Box:
    """The pixels of a box where the image is stored smaller.

    Args:
        whole: H and W
        stored: h and w
    """
    if whole == stored:
        return box
    top, left, height, width = box
    first, last = _mapped(top, height, whole[0], stored[0])
    before, after = _mapped(left, width, whole[1], stored[1])
    return first, before, last - first, after - before


def _mapped(start: int, length: int, whole: int, stored: int) -> tuple[int, int]:
    """From where to where a side of a box goes in the stored pixels; at least one of them."""
    first = min(round(start * stored / whole), stored - 1)
    return first, max(first + 1, round((start + length) * stored / whole))


class Cache:
    """The pixels of a split's images. As long as this object lives, or a process has another one of
    the same images, they stay; those in memory are deleted with the last.

    Args:
        path: NAME.users
        lock: of this process on it
        kept: False: the last one who leaves deletes the files

    Attributes:
        facts: NAME.json: how many images and bytes it has, and how long they took
        rows_N5: where each image begins in the pixels, or -1; h, w, H and W, or 0, 0
        pixels: uint8, of all images
    """

    def __init__(self, path: Path, lock: int, kept: bool) -> None:
        self._finalizer = weakref.finalize(self, cache_place.release, path, lock, not kept)
        self.path = path
        self.facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
        # As plain arrays, of which a part is taken in half the time.
        self.rows_N5 = np.load(path.with_suffix(".rows"), mmap_mode="r").view(np.ndarray)
        self.pixels = np.zeros(0, np.uint8)
        if self.facts["bytes"]:
            pixels = path.with_suffix(".pixels")
            self.pixels = np.memmap(pixels, np.uint8, "r").view(np.ndarray)

    def __len__(self) -> int:
        return len(self.rows_N5)

    def picture(self, index: int) -> CachedPicture | Finished | None:
        """An image of the split; None if it could not be read when the others were."""
        start, h, w, height, width = self.rows_N5[index].tolist()
        if start < 0:
            return None
        pixels_hwC = self.pixels[start : start + h * w * 3].reshape(h, w, 3)
        return CachedPicture(pixels_hwC, height, width) if height else Finished(pixels_hwC)

    def close(self) -> None:
        """Give the images back; pixels that are still in use stay readable."""
        self._finalizer()


def open_caches(splits: Sequence[Split], cfg: DataConfig) -> dict[str, Cache]:
    """The caches of splits, of "train" for training and of others for evaluation. What is not there
    is decoded now, by the first process of the node that gets here; the others wait.

    Returns:
        by name of the split; without those that are not there because this process was asked to
        leave meanwhile

    Raises:
        DataError: there is no room, no folder, or an image that cannot be read
    """
    folder = cache_place.cache_folder(cfg)
    cache_place.sweep(folder, whole_too=cfg.cache != "disk")
    parts = [_Part(folder, split, cfg, split.name == "train") for split in splits]
    try:
        for place, part in enumerate(parts):
            part.complete(parts[place + 1 :], sum(one.size for one in parts))
        if not all(part.is_whole() for part in parts):
            say("cache: asked to leave before all is decoded, so the rest is read from its files")
        return {part.split.name: part.opened() for part in parts if part.is_whole()}
    finally:
        for part in parts:
            part.close()


def find_cache(split: Split, cfg: DataConfig) -> Cache | None:
    """The one for an evaluation that a run has left on this node's disk; None if there is none."""
    folder = cache_place.known_folder(cfg)
    if not folder.is_dir():
        return None
    part = _Part(folder, split, cfg, trains=False)
    try:
        return part.opened() if part.is_whole() else None
    finally:
        part.close()


class _Part:
    """The files of a split, and a lock on them until they are opened or let go."""

    def __init__(self, folder: Path, split: Split, cfg: DataConfig, trains: bool) -> None:
        self.split, self.cfg, self.trains = split, cfg, trains
        self.path = folder / f"{split.name}-{fingerprint(split, cfg, trains)}.users"
        self._lock: int | None = cache_place.hold(self.path)
        self._was_there = self.is_whole()

    def is_whole(self) -> bool:
        return _is_whole(self.path)

    @property
    def size(self) -> int:
        """Bytes that are there; 0 while they are being written."""
        return self.path.with_suffix(".pixels").stat().st_size if self.is_whole() else 0

    def needed_bytes(self) -> int:
        """What it will take, about."""
        return cache_size.needed_bytes(self.split.images, self.cfg, self.trains)

    def complete(self, later: Sequence["_Part"], there: int) -> None:
        """Decode what is not there.

        Args:
            later: parts that will need room as well
            there: bytes of the parts that are whole
        """
        leave = cache_build.is_asked_to_leave
        if self.is_whole() or leave():
            return
        with cache_place.building(self.path, self.is_whole, leave) as mine:
            if mine:
                missing = [self, *(part for part in later if not part.is_whole())]
                needed = {part.split.name: part.needed_bytes() for part in missing}
                most = cache_size.check_room(needed, there, self.cfg, self.path.parent)
                cache_build.build(self.path, self.split, self.cfg, self.trains, most)

    def opened(self) -> Cache:
        """The cache, which has the lock from now on."""
        assert self._lock is not None
        cache, self._lock = Cache(self.path, self._lock, self.cfg.cache == "disk"), None
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one of those that share it says so
            facts = cache.facts
            how = "reused" if self._was_there else f"built in {facts['seconds']:.0f} s"
            size = cache_size.size_text(facts["bytes"])
            say(
                f"cache: {facts['images']:,} {self.split.name} images, {size} in "
                f"{self.path.parent}, {how}"
            )
        return cache

    def close(self) -> None:
        """Let go of what was not opened, and delete it if nobody else uses it."""
        if self._lock is not None:
            delete = self.cfg.cache != "disk" or not self.is_whole()
            cache_place.release(self.path, self._lock, delete)
            self._lock = None


def _is_whole(path: Path) -> bool:
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return path.with_suffix(".pixels").stat().st_size == facts["bytes"]
    except (FileNotFoundError, ValueError):
        return False


def fingerprint(split: Split, cfg: DataConfig, trains: bool) -> str:
    """A hash of all that the pixels depend on: which images, as they are now, and how they are
    decoded. It does not depend on where `data.root` is, nor on labels."""
    made = hashlib.sha256(json.dumps(_decoding(cfg, trains)).encode())
    start, files = start_of(root_of(cfg)), dict[str, None]()
    for image in split.images:
        if isinstance(image, bytes):
            made.update(digest(image))
            continue
        path = file_of(image)
        files[path] = None
        inside = f"{image.start} {image.size}" if isinstance(image, Span) else ""
        made.update(os.fsencode(f"{path.removeprefix(start)}\0{inside}\0"))
    every = -(-len(files) // LOOKED_AT) or 1
    for facts in _facts(list(files)[::every]):
        made.update(facts)
    return made.hexdigest()[:16]


def _decoding(cfg: DataConfig, trains: bool) -> list[Any]:
    versions = [FORMAT, simplejpeg.__version__, PIL.__version__, torch.__version__]
    look = [cfg.background, cfg.white_level]
    if trains:
        return [*versions, *look, cache_size.train_short_side(cfg)]
    seen = EvalTransform(cfg)
    return [*versions, *look, seen.short_side, seen.size, seen.interpolation.value]


def _facts(paths: Sequence[str]) -> list[bytes]:
    """Size and time of each file."""

    def of(path: str) -> bytes:
        try:
            found = os.stat(path)
        except OSError:
            return b"none\n"
        return b"%d %d\n" % (found.st_size, found.st_mtime_ns)

    def some(first: int) -> list[bytes]:
        return [of(path) for path in paths[first : first + 256]]

    with ThreadPoolExecutor(THREADS) as pool:
        return [one for part in pool.map(some, range(0, len(paths), 256)) for one in part]
