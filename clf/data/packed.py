"""The images of a split as a few arrays, instead of a Python text for each: `packed` makes them,
and `PackedImages` gives an image when it is asked for.

A path is the number of its folder and a name. Folders are written from `data.root` on, so that the
arrays hold wherever that is.

N images of a split.
"""

import hashlib
import os
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from clf.data.index import Split
from clf.data.reader import Source, Span

THREADS = 16  # that ask for sizes: a network disk answers many at a time
PATH, SPAN, CONTENT = range(3)  # kinds of images


class Texts(Sequence[str]):
    """Texts that lie end to end in one array.

    Args:
        joined: uint8, all of them
        lengths: bytes of each
    """

    def __init__(self, joined: np.ndarray, lengths: np.ndarray) -> None:
        self._joined = joined.data
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        start, end = self._starts[place], self._starts[place + 1]
        return os.fsdecode(bytes(self._joined[start:end]))


class PackedImages(Sequence[Source]):
    """The images of a split, each made when it is asked for.

    Args:
        parts: the arrays of the split, as `packed` made them
        folders: of the paths, up to the name
        contents: of each image in memory, in the order of the split
    """

    def __init__(
        self, parts: dict[str, np.ndarray], folders: Sequence[str], contents: Sequence[bytes]
    ) -> None:
        self._kinds_N, self._folders_N = parts["kinds"], parts["folders"]
        self._names = Texts(parts["names"], parts["lengths"])
        self._folders, self._contents = folders, contents
        self._starts, self._sizes = parts["starts"], parts["sizes"]
        self._members = Texts(parts["members"], parts["member_lengths"])
        # Which of the spans, or of the images in memory, an image is.
        self._spans_N = _numbers_of(self._kinds_N == SPAN)
        self._contents_N = _numbers_of(self._kinds_N == CONTENT)

    def __len__(self) -> int:
        return len(self._kinds_N)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        place = range(len(self))[place]  # IndexError, and numbers from the end
        kind = self._kinds_N[place]
        if kind == CONTENT:
            return self._contents[self._contents_N[place]]
        path = self._path(place)
        if kind == PATH:
            return path
        span = self._spans_N[place]
        start, size = int(self._starts[span]), int(self._sizes[span])
        return Span(path, start, size, self._members[span])

    def places(self) -> dict[int, str]:
        """Where the images in memory come from."""
        rows = np.flatnonzero(self._kinds_N == CONTENT).tolist()
        return {row: self._path(row) for row in rows if self._names[row]}

    def _path(self, place: int) -> str:
        return self._folders[self._folders_N[place]] + self._names[place]


def _numbers_of(chosen_N: np.ndarray) -> np.ndarray:
    """For each of the chosen its number among them; empty if none is."""
    return np.cumsum(chosen_N, dtype=np.int32) - 1 if chosen_N.any() else chosen_N[:0]


class Joined:
    """What `Texts` takes, as it grows."""

    def __init__(self) -> None:
        self.joined, self.lengths = bytearray(), array("H")

    def add(self, text: str) -> None:
        name = os.fsencode(text)
        self.joined += name
        self.lengths.append(len(name))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.frombuffer(self.joined, np.uint8), np.frombuffer(self.lengths, np.uint16)


class Folders:
    """The numbers of folders; all splits share them."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, folder: str) -> int:
        return self.numbers.setdefault(folder, len(self.numbers))

    def arrays(self, root: str) -> dict[str, np.ndarray]:
        """ "r" before a folder: it is written from the root on; "a": it is as it was given."""
        start, written = start_of(root), Joined()
        for folder in self.numbers:
            inside = folder.startswith(start) and not (start == "" and os.path.isabs(folder))
            written.add(f"r{folder[len(start) :]}" if inside else f"a{folder}")
        joined, lengths = written.arrays()
        return {"folders": joined, "folder_lengths": lengths}


def start_of(root: str) -> str:
    """What paths below the root begin with."""
    return "" if root == "." else os.path.join(root, "")


def packed(split: Split, folders: Folders, every: int) -> dict[str, np.ndarray]:
    """What `PackedImages` takes, the labels, and the files whose sizes are kept.

    Args:
        folders: gets the folders of the split
        every: keep the size of one file of so many, and of each tar file
    """
    kinds, numbers, names, digests = bytearray(), array("i"), Joined(), bytearray()
    starts, sizes, members = array("q"), array("q"), Joined()
    looked_at, tars = list[int](), set[str]()
    for row, image in enumerate(split.images):
        path = split.places.get(row, "") if isinstance(image, bytes) else file_of(image)
        folder, slash, name = path.rpartition("/")
        numbers.append(folders.number(folder + slash))
        names.add(name)
        if isinstance(image, bytes):
            kinds.append(CONTENT)
            digests += digest(image)
        elif isinstance(image, Span):
            kinds.append(SPAN)
            starts.append(image.start)
            sizes.append(image.size)
            members.add(image.name)
            if path not in tars:
                tars.add(path)
                looked_at.append(row)
        else:
            kinds.append(PATH)
            if row % every == 0:
                looked_at.append(row)
    now = file_sizes([file_of(split.images[row]) for row in looked_at])
    return {
        "labels": split.labels.astype(np.int32),
        "kinds": np.frombuffer(kinds, np.uint8),
        "folders": np.frombuffer(numbers, np.int32),
        **dict(zip(("names", "lengths"), names.arrays(), strict=True)),
        "starts": np.frombuffer(starts, np.int64),
        "sizes": np.frombuffer(sizes, np.int64),
        **dict(zip(("members", "member_lengths"), members.arrays(), strict=True)),
        "digests": np.frombuffer(digests, np.uint8),
        "looked_at": np.array(looked_at, np.int64),
        "file_sizes": np.array(now, np.int64),
    }


def file_of(image: Source) -> str:
    return image.path if isinstance(image, Span) else str(image)


def digest(content: bytes) -> bytes:
    """16 bytes by which an image in memory is found again."""
    return hashlib.blake2b(content, digest_size=16).digest()


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Bytes of each file, -1 where there is none."""

    def some(first: int) -> list[int]:
        return [_size(path) for path in paths[first : first + 256]]

    with ThreadPoolExecutor(THREADS) as pool:
        return [size for part in pool.map(some, range(0, len(paths), 256)) for size in part]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1
