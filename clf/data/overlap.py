"""Finds images that are in two splits, which makes scores too good, and images with two labels.

`overlap_notes` looks before a run for the same file, by its inode, and for the same bytes. Files of
different sizes differ, and most of the others differ in their last bytes, so that little is read;
limits keep it short on a network disk. `launch/check_data.py` compares all images, and finds
pictures that were saved anew, too.
"""

import hashlib
import itertools
import os
import shlex
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from clf.config import DataConfig
from clf.data.exclude import place_in_data
from clf.data.reader import Source, Span, first_and_count

MOST_IMAGES = 100_000  # whose sizes are asked for: some seconds on a network disk
MOST_READ = 20_000  # files of which the last bytes are read
MOST_BYTES = 128 * 2**20  # that are read of files with the same size and the same last bytes
END = 4096  # bytes; the first ones are alike in all files of one camera
THREADS = 16  # a network disk answers many questions at a time
SHOWN = 3  # examples in a note

Item = TypeVar("Item")
Result = TypeVar("Result")


class Member(NamedTuple):
    """An image of a split."""

    split: str
    label: str
    image: Source
    place: str  # the path, or words for an image in memory


class _File(NamedTuple):
    """A file under all of its names."""

    size: int  # bytes
    members: list[Member]


def overlap_notes(members: Sequence[Member], cfg: DataConfig) -> list[str]:
    """A line for each kind of overlap, with its count and examples."""
    command = f"python launch/check_data.py {shlex.quote(str(cfg.root))}"
    if len(members) > MOST_IMAGES:
        return [
            "images that are in two splits or have two labels were not looked for, as there are "
            f"more than {MOST_IMAGES:,} images; `{command}` looks for them"
        ]
    same, left_out = same_contents(members)
    notes = []
    for words, value in (
        ("in more than one split, so that scores come out too high", lambda one: one.split),
        ("there under more than one label", lambda one: one.label),
    ):
        found = [each for each in same if len(set(map(value, each))) > 1]
        if found:
            shown = [
                " = ".join(
                    f"{place_in_data(one.place, cfg)} ({value(one)})" for one in each[:SHOWN]
                )
                for each in found
            ]
            notes.append(
                f"{len(found)} {'image is' if len(found) == 1 else 'images are'} {words} (the same "
                f"file or the same bytes): {first_and_count(shown, SHOWN)}; "
                f"`{command} --fix-list bad.txt` lists what to leave out with data.exclude=bad.txt"
            )
    if left_out:
        notes.append(
            f"{left_out:,} images of like sizes were not compared with each other, so that the run "
            f"starts soon; `{command}` compares them"
        )
    return notes


def same_contents(members: Sequence[Member]) -> tuple[list[list[Member]], int]:
    """Images of the same content that are in different splits or under different labels, and how
    many files could not be compared within the limits."""
    files: dict[Hashable, _File] = {}
    for member, (size, key) in zip(members, _in_threads(_size_and_key, members), strict=True):
        if size:  # decoding names a file that is gone or empty
            files.setdefault(key, _File(size, [])).members.append(member)
    by_size = _alike(files.values(), [file.size for file in files.values()])
    # The larger files are, the less likely do two of them have the same size by chance.
    alike = sorted(itertools.chain(*by_size), key=lambda file: -file.size)
    alike, left_out = alike[:MOST_READ], len(alike[MOST_READ:])
    by_end = list(itertools.chain(*_alike(alike, _in_threads(_size_and_end, alike))))
    sums = itertools.accumulate(file.size if file.size > END else 0 for file in by_end)
    to_read = [file for file, read in zip(by_end, sums, strict=True) if read <= MOST_BYTES]
    left_out += len(by_end) - len(to_read)
    same = _alike(to_read, _in_threads(_size_and_hash, to_read))
    named = {id(file) for each in same for file in each}
    same += [[file] for file in files.values() if id(file) not in named and _differ([file])]
    return [[member for file in each for member in file.members] for each in same], left_out


def _alike(files: Iterable[_File], keys: Iterable[Hashable]) -> list[list[_File]]:
    """The files whose keys are the same and whose splits or labels are not."""
    groups: dict[Hashable, list[_File]] = {}
    for file, key in zip(files, keys, strict=True):
        groups.setdefault(key, []).append(file)
    return [each for each in groups.values() if len(each) > 1 and _differ(each)]


def _differ(files: list[_File]) -> bool:
    return len({(one.split, one.label) for file in files for one in file.members}) > 1


def _size_and_key(member: Member) -> tuple[int, Hashable]:
    """Bytes, and what is the same for each name of one file."""
    if isinstance(member.image, bytes):
        return len(member.image), member.image
    if isinstance(member.image, Span):
        return member.image.size, member.image
    try:
        facts = os.stat(member.image)
    except OSError:
        return 0, None
    return facts.st_size, (facts.st_dev, facts.st_ino)


def _size_and_end(file: _File) -> Hashable:
    return file.size, _read(file, END)


def _size_and_hash(file: _File) -> Hashable:
    return file.size, hashlib.blake2b(_read(file, file.size), digest_size=16).digest()


def _read(file: _File, last: int) -> bytes:
    """The last bytes of a file; of one that cannot be read something that no other one has."""
    image = file.members[0].image
    if isinstance(image, bytes):
        return image[-last:]
    try:
        if isinstance(image, Span):
            return image.read(last)
        with open(image, "rb") as opened:
            opened.seek(max(0, file.size - last))
            return opened.read(last)
    except OSError:
        return os.fsencode(str(image))


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterable[Result]:
    with ThreadPoolExecutor(THREADS) as pool:
        parts = [items[start : start + 256] for start in range(0, len(items), 256)]
        done = pool.map(lambda part: list(map(function, part)), parts)
        return list(itertools.chain(*done))
