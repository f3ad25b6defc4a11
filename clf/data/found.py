"""Finds the images to predict: files, folders, patterns and tar files, as a person types them."""

import glob
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from clf.data.naming import SUFFIXES, is_image, is_system_folder, suffix
from clf.data.reader import Source, Span, first_and_count
from clf.data.samples import end_faults, opened

COMPRESSED = "it is a compressed tar file, in which no image can be read alone; uncompress it"
NOTHING = "there is no such file or folder"


@dataclass
class Found:
    """Images in the order in which they were given, each once."""

    images: list[Source] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)  # path as given -> why it gives no image
    others: Counter[str] = field(default_factory=Counter)  # files by ending that are no images

    @property
    def notes(self) -> list[str]:
        if not self.others:
            return []
        kinds = [f"{count} {ending}" for ending, count in self.others.most_common()]
        tar = "; name a tar file itself to have its images read" if self.others[".tar"] else ""
        total = self.others.total()
        files = "1 file is" if total == 1 else f"{total} files are"
        return [f"{files} not read, having no name of an image: {first_and_count(kinds, 5)}{tar}"]


def find_images(given: Iterable[str]) -> Found:
    """The images that each text stands for.

    A file is taken whatever its name, the images of a folder and of all folders in it by their
    names, and so are the members of a tar file, which are read where they are. A pattern such as
    `photos/**/*.jpg` counts where there is no file of that name.
    """
    found = Found()
    known: set[Source] = set()
    for text in given:
        for image in _of(text, found):
            if image not in known:
                known.add(image)
                found.images.append(image)
    return found


def _of(text: str, found: Found) -> Iterator[Source]:
    if os.path.isdir(text):
        yield from _in_folder(text, found, set())
    elif os.path.isfile(text):
        is_tar = suffix(text) not in SUFFIXES and tarfile.is_tarfile(text)
        yield from _in_tar(text, found) if is_tar else [text]
    elif os.path.lexists(text):
        broken = os.path.islink(text)
        found.unread[text] = "it is a link that leads nowhere" if broken else "it is no file"
    elif glob.has_magic(text):
        matches = _matches(text)
        if not matches:
            found.unread[text] = "nothing matches this pattern"
        for match in matches:
            yield from _of(match, found)
    else:
        found.unread[text] = NOTHING


def _matches(pattern: str) -> list[str]:
    """What a pattern stands for, sorted; nothing that is hidden."""
    if "**" not in pattern:
        return sorted(glob.glob(pattern))
    # glob would follow a link that leads back forty times, and pathlib follows none. It gives each
    # folder beside what is in it, which the pattern may not ask for.
    anchor = Path(pattern).anchor
    paths = Path(anchor).glob(os.path.relpath(pattern, anchor) if anchor else pattern)
    return sorted(
        str(path)
        for path in paths
        if path.is_file() and not any(part[0] == "." and part != ".." for part in path.parts)
    )


def _in_folder(folder: str, found: Found, above: set[str]) -> Iterator[Source]:
    """The images in a folder, then those in each of its folders; links that lead back to a folder
    above are not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        found.unread[folder] = f"it cannot be listed ({error.strerror})"
        return
    deeper = []
    for entry in listed:
        if entry.is_dir():
            if not is_system_folder(entry.name):
                deeper.append(entry.path)
        elif not entry.name.startswith("."):
            if is_image(entry.path):
                yield entry.path
            else:
                found.others[suffix(entry.name) or "without an ending"] += 1
    for path in deeper:
        yield from _in_folder(path, found, above | {real})


def _in_tar(path: str, found: Found) -> Iterator[Source]:
    """The image members of a tar file that is not compressed."""
    try:
        with open(path, "rb") as file, opened(file) as tar:
            for member in tar:
                *folders, name = member.name.removeprefix("./").split("/")
                if not member.isreg() or member.issparse() or name.startswith("."):
                    continue
                if any(map(is_system_folder, folders)):
                    continue
                if suffix(name) in SUFFIXES and is_image(name):
                    inside = member.name.removeprefix("./")
                    yield Span(path, member.offset_data, member.size, inside)
                else:
                    found.others[suffix(name) or "without an ending"] += 1
            for fault in end_faults(tar, file, Path(path)):
                found.unread[path] = fault.partition(f"{path} ")[2]
    except tarfile.TarError as error:
        found.unread[path] = COMPRESSED if "truncated" not in str(error) else f"it is {error}"
    except OSError as error:
        found.unread[path] = f"it cannot be read ({error.strerror})"
