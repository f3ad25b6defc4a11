"""Reads the files of class folders, each once and for its own class, and counts what it passes
over: files that are no images, hidden folders, links that lead back or to another class."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from clf.data.naming import is_image, is_system_folder, suffix
from clf.data.reader import first_and_count

SHOWN = 3  # examples in a note


class Claims:
    """Which classes folders belong to, by their real paths."""

    def __init__(self) -> None:
        self._at: dict[str, set[str]] = {}
        self._below: dict[str, set[str]] = {}

    def add(self, real: str, name: str) -> None:
        self._at.setdefault(real, set()).add(name)
        for parent in Path(real).parents:
            self._below.setdefault(str(parent), set()).add(name)

    def holding(self, real: str) -> set[str]:
        """The classes of which a folder, or one that it lies in, is read. A hidden folder on the
        way is not read, so that links may lead into it."""
        for path in (Path(real), *Path(real).parents):
            if str(path) in self._at:
                return self._at[str(path)]
            if path.name.startswith("."):
                break
        return set()

    def touching(self, real: str) -> set[str]:
        """`holding`, and the classes of which folders lie in this one."""
        return self.holding(real) | self._below.get(real, set())


class ClassFolders:
    """Reads the class folders of a data set.

    Args:
        root: the data set; notes name paths from here
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults: list[str] = []
        self._unread: list[str] = []  # folders of images beside those that are read
        self._all = Claims()
        self._of_split: dict[str, Claims] = {}
        self._beside: list[str] = []  # images that lie in no class folder
        self._files: dict[str, Counter[str]] = {}  # kind -> files that are not read, by folder
        self._hidden: dict[str, None] = {}
        self._links: list[str] = []
        self._broken: list[str] = []
        self._real: dict[str, str] = {}  # real paths of the folders that links to files lead into

    def read(self, folders: dict[str, Path]) -> dict[str, dict[str, list[str]]]:
        """Split -> class -> its images, in the order of torchvision's ImageFolder.

        Args:
            folders: split -> the folder of its class folders
        """
        listed = {split: self._class_folders(folder) for split, folder in folders.items()}
        for split, classes in listed.items():
            mine = self._of_split.setdefault(split, Claims())
            for name, is_link in classes.items():
                if not is_link:
                    self._claim(mine, os.path.realpath(folders[split] / name), name)
        # Links come when all that they may lead to has its owner.
        names = {
            split: [
                name
                for name, is_link in sorted(classes.items())
                if not is_link
                or self._may_follow(str(folders[split] / name), self._of_split[split], name)
            ]
            for split, classes in listed.items()
        }
        return {
            split: {name: self._images(split, folders[split], name) for name in classes}
            for split, classes in names.items()
        }

    def look_beside(self, folder: Path, splits: Collection[str]) -> None:
        """Note the images and the folders of images that lie beside the splits."""
        for name in self._class_folders(folder):
            if name not in splits and holds_image(folder / name):
                self._unread.append(str(folder / name))

    def notes(self) -> list[str]:
        """What was passed over, a line for each kind."""
        kinds = (
            (self._beside, "image lies", "images lie", "in no class folder and", "not read"),
            (self._unread, "folder of images lies", "folders of images lie",
             "beside the splits and", "not read"),
            (list(self._hidden), "folder of images is", "folders of images are",
             "hidden or a system's own, and", "not read"),
            (self._links, "link leads", "links lead",
             "back, or to what is read already or as another class, and", "not followed"),
            (self._broken, "link leads", "links lead", "nowhere, and", "in the lists all the same"),
        )  # fmt: skip
        notes = []
        for paths, one, many, where, what in kinds:
            if paths:
                shown = first_and_count([os.path.relpath(path, self.root) for path in paths], SHOWN)
                leads, are = (one, "is") if len(paths) == 1 else (many, "are")
                notes.append(f"{len(paths)} {leads} {where} {are} {what}: {shown}")
        return notes + ([self._file_note()] if self._files else [])

    def others(self, folder: Path) -> list[str]:
        """The names of the files under a folder, sorted."""
        files = (entry for _, files in self._walk(str(folder), lambda _: False) for entry in files)
        return sorted(entry.name for entry in files)

    def _class_folders(self, folder: Path) -> dict[str, bool]:
        """The folders in a folder, and whether each is a link."""
        found = {}
        for entry in self._entries(str(folder)):
            if not _is_folder(entry):
                if not entry.name.startswith(".") and is_image(entry.path):
                    self._beside.append(entry.path)
            elif is_system_folder(entry.name):
                self._pass_hidden(entry.path)
            else:
                found[entry.name] = entry.is_symlink()
        return found

    def _images(self, split: str, folder: Path, name: str) -> list[str]:
        mine, found = self._of_split[split], []
        shown = os.path.relpath(folder / name, self.root)

        def follow(entry: os.DirEntry[str]) -> bool:
            return self._may_follow(entry.path, mine, name)

        for _, files in sorted(self._walk(str(folder / name), follow), key=lambda each: each[0]):
            for entry in files:
                if kind := _kind(entry):
                    self._files.setdefault(kind, Counter())[shown] += 1
                elif not entry.is_symlink() or self._may_read(entry, mine, name):
                    found.append(entry.path)
        return found

    def _may_read(self, entry: os.DirEntry[str], mine: Claims, name: str) -> bool:
        """Whether a link leads to an image that no class has."""
        target = os.path.join(os.path.dirname(entry.path), os.readlink(entry.path))
        parent = os.path.dirname(os.path.normpath(target))
        if parent not in self._real:
            self._real[parent] = os.path.realpath(parent)
        real = self._real[parent]
        if not os.path.exists(entry.path):
            self._broken.append(entry.path)  # decoding it fails, and says so
        elif mine.holding(real) or self._all.holding(real) - {name}:
            self._links.append(entry.path)
            return False
        return True

    def _may_follow(self, path: str, mine: Claims, name: str) -> bool:
        """Whether a link to a folder leads to files that no class has; it claims them."""
        real = os.path.realpath(path)
        if mine.touching(real) or self._all.touching(real) - {name}:
            self._links.append(path)
            return False
        self._claim(mine, real, name)
        return True

    def _claim(self, mine: Claims, real: str, name: str) -> None:
        mine.add(real, name)
        self._all.add(real, name)

    def _walk(
        self, folder: str, follow: Callable[[os.DirEntry[str]], bool]
    ) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
        """Each folder from this one down with its files."""
        waiting = [folder]
        while waiting:
            parent, files = waiting.pop(), []
            for entry in self._entries(parent):
                if not _is_folder(entry):
                    files.append(entry)
                elif is_system_folder(entry.name):
                    self._pass_hidden(entry.path)
                elif not entry.is_symlink() or follow(entry):
                    waiting.append(entry.path)
            yield parent, files

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            self.faults.append(
                f"data.root: {folder} cannot be read ({error.strerror}); change its permissions or "
                "take it out"
            )
            return []

    def _pass_hidden(self, path: str) -> None:
        if os.path.basename(path) != ".git" and holds_image(path):
            self._hidden[path] = None

    def _file_note(self) -> str:
        total = sum(sum(folders.values()) for folders in self._files.values())
        kinds = []
        for kind, folders in sorted(self._files.items(), key=lambda item: -sum(item[1].values())):
            places = [f"{count} in {folder}" for folder, count in folders.most_common()]
            kinds.append(f"{sum(folders.values())} {kind} ({first_and_count(places, SHOWN)})")
        return (
            f"{total} {'file is' if total == 1 else 'files are'} not read: "
            f"{first_and_count(kinds, 8)}; convert those that are images to JPEG or PNG"
        )


def holds_image(folder: str | Path) -> bool:
    """Whether there is an image anywhere under a folder; stops at the first."""
    seen: set[str] = set()
    waiting = [str(folder)]
    while waiting:
        parent = waiting.pop()
        real = os.path.realpath(parent)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = list(os.scandir(parent))
        except OSError:
            continue  # what cannot be listed is named by the reader
        for entry in entries:
            if _is_folder(entry):
                if not is_system_folder(entry.name):
                    waiting.append(entry.path)
            elif not entry.name.startswith(".") and is_image(entry.path):
                return True
    return False


def subfolders(folder: str | Path) -> list[str]:
    """The names of the folders in a folder that are not hidden, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _is_folder(e) and not is_system_folder(e.name))
    except PermissionError:
        return []  # named when its images are read


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _kind(entry: os.DirEntry[str]) -> str:
    """What a file that is not read is called in the note; "" for an image."""
    name = entry.name
    if name.startswith("."):
        return "._*" if name.startswith("._") else name if name == ".DS_Store" else "hidden"
    if not entry.is_symlink() and not entry.is_file():
        return "no regular file"
    return "" if is_image(entry.path) else suffix(name) or "without an ending"
