"""How people name splits and image files. Opens a file only where its name says nothing."""

import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

# Case, and what stands between words, is left aside: training_set, TRAIN, "test data", Val.
SPLIT_WORDS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|dev|devel|development|eval|evaluation",
    "test": "test|testing|tst|holdout|heldout",
}
ENDINGS = "set|data|images|imgs|split"

# What Pillow reads without further programs or packages. torchvision's ImageFolder takes the first
# line alone.
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"),
    *(".jfif", ".jpe", ".mpo", ".gif", ".apng", ".avif", ".avifs", ".tga", ".dib", ".pbm", ".pnm"),
    *(".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pcx", ".sgi", ".rgb", ".rgba"),
    *(".bw", ".ico", ".icns", ".dds", ".psd", ".qoi", ".xbm", ".xpm"),
)
OPTIONAL = {  # endings -> what Pillow has to be built with
    "avif": (".avif", ".avifs"),
    "jpg_2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "webp": (".webp",),
}
BEGINNINGS = (  # of files that need no ending to be known
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"II*\0",  # TIFF
    b"MM\0*",
    b"\0\0\0\x0cjP  ",  # JPEG 2000
    b"qoif",
)
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found")  # thumbnails and remains
SAID = "files that Pillow reads, such as .jpg, .png, .webp or .tif"


def split_named(name: str) -> str | None:
    """The split that a folder or a list of that name holds: "train", "val", "test", or None."""
    word = re.sub(r"[\W_]+", "", name.casefold())
    for split, words in SPLIT_WORDS.items():
        if re.fullmatch(f"({ENDINGS})?({words})({ENDINGS})?", word):
            return split
    return None


def split_folders(folders: Iterable[str], is_deep: Callable[[str], bool]) -> dict[str, list[str]]:
    """Split -> the folders that are named so; empty where the folders are classes.

    They are splits if one of them holds folders, or if all have names of splits: `bus` and `train`
    with nothing but images in them are classes.

    Args:
        is_deep: whether a folder holds folders
    """
    named = {name: split for name in folders if (split := split_named(name))}
    others = any(name not in named for name in folders)
    if others and not any(is_deep(name) for name in named):
        return {}
    splits: dict[str, list[str]] = {}
    for name, split in named.items():
        splits.setdefault(split, []).append(name)
    return splits


def split_faults(place: Path, splits: dict[str, list[str]]) -> list[str]:
    """What is wrong with the names of splits, as `split_folders` gives them."""
    return [*named_twice(place, splits), *nothing_to_train_on(place, splits)]


def named_twice(place: Path, splits: dict[str, list[str]]) -> list[str]:
    """A fault for each split that several folders are named after."""
    return [
        f"data.root: {place} has {len(names)} {split} splits, {' and '.join(names)}; put all of "
        "that split into one, or take the others out"
        for split, names in splits.items()
        if len(names) > 1
    ]


def nothing_to_train_on(place: Path, splits: dict[str, list[str]]) -> list[str]:
    """The fault of splits without one to train on."""
    if not splits or "train" in splits:
        return []
    there = ", ".join(name for names in splits.values() for name in names)
    return [
        f"data.root: {place} has splits ({there}) and none to train on; add train/, or rename "
        "these if they are classes"
    ]


def is_image(path: str) -> bool:
    """Whether a file is one that Pillow reads, by its ending, or by its first bytes where its name
    has none."""
    ending = suffix(path)
    if ending in SUFFIXES:
        return all(_has(part) for part, endings in OPTIONAL.items() if ending in endings)
    return not re.fullmatch(r"\.[a-z]\w*", ending) and _begins_as_image(path)


def suffix(path: str) -> str:
    """The ending of a file's name in small letters."""
    return os.path.splitext(path)[1].lower()


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or written by a system beside the user's files."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def _has(part: str) -> bool:
    from PIL import features  # most data sets need none of it

    return bool(features.check(part))


def _begins_as_image(path: str) -> bool:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False  # opening a pipe would wait for its other end
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return webp or start.startswith(BEGINNINGS) or start[4:12] in (b"ftypavif", b"ftypavis")
