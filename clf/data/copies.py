"""Images that are copies of each other, of the same bytes or looking the same, and which images to
leave out of a data set."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clf.cores import usable_cores
from clf.data import likeness
from clf.data.decode import Look, decode
from clf.data.findings import FALSIFIES, LOOK, Finding, Item
from clf.data.inspection import Facts
from clf.data.reader import DataError

MOST_PAIRS = 200_000  # of like hashes that are compared; more are a data set of one scene
KEPT = {"test": 0, "val": 1, "train": 2}  # which copy of an image stays: scores stay comparable


def copies(items: Sequence[Item], facts: Sequence[Facts]) -> list[list[Item]]:
    """Items of the same bytes. One that is listed twice alike is one."""
    groups: dict[str, dict[tuple[str, str, str], Item]] = {}
    for item, one in zip(items, facts, strict=True):
        if one.content:
            key = (item.place, item.split, item.label)
            groups.setdefault(one.content, {})[key] = item
    return [list(each.values()) for each in groups.values() if len(each) > 1]


def alike(
    items: Sequence[Item], facts: Sequence[Facts], look: Look, notes: list[str]
) -> list[list[Item]]:
    """Items of different bytes that look the same."""
    groups: dict[str, list[int]] = {}
    for place, one in enumerate(facts):
        if one.likeness is not None:
            groups.setdefault(one.content, []).append(place)
    firsts = [places[0] for places in groups.values()]
    hashes = [facts[place].likeness or 0 for place in firsts]
    pairs = list(itertools.islice(likeness.near_pairs(hashes), MOST_PAIRS + 1))
    if len(pairs) > MOST_PAIRS:
        pairs.pop()
        notes.append(
            f"more than {MOST_PAIRS:,} pairs of pictures are alike, and only so many were compared"
        )
    wanted = sorted({firsts[place] for pair in pairs for place in pair})
    with ThreadPoolExecutor(usable_cores()) as pool:
        pictures = dict(
            zip(wanted, pool.map(lambda place: _small(items[place], look), wanted), strict=True)
        )
    parent = {place: place for place in wanted}

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    for first, second in ((firsts[one], firsts[other]) for one, other in pairs):
        picture, other_picture = pictures[first], pictures[second]
        if picture is None or other_picture is None:
            continue
        if likeness.looks_same(picture, other_picture):
            parent[root(second)] = root(first)
    clusters: dict[int, list[Item]] = {}
    for place in wanted:
        members = (items[each] for each in groups[facts[place].content])
        clusters.setdefault(root(place), []).extend(members)
    alone = Counter(root(place) for place in wanted)
    return [members for place, members in clusters.items() if alone[place] > 1]


def _small(item: Item, look: Look) -> np.ndarray | None:
    """None for an image that has gone since."""
    try:
        return likeness.small(decode(item.image, 64, look=look))
    except DataError:
        return None


def copy_findings(what: str, groups: list[list[Item]], labels: str) -> Iterator[Finding]:
    """
    Args:
        labels: weight of copies with different labels
    """
    over_splits = [each for each in groups if _number(item.split for item in each) > 1]
    over_labels = [each for each in groups if _number(item.label for item in each) > 1]
    within = [each for each in groups if _number((item.split, item.label) for item in each) == 1]
    yield Finding(f"{what} in two splits", FALSIFIES, over_splits)
    yield Finding(f"{what} under two labels", labels, over_labels)
    yield Finding(f"{what} twice in one split", LOOK, within)


def _number(values: Iterable[object]) -> int:
    return len(set(values))


def fix_list(
    items: Sequence[Item], facts: Sequence[Facts], groups: list[list[Item]], drawn: bool
) -> list[str]:
    """Images without which nothing stops or falsifies a run: those that cannot be decoded, all
    copies of a file with two labels, and all but one copy over the splits.

    Args:
        drawn: the splits are drawn, and would be drawn anew without these: of each image one stays
    """
    unwanted = {item.place for item, one in zip(items, facts, strict=True) if one.problem}
    contents: dict[str, set[str]] = {}
    for item, one in zip(items, facts, strict=True):
        contents.setdefault(one.content, set()).add(item.label)
    unsure = {key for key, labels in contents.items() if key and len(labels) > 1}
    pairs = zip(items, facts, strict=True)
    unwanted.update(item.place for item, one in pairs if one.content in unsure)
    for group in groups:
        left = [item for item in group if item.place not in unwanted]
        left.sort(key=lambda item: (KEPT[item.split], item.place))
        unwanted.update(item.place for item in left[1:] if drawn or item.split != left[0].split)
    return [place for place in dict.fromkeys(item.place for item in items) if place in unwanted]
