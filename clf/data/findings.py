"""What can be wrong with single images of a data set, and how a finding is stated."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from clf.config import DataConfig
from clf.data.exclude import place_in_data
from clf.data.inspection import Facts
from clf.data.overlap import Member
from clf.data.reader import SPLITS, Source

STOPS, FALSIFIES, LOOK = "stops a run", "falsifies its numbers", "worth a look"
TINY = 1 / 8  # of data.image_size: an image with a shorter side is mostly made up
HUGE = 40e6  # pixels: as long to decode as hundreds of usual images
LONG = 5.0  # long side / short side: a centre crop shows little of it
COLOURS = ("RGB", "YCbCr")  # modes that are decoded as they are


@dataclass
class Item:
    """An image in a finding."""

    place: str  # path from data.root
    split: str
    label: str
    words: str = ""  # what there is to say of this one
    image: Source = b""  # to show it; empty where there is none


@dataclass
class Finding:
    """One kind of trouble, with its images in groups: those that are copies of each other, or one
    alone."""

    title: str
    weight: str  # STOPS, FALSIFIES or LOOK
    groups: list[list[Item]]


def item_of(member: Member, cfg: DataConfig) -> Item:
    return Item(place_in_data(member.place, cfg), member.split, member.label, image=member.image)


def with_words(item: Item, words: str) -> Item:
    return replace(item, words=words)


def broken(items: Sequence[Item], facts: Sequence[Facts]) -> Iterator[Finding]:
    by_problem: dict[str, list[list[Item]]] = {}
    for item, one in zip(items, facts, strict=True):
        if one.problem:
            by_problem.setdefault(one.problem, []).append([with_words(item, one.message)])
    for problem, groups in sorted(by_problem.items()):
        yield Finding(f"cannot be decoded: {problem}", STOPS, groups)


def odd(items: Sequence[Item], facts: Sequence[Facts], cfg: DataConfig) -> Iterator[Finding]:
    """Images that are right, and yet may not be what is meant; the worst come first."""
    least = TINY * cfg.size
    sized = [
        (item, one) for item, one in zip(items, facts, strict=True) if one.width and not one.problem
    ]

    def found(
        title: str,
        is_it: Callable[[Facts], bool],
        words: Callable[[Facts], str],
        worst: Callable[[Facts], float] = lambda one: 0.0,
    ) -> Finding:
        chosen = sorted(
            ((item, one) for item, one in sized if is_it(one)), key=lambda e: worst(e[1])
        )
        return Finding(title, LOOK, [[with_words(item, words(one))] for item, one in chosen])

    def size(one: Facts) -> str:
        return f"{one.width} x {one.height}"

    def ratio(one: Facts) -> float:
        return max(one.width, one.height) / min(one.width, one.height)

    yield found("one colour everywhere", lambda one: one.constant, _colour)
    yield found(
        f"tiny: a side below {least:g} pixels",
        lambda one: min(one.width, one.height) < least,
        size,
        lambda one: min(one.width, one.height),
    )
    yield found(
        f"huge: above {HUGE / 1e6:g} million pixels",
        lambda one: one.width * one.height > HUGE,
        size,
        lambda one: -one.width * one.height,
    )
    yield found(
        f"long: a side more than {LONG:g} times the other",
        lambda one: ratio(one) > LONG,
        size,
        lambda one: -ratio(one),
    )
    modes = Counter(one.mode for _, one in sized if one.mode and one.mode not in COLOURS)
    for mode, _ in modes.most_common():
        yield found(f"not RGB: {mode}", lambda one, mode=mode: one.mode == mode, size)  # type: ignore[misc]
    yield found(
        "turned by EXIF", lambda one: one.orientation != 1, lambda one: f"EXIF {one.orientation}"
    )


def _colour(one: Facts) -> str:
    return "RGB " + " ".join(f"{255 * value:.0f}" for value in one.mean)


def absent(counts: dict[str, dict[str, int]]) -> Iterator[Finding]:
    """Classes that a split lacks, where it has others: no number tells how well they are known."""
    for split in SPLITS:
        if any(of[split] for of in counts.values()):
            lacking = [[Item("", split, name)] for name, of in counts.items() if not of[split]]
            yield Finding(f"classes without an image in {split}", LOOK, lacking)
