"""Looks at every image of a data set once: can it be decoded, how large is it, what does it hold.

    facts = inspect(members, look, cache=Path("check/cache.jsonl"), near=True)

Threads decode, as in training. What is known of a file is written to a cache, a line each, as soon
as it is known, so that an inspection that was stopped goes on where it was; a file that has changed
since is looked at again.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from clf.cores import usable_cores
from clf.data.decode import REMEDY, Look, decode
from clf.data.jpeg import ORIENTATION
from clf.data.likeness import perceptual_hash
from clf.data.overlap import Member
from clf.data.reader import DataError, Source, Span

VERSION = 1  # of what is looked at: another one makes an old cache worthless
SIDE = 256  # pixels of the short side at which a large JPEG is decoded here, which is much faster
MOST_PIXELS = 2**20  # of which the mean of an image is taken; of a larger one every nth
PART = 32  # images that a thread looks at between two reports

# Words in a message of Pillow's -> what is wrong with the file, in the order in which they count.
PROBLEMS = {
    "the file is empty": "empty",
    "truncated": "truncated",
    "Truncated": "truncated",
    "DecompressionBomb": "too large",
    "MemoryError": "too large",
    "UnidentifiedImage": "no image",
}


@dataclass
class Facts:
    """What is known of a file; sizes as it is stored, colours as it is decoded, from 0 to 1."""

    path: str
    size: int = 0  # bytes
    changed: int = 0  # nanoseconds, of the file's last change
    problem: str = ""  # empty, truncated, ...; "" for an image that can be decoded
    message: str = ""  # the reason in full
    format: str = ""
    mode: str = ""  # Pillow's word for the channels
    width: int = 0
    height: int = 0
    orientation: int = 1  # of EXIF; 1: upright
    mean: list[float] = field(default_factory=list)  # by channel
    square: list[float] = field(default_factory=list)  # mean of the squares, by channel
    constant: bool = False  # one colour everywhere
    content: str = ""  # hash of the file
    likeness: int | None = None  # perceptual hash of 64 bits


def inspect(
    members: Sequence[Member],
    look: Look,
    cache: Path | None = None,
    near: bool = True,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> list[Facts]:
    """The facts of each member, in order; a file with several labels or splits is read once.

    Args:
        cache: file of what is known already; None: keep nothing
        near: compute perceptual hashes, for which `imagehash` must be installed
        threads: None: as many as there are cores
        progress: called with the number of images that are done, again and again
    """
    known = Cache(cache, look, near)
    by_image: dict[Source, Facts] = {}
    waiting: dict[Source, Member] = {}
    for member in members:
        fresh = known.get(member)
        if fresh is not None:
            by_image[member.image] = fresh
        elif member.image not in by_image:
            waiting.setdefault(member.image, member)
    progress(len(members) - len(waiting))
    left = list(waiting.values())
    parts = [left[start : start + PART] for start in range(0, len(left), PART)]

    def work(part: list[Member]) -> list[Facts]:
        return [facts_of(member, look, near) for member in part]

    pool = ThreadPoolExecutor(threads or usable_cores())
    try:
        for part, done in zip(parts, pool.map(work, parts), strict=True):
            by_image.update(zip((one.image for one in part), done, strict=True))
            known.add(part, done)
            progress(len(part))
    finally:
        pool.shutdown(cancel_futures=True)
    return [by_image[member.image] for member in members]


def facts_of(member: Member, look: Look, near: bool) -> Facts:
    """Read, decode and measure one image; what is wrong with it becomes part of the facts."""
    facts = Facts(member.place)
    try:
        data = _read(member, facts)
        if not data:
            raise DataError(f"{member.place}: the file is empty")
        facts.content = hashlib.blake2b(data, digest_size=16).hexdigest()
        _look_at_header(data, facts)
        image_HWC = decode(data, SIDE, member.place, look)
    except (DataError, OSError, MemoryError) as error:
        reason = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
        facts.message = reason.removeprefix(f"{member.place}: ").removesuffix(f"; {REMEDY}")
        words = (what for word, what in PROBLEMS.items() if word in facts.message)
        facts.problem = next(words, "unreadable")
        return facts
    if not facts.width:  # a format that Pillow has no header for
        facts.height, facts.width = image_HWC.shape[:2]
    step = max(1, round((image_HWC.shape[0] * image_HWC.shape[1] / MOST_PIXELS) ** 0.5))
    few_HWC = image_HWC[::step, ::step].astype(np.float32) / 255
    facts.mean = few_HWC.mean((0, 1), dtype=np.float64).round(6).tolist()
    facts.square = (few_HWC**2).mean((0, 1), dtype=np.float64).round(6).tolist()
    facts.constant = bool((image_HWC == image_HWC[:1, :1]).all())
    if near and not facts.constant:
        facts.likeness = perceptual_hash(image_HWC)
    return facts


def _read(member: Member, facts: Facts) -> bytes:
    if isinstance(member.image, bytes):
        facts.size = len(member.image)
        return member.image
    if isinstance(member.image, Span):
        facts.size, facts.changed = member.image.size, os.stat(member.image.path).st_mtime_ns
        return member.image.read()
    with open(member.image, "rb") as file:
        about = os.fstat(file.fileno())
        facts.size, facts.changed = about.st_size, about.st_mtime_ns
        return file.read()


def _look_at_header(data: bytes, facts: Facts) -> None:
    """Size, mode and orientation as stored. What Pillow cannot open is left to the decoder, which
    knows more formats and names what is wrong."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            facts.format, facts.mode = image.format or "", image.mode
            facts.width, facts.height = image.size
            facts.orientation = int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises a dozen types, also for EXIF that is broken
        return


class Cache:
    """The facts of files, a line of JSON each; the first line says what they depend on.

    Args:
        path: None: an empty cache that keeps nothing
        look, near: as for `inspect`; with other ones the cache begins anew
    """

    def __init__(self, path: Path | None, look: Look, near: bool) -> None:
        self.path = path
        self.near = near
        self.head = json.dumps({"version": VERSION, "look": [list(look[0]), *look[1:]]})
        self.facts = {facts.path: facts for facts in self._stored()}
        if path is not None and not self.facts:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.head + "\n")
        elif path is not None:
            with path.open("a") as file:
                file.write("\n")  # ends the line at which a process was killed

    def get(self, member: Member) -> Facts | None:
        """What is known of an image, if its file has not changed since."""
        if isinstance(member.image, bytes) or (facts := self.facts.get(member.place)) is None:
            return None
        try:
            if isinstance(member.image, Span):
                size, changed = member.image.size, os.stat(member.image.path).st_mtime_ns
            else:
                about = os.stat(member.image)
                size, changed = about.st_size, about.st_mtime_ns
        except OSError:
            return None
        same = (size, changed) == (facts.size, facts.changed)
        needs_hash = self.near and facts.likeness is None and not (facts.problem or facts.constant)
        return facts if same and not needs_hash else None

    def add(self, members: Sequence[Member], facts: Sequence[Facts]) -> None:
        """Write what is new."""
        if self.path is None:
            return
        pairs = zip(members, facts, strict=True)
        files = [one for member, one in pairs if not isinstance(member.image, bytes)]
        with self.path.open("a") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in files)

    def _stored(self) -> Iterator[Facts]:
        if self.path is None or not self.path.is_file():
            return
        with self.path.open(errors="replace") as file:
            if file.readline() != self.head + "\n":
                return
            for line in file:
                try:
                    yield Facts(**json.loads(line))
                except (ValueError, TypeError):
                    continue  # half a line: that image is looked at again
