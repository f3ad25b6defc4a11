"""The file that keeps the images and labels of a run: `write` makes it, and `read` gives the same
`ImageSplits` back, wherever `data.root` is by then.

It is a zip archive of NumPy arrays (`clf.data.packed`), as numpy.load reads it, and `meta.json`.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clf.atomic import write_file
from clf.config import DataConfig
from clf.data import generated
from clf.data.index import ImageSplits, Split
from clf.data.packed import CONTENT, Folders, PackedImages, Texts, digest, file_of, packed, start_of
from clf.data.reader import SPLITS, DataError, Span

FORMAT = 1
LOOKED_AT = 100_000  # files at most whose sizes are kept and compared: all of a smaller data set
LEVEL = 4  # of zlib
DRAW = ("name", "val_fraction", "test_fraction", "split_seed", "group_by", "exclude")


class KnownFile(NamedTuple):
    """A file of the data as it was when the images were listed."""

    path: str
    size: int  # bytes; -1: it was not there
    holds_images: bool  # a tar file, of which each image is a part


@dataclass(frozen=True)
class Kept:
    """What a file holds.

    Attributes:
        files: those whose sizes are known
        lost: images in memory that the reader gives no more, or with another content
        fingerprint: of paths from the root on, labels, classes and sizes, in hex
    """

    splits: ImageSplits
    files: list["KnownFile"]
    lost: list[str]
    fingerprint: str


def root_of(cfg: DataConfig) -> str:
    """The folder from which paths are written."""
    if generated.is_generated(cfg):
        return str(generated.folder(cfg))
    return str(Path(cfg.root).expanduser()) if cfg.root is not None else "."


def settings_of(cfg: DataConfig) -> dict[str, Any]:
    """The settings that choose the images and their split; not where the images lie."""
    shared = {one.name for one in fields(DataConfig)}
    chosen = {key: value for key, value in vars(cfg).items() if key in DRAW or key not in shared}
    return json.loads(json.dumps(chosen, default=str))


def write(path: Path, splits: ImageSplits, cfg: DataConfig) -> None:
    """Keep the splits in a file, whole or not at all. OSError: it cannot be written."""
    folders = Folders()
    images = sum(len(getattr(splits, name)) for name in SPLITS)
    every = -(-images // LOOKED_AT) or 1
    arrays = {
        f"{name}.{part}": held
        for name in SPLITS
        for part, held in packed(getattr(splits, name), folders, every).items()
    } | folders.arrays(root_of(cfg))
    meta = {
        "format": FORMAT,
        "settings": settings_of(cfg),
        "classes": splits.classes,
        "notes": splits.notes,
        "drawn": splits.drawn,
        "images": {name: len(getattr(splits, name)) for name in SPLITS},
        "arrays": sorted(arrays),
        "fingerprint": _fingerprint(splits.classes, arrays),
    }

    def save(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL) as archive:
            archive.writestr("meta.json", json.dumps(meta, indent=1))
            for name, held in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, held, allow_pickle=False)

    write_file(path, save)


def _fingerprint(classes: list[str], arrays: dict[str, np.ndarray]) -> str:
    made = hashlib.sha256(json.dumps(classes).encode())
    for name, held in sorted(arrays.items()):
        made.update(f"{name} {held.shape}".encode())
        made.update(np.ascontiguousarray(held).data)
    return made.hexdigest()


def read_meta(path: Path) -> dict[str, Any] | None:
    """What the file says of itself, in milliseconds: settings, classes, notes, numbers of images,
    fingerprint. None if there is no file.

    Raises:
        DataError: it is damaged, or of a newer version
    """
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
    except FileNotFoundError:
        return None
    except BROKEN as error:
        raise DataError(_damaged(path, error)) from None
    if meta["format"] > FORMAT:
        raise DataError(
            f"{path} was written by a newer version of clf (format {meta['format']}, and this one "
            f"reads up to {FORMAT}): use that version"
        )
    return meta


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


# What a damaged archive raises; each array has a checksum.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path}, the list of the run's images, is damaged ({error}). Put it there from a backup; "
        "or delete it, and the images are listed anew, which is the same if none was added or "
        "renamed since; or start again from the weights: jobs.py resume NAME --refresh-data"
    )


def read(path: Path, cfg: DataConfig, reread: Callable[[], Iterator[bytes]]) -> Kept:
    """The splits, with paths below where `data.root` is now.

    Args:
        reread: the contents of all images that the reader gives in memory; asked if there are some

    Raises:
        DataError: the file is damaged
    """
    meta = read_meta(path)
    assert meta is not None, path
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, name) for name in meta["arrays"]}
    except BROKEN as error:
        raise DataError(_damaged(path, error)) from None
    start = start_of(root_of(cfg))
    folders = [
        folder[1:] if folder[0] == "a" else start + folder[1:]
        for folder in Texts(arrays["folders"], arrays["folder_lengths"])
    ]
    known: dict[bytes, bytes] = {}
    if any(len(arrays[f"{name}.digests"]) for name in SPLITS):
        known = {digest(content): content for content in reread()}
    splits, files, lost = {}, list[KnownFile](), list[str]()
    for name in SPLITS:
        parts = {
            part: arrays[f"{name}.{part}"]
            for one in arrays
            if one.startswith(f"{name}.")
            for part in [one.partition(".")[2]]
        }
        images = PackedImages(parts, folders, _contents(parts, known))
        split = Split(images, parts["labels"].astype(np.int64), name, images.places())
        in_memory = np.flatnonzero(parts["kinds"] == CONTENT).tolist()
        lost += [split.path(row) for row in in_memory if not images[row]]
        splits[name] = split
        known_sizes = zip(parts["looked_at"].tolist(), parts["file_sizes"].tolist(), strict=True)
        files += [
            KnownFile(file_of(images[row]), size, isinstance(images[row], Span))
            for row, size in known_sizes
        ]
    kept = ImageSplits(meta["classes"], **splits, notes=meta["notes"], drawn=meta["drawn"])
    return Kept(kept, files, lost, meta["fingerprint"])


def _contents(parts: dict[str, np.ndarray], known: dict[bytes, bytes]) -> list[bytes]:
    """b"" for an image that is there no more."""
    digests = parts["digests"].tobytes()
    return [known.get(digests[place : place + 16], b"") for place in range(0, len(digests), 16)]
