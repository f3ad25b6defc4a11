"""data.group_by: images of one person, match or camera stay in one split, so that no split is
scored on what was as good as seen in training.

    folder          the folder that an image lies in, below those of its split and class
    regex:PATTERN   what the pattern finds in an image's path from data.root: its groups, else all
    column:KEY      what the lines of a list say under this key

Groups are drawn whole, by `data.split_seed`, as near as they allow to the shares that are asked
for. Splits that the data gives are only looked at.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from clf.config import DataConfig
from clf.data.exclude import place_of
from clf.data.naming import split_named
from clf.data.reader import SPLITS, DataError, Noted, Row, Rows, Span, first_and_count

TRAIN = 0  # place of the split in SPLITS
FAR = 0.5  # of the share that was asked for: a split this far from it is noted


def draw_groups(rows: Rows, cfg: DataConfig) -> Noted:
    """Rows by split, each group in one of them; and notes on what the groups do not allow.

    Raises:
        DataError: an image has no group, groups are too few, or one is in several given splits
    """
    if cfg.group_by is None or not any(rows.values()):
        return Noted(rows, [])
    groups = {split: _groups_of(listed, cfg) for split, listed in rows.items()}
    _refuse_spanning(groups, cfg)
    if "all" not in rows and "val" in rows:
        return Noted(rows, [])
    source = "all" if "all" in rows else "train"
    shares = _shares(cfg, with_test=source == "all")
    members = _members(rows[source], groups[source])
    wanted = sum(share > 0 for share in shares)
    if len(members) < wanted:
        raise DataError(
            f"data.group_by={cfg.group_by}: the images are in {len(members)} "
            f"{'group' if len(members) == 1 else 'groups'} ({first_and_count(list(members), 3)}), "
            f"and {wanted} splits need one each; set another data.group_by, or null"
        )
    split_of = _Draw({name: _labels(listed) for name, listed in members.items()}, shares).run(cfg)
    drawn: Rows = {"train": [], "val": [], "test": list(rows.get("test", []))}
    for name, listed in members.items():
        drawn[SPLITS[split_of[name]]] += listed
    asked = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
    if empty := [split for split in asked if not drawn[split]]:
        raise DataError(
            f"data.group_by={cfg.group_by}: nothing is left for {' and '.join(empty)}, since "
            f"training needs the only groups of some classes; there are {len(members)} groups. Set "
            "another data.group_by, or null"
        )
    return Noted(drawn, list(_notes(drawn, members, shares, cfg)))


def _groups_of(rows: list[Row], cfg: DataConfig) -> list[str]:
    """The group of each row; DataError names those that have none."""
    kind, _, text = (cfg.group_by or "").partition(":")
    if kind == "column":
        names = [row.group for row in rows]
        remedy = f"the lists, or the .json of shards, lack {text!r} there; these alone have columns"
    elif kind == "regex":
        pattern = re.compile(text)
        names = [_found(pattern, place_of(row, cfg)) for row in rows]
        remedy = "the pattern finds nothing in their paths from data.root"
    else:
        names = [_folder(row, cfg) for row in rows]
        remedy = (
            "they lie in no folder of their own below that of their class; put the images of each "
            "person, match or camera into one, or use regex:PATTERN or column:KEY"
        )
    without = [row.place for row, name in zip(rows, names, strict=True) if not name]
    if without:
        raise DataError(
            f"data.group_by={cfg.group_by}: {len(without)} of {len(rows)} images have no group: "
            f"{first_and_count(without, 3)}; {remedy}"
        )
    return names


def _found(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(path)
    if match is None:
        return ""
    return "/".join(part or "" for part in match.groups()) if match.groups() else match[0]


def _folder(row: Row, cfg: DataConfig) -> str:
    """The folder without the names of its split and class, so that a person who is seen with two
    numbers, or in two splits, is one group."""
    # A shard is no group: it holds what was next in line when it was written.
    place = row.image.name if isinstance(row.image, Span) else place_of(row, cfg)
    parts = list(PurePosixPath(place).parts[:-1])
    split = next((part for part in parts if split_named(part) and part != str(row.label)), None)
    for name in (split, str(row.label)):
        if name in parts:
            parts.remove(name)
    return "/".join(parts)


def _refuse_spanning(groups: dict[str, list[str]], cfg: DataConfig) -> None:
    splits: dict[str, list[str]] = {}
    for split, names in groups.items():
        for name in dict.fromkeys(names):
            splits.setdefault(name, []).append(split)
    spanning = [
        f"{name} ({', '.join(where)})" for name, where in sorted(splits.items()) if len(where) > 1
    ]
    if spanning:
        raise DataError(
            f"data.group_by={cfg.group_by}: {len(spanning)} of {len(splits)} groups are in more "
            f"than one of the splits that the data has: {first_and_count(spanning, 3)}; move each "
            "to one split, or set data.group_by=null"
        )


def _shares(cfg: DataConfig, with_test: bool) -> list[float]:
    test = cfg.test_fraction if with_test else 0.0
    return [1 - cfg.val_fraction - test, cfg.val_fraction, test]


def _members(rows: list[Row], groups: list[str]) -> dict[str, list[Row]]:
    members: dict[str, list[Row]] = {}
    for row, name in sorted(zip(rows, groups, strict=True), key=lambda each: each[1]):
        members.setdefault(name, []).append(row)
    return members


def _labels(rows: list[Row]) -> Counter[str]:
    return Counter(str(row.label) for row in rows)


class _Draw:
    """Deals groups out to splits.

    A group goes where it brings the images of its classes nearest to the shares; large ones come
    first, and the seed decides among equals. Then each class that is missing in a split gets a
    group there if it has one to give.

    Args:
        counts: group -> images of each class
        shares: of the images, by split; 0 where none is asked for
    """

    def __init__(self, counts: dict[str, Counter[str]], shares: Sequence[float]) -> None:
        self.counts, self.shares = counts, shares
        total = self.total = Counter[str]()
        self.holders: dict[str, list[str]] = {}  # class -> its groups
        for name, labels in counts.items():
            total.update(labels)
            for label in labels:
                self.holders.setdefault(label, []).append(name)
        self.targets = [{label: share * n for label, n in total.items()} for share in shares]
        self.images: list[Counter[str]] = [Counter() for _ in shares]
        self.split_of: dict[str, int] = {}

    def run(self, cfg: DataConfig) -> dict[str, int]:
        """Group -> place of its split in SPLITS."""
        import numpy as np

        names = sorted(self.counts)
        order = np.random.default_rng(cfg.split_seed).permutation(len(names))
        shuffled = [names[place] for place in order]
        # By powers of two, so that the seed has a say where no two are of the same size.
        shuffled.sort(key=lambda name: -self.counts[name].total().bit_length())
        alone = {held[0] for held in self.holders.values() if len(held) == 1}
        for name in (name for name in shuffled if name in alone):
            self._put(name, TRAIN)  # a class that only another split has cannot be learnt
        asked = [split for split, share in enumerate(self.shares) if share > 0]
        for name in (name for name in shuffled if name not in alone):
            self._put(name, min(asked, key=lambda split: self._cost(name, split)))
        by_rarity = sorted(self.holders.items(), key=lambda item: (len(item[1]), item[0]))
        for label, held in by_rarity:
            if not self.images[TRAIN][label]:
                self._give(TRAIN, held)
        for split in asked:
            for label, held in by_rarity:
                if not self.images[split][label]:
                    self._give(split, [name for name in held if self._can_leave(name)])
            if not +self.images[split]:
                self._give(split, [name for name in self.counts if self._can_leave(name)])
        return self.split_of

    def _cost(self, name: str, split: int) -> float:
        """How much the squared distance from the shares, in units of them, grows by this group."""
        images, targets = self.images[split], self.targets[split]
        return sum(
            n * (2 * (images[label] - targets[label]) + n) / targets[label] / self.total[label]
            for label, n in self.counts[name].items()
        )

    def _put(self, name: str, split: int) -> None:
        before = self.split_of.get(name)
        if before is not None:
            self.images[before].subtract(self.counts[name])
        self.images[split].update(self.counts[name])
        self.split_of[name] = split

    def _give(self, split: int, names: list[str]) -> None:
        """Move the group there that disturbs the shares least, if there is one."""
        if names:
            self._put(min(names, key=lambda name: (self._cost(name, split), name)), split)

    def _can_leave(self, name: str) -> bool:
        """Whether its split has each of its classes without it."""
        images = self.images[self.split_of[name]]
        return all(images[label] > n for label, n in self.counts[name].items())


def _notes(
    drawn: Rows, members: dict[str, list[Row]], shares: Sequence[float], cfg: DataConfig
) -> Iterator[str]:
    said = f"data.group_by={cfg.group_by}:"
    asked = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
    classes = {split: {str(row.label) for row in drawn[split]} for split in asked}
    total = sum(map(len, members.values()))
    far = [
        f"{split} {len(drawn[split]) / total:.0%} instead of {share:.0%}"
        for split, share in zip(SPLITS, shares, strict=True)
        if share > 0 and abs(len(drawn[split]) / total - share) > FAR * share
    ]
    if far:
        yield f"{said} the {len(members)} groups are too large for the shares: {', '.join(far)}"
    every = sorted(set[str]().union(*classes.values()))
    for split in asked:
        lacking = [label for label in every if label not in classes[split]]
        if lacking:
            yield (
                f"{said} {_count(lacking)} in too few groups to be in {split}, too: "
                f"{first_and_count(lacking, 5)}"
            )


def _count(labels: Iterable[str]) -> str:
    number = len(list(labels))
    return f"{number} class is" if number == 1 else f"{number} classes are"
