"""Decodes the images of a split into the files of a cache (`clf.data.cache`), with all cores that
this process may use.

h x w stored pixels of an image of H x W.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

import numpy as np
from PIL import Image

from clf.atomic import reason, remedy, say, write_file, write_text
from clf.config import DataConfig
from clf.cores import usable_cores
from clf.data.cache_size import size_text, stored_size
from clf.data.decode import Look, UnreadableError, open_picture
from clf.data.decoding_threads import start_threads
from clf.data.index import Split
from clf.data.picture import Picture
from clf.data.reader import DataError
from clf.data.transforms import EvalTransform
from clf.resilience.signals import STOP

CHUNK = 16  # images of a task
PROGRESS_S = 5.0  # between lines of progress; a terminal's line changes ten times as often


def stored(picture: Picture, cfg: DataConfig, trains: bool) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels [h, w, 3] uint8 to keep of an image, and H and W; 0, 0 where they are what the
    model sees.

    Args:
        trains: the image will be cropped at random; False: it is for an evaluation
    """
    height, width = picture.height, picture.width
    h, w = stored_size(height, width, cfg, trains)
    if not trains and h * w < height * width:
        return EvalTransform(cfg)(picture).permute(1, 2, 0).contiguous().numpy(), (0, 0)
    pixels_HWC = picture.crop((0, 0, height, width), min(h, w) if h < height else 0)
    if pixels_HWC.shape[:2] != (h, w):
        smaller = Image.fromarray(pixels_HWC).resize((w, h), Image.Resampling.LANCZOS)
        pixels_HWC = np.asarray(smaller)
    return np.ascontiguousarray(pixels_HWC), (height, width)


def is_asked_to_leave() -> bool:
    """Whether a signal waits that this process holds back while it gets ready (see
    `clf.resilience.signals.held`). What is decoded by then is lost, and the run leaves soon."""
    return bool(signal.sigpending() & set(STOP))


def build(path: Path, split: Split, cfg: DataConfig, trains: bool, most: int) -> bool:
    """Decode all images and write NAME.pixels, NAME.rows and at last NAME.json.

    Args:
        path: NAME.users
        trains: as for `stored`
        most: bytes that may be written

    Returns:
        False: this process was asked to leave, and nothing is there

    Raises:
        DataError: there is no room, or an image cannot be read and `cfg.on_bad_image` says so
    """
    started, pixels = time.monotonic(), path.with_suffix(".pixels")
    try:
        with _PixelFile(pixels, most, cfg) as file:
            rows_N5 = _decode_all(file, split, cfg, trains)
            if rows_N5 is None:
                return False
            file.finish()
        write_file(path.with_suffix(".rows"), lambda temporary: _save(temporary, rows_N5))
        facts = {
            "split": split.name,
            "images": len(split),
            "unread": int((rows_N5[:, 0] < 0).sum()),
            "bytes": file.end,
            "seconds": time.monotonic() - started,
            "data": cfg.origin or cfg.root or cfg.name,
        }
        write_text(path.with_suffix(".json"), json.dumps(facts, indent=1))
    except OSError as error:
        raise DataError(
            f"data.cache={cfg.cache}: {pixels} cannot be written: {reason(error)}. "
            f"{remedy(error, pixels)}, or set data.cache=none"
        ) from error
    return True


def _save(path: Path, rows_N5: np.ndarray) -> None:
    with path.open("wb") as file:  # np.save would put its own ending behind the name
        np.save(file, rows_N5)


class _PixelFile:
    """NAME.pixels, which threads add to."""

    def __init__(self, path: Path, most: int, cfg: DataConfig) -> None:
        self.path, self.most, self.cfg, self.end = path, most, cfg, 0
        self._lock = threading.Lock()
        for ending in (".json", ".pixels", ".rows"):  # of a builder that was killed
            path.with_suffix(ending).unlink(missing_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._whole = False

    def __enter__(self) -> "_PixelFile":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)
        if not self._whole:
            self.path.unlink(missing_ok=True)

    def add(self, pixels_hwC: np.ndarray) -> int:
        """Where the pixels begin."""
        with self._lock:
            start = self.end
            self.end += pixels_hwC.nbytes
        if self.end > self.most:
            raise DataError(
                f"data.cache={self.cfg.cache}: the decoded images are larger than the sizes of "
                f"some of them said, and {size_text(self.most)} may be written; set data.cache_gb "
                "higher, or data.cache=none"
            )
        place, left = start, pixels_hwC.reshape(-1).data
        while left:
            written = os.pwrite(self._file, left, place)
            place, left = place + written, left[written:]
        return start

    def finish(self) -> None:
        """All is on the disk from here on, also after a power cut."""
        if self.cfg.cache == "disk":
            os.fsync(self._file)
        self._whole = True


def _decode_all(file: _PixelFile, split: Split, cfg: DataConfig, trains: bool) -> np.ndarray | None:
    """Of each image [N, 5] int64: start in the file, -1 where it cannot be read; h, w, H, W. None:
    this process was asked to leave."""
    look, skips = Look.of(cfg), cfg.on_bad_image == "skip"
    rows_N5 = np.zeros((len(split), 5), np.int64)

    def decode_some(rows: Iterable[int]) -> None:
        for row in rows:
            name = split.path(row)
            try:
                picture = open_picture(split.images[row], name, look)
                pixels_hwC, size = stored(picture, cfg, trains)
            except Exception as error:
                if skips and isinstance(error, UnreadableError):
                    rows_N5[row, 0] = -1  # the loader reads the file, and says why it cannot
                    continue
                error.add_note(f"while reading {name}")
                raise
            rows_N5[row] = file.add(pixels_hwC), *pixels_hwC.shape[:2], *size

    chunks = iter([range(len(split))[at : at + CHUNK] for at in range(0, len(split), CHUNK)])
    progress, threads = _Progress(split), usable_cores()
    pool = start_threads(threads)
    waiting: set[Future[None]] = set()
    try:
        while True:
            while len(waiting) < 2 * threads and (chunk := next(chunks, None)) is not None:
                waiting.add(pool.submit(decode_some, chunk))
            if not waiting:
                progress.done()
                return rows_N5
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            for one in done:
                one.result()
            if is_asked_to_leave():
                return None
            progress.at(int((rows_N5[:, 1] > 0).sum()), file.end)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Progress:
    """How far it is: a line that changes on a terminal, else a line each few seconds."""

    def __init__(self, split: Split) -> None:
        self.total, self.name, self.is_live = len(split), split.name, sys.stdout.isatty()
        self.began = self.said = time.monotonic()

    def at(self, images: int, size: int) -> None:
        now = time.monotonic()
        if now - self.said < PROGRESS_S / (10 if self.is_live else 1) or not images:
            return
        self.said, speed = now, images / (now - self.began)
        text = (
            f"cache: {self.name} {images / self.total:.0%}, {size_text(size)}, {speed:,.0f} "
            f"images/s, {(self.total - images) / speed:,.0f} s left"
        )
        if self.is_live:
            filled = round(24 * images / self.total)
            print(f"\r[{'=' * filled}{' ' * (24 - filled)}] {text}\x1b[K", end="", flush=True)
        else:
            say(text)

    def done(self) -> None:
        if self.is_live:
            print("\r\x1b[K", end="", flush=True)
