"""data.exclude=bad.txt: images to leave out, a line each: a path from data.root, or a whole one.

`launch/check_data.py --fix-list bad.txt` writes such a file. Lines that begin with # are comments;
names that are no UTF-8 stand in it as their bytes.
"""

import os
import posixpath
from pathlib import Path

from clf.config import DataConfig
from clf.data.reader import DataError, Noted, Row, Rows, first_and_count


def leave_out(rows: Rows, cfg: DataConfig) -> Noted:
    """The rows without those that `data.exclude` names; notes say how many there were.

    Raises:
        DataError: the file cannot be read
    """
    if cfg.exclude is None:
        return Noted(rows, [])
    listed = {line: place_in_data(line, cfg) for line in read_list(cfg)}
    unwanted = set(listed.values())
    kept, left_out = {}, set[str]()
    for split, members in rows.items():
        places = [place_of(row, cfg) for row in members]
        left_out.update(unwanted.intersection(places))
        pairs = zip(members, places, strict=True)
        kept[split] = [row for row, place in pairs if place not in unwanted]
    count = sum(map(len, rows.values())) - sum(map(len, kept.values()))
    notes = [f"data.exclude={cfg.exclude}: {count} images are left out"]
    unknown = [line for line, place in listed.items() if place not in left_out]
    if unknown:
        notes.append(
            f"data.exclude={cfg.exclude}: {len(unknown)} of its {len(listed)} lines name no image "
            f"of the data: {first_and_count(unknown, 3)}"
        )
    return Noted(kept, notes)


def read_list(cfg: DataConfig) -> list[str]:
    """The lines of the file that `data.exclude` names; DataError if it cannot be read."""
    if cfg.exclude is None:
        return []
    path = Path(cfg.exclude).expanduser()
    try:
        text = os.fsdecode(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"data.exclude={cfg.exclude}: cannot be read ({error.strerror}); expected a text file "
            "with the path of an image on each line, as launch/check_data.py --fix-list writes it"
        ) from error
    lines = (line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n"))
    return [line for line in lines if line.strip() and not line.startswith("#")]


def place_of(row: Row, cfg: DataConfig) -> str:
    """Where an image is, from `data.root` on where it lies there; for one in memory, `where`."""
    return place_in_data(row.where if isinstance(row.image, bytes) else str(row.image), cfg)


def place_in_data(path: str, cfg: DataConfig) -> str:
    """A path from `data.root` on, or, if it lies elsewhere, as it is. A copy on a node's own disk
    (data.stage) counts as the original."""
    for root in (cfg.root, cfg.origin):
        if root is not None:
            start = os.path.join(os.path.expanduser(root), "")
            if path.startswith(start):
                return posixpath.normpath(path[len(start) :])
    return posixpath.normpath(path)
