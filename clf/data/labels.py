"""Labels of rows as people write them: numbers, texts, or both; names that differ in case alone."""

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from clf.data.reader import Rows, first_and_count


def one_kind_of_label(rows: Rows) -> Rows:
    """All labels are texts where one is, so that they can be sorted."""
    if all(isinstance(row.label, int) for listed in rows.values() for row in listed):
        return dict(rows)
    return {
        split: [
            row if isinstance(row.label, str) else row._replace(label=str(row.label))
            for row in listed
        ]
        for split, listed in rows.items()
    }


def mixed_labels(rows: Rows) -> tuple[list[str], list[str]]:
    """A note where labels are numbers and texts, and a fault where one number is written in two
    ways, which would make two classes of one."""
    labels = {row.label for listed in rows.values() for row in listed}
    numbers = sorted(label for label in labels if isinstance(label, int))
    texts = sorted(label for label in labels if isinstance(label, str))
    notes, faults = [], []
    if numbers and texts:
        shown = [first_and_count(list(map(str, some)), 3) for some in (numbers, texts)]
        notes.append(
            f"labels are numbers ({shown[0]}) and texts ({shown[1]}); all are read as texts"
        )
    written: dict[Decimal, set[str]] = {Decimal(number): {str(number)} for number in numbers}
    for text in texts:
        if re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", text):
            written.setdefault(Decimal(text.strip()), set()).add(text)
    # 00 and 0 are numbers of two shirts, if all labels are texts.
    twice = [
        " and ".join(sorted(ways))
        for _, ways in sorted(written.items())
        if len(ways) > 1 and (numbers or any("." in way for way in ways))
    ]
    if twice:
        faults.append(
            f"data.root: {len(twice)} numbers are written in two ways as labels, which would be "
            f"classes of their own: {first_and_count(twice, 3)}; write each in one way"
        )
    return notes, faults


def alike(classes: list[str]) -> Iterator[str]:
    """A note on classes that a person would take for one: Cat and cat, or an e with an accent that
    is one character in one name and two in the other."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFKC", name).casefold()
        groups.setdefault(" ".join(plain.split()), []).append(name)
    same = [" and ".join(map(repr, names)) for names in groups.values() if len(names) > 1]
    if same:
        yield (
            f"{len(same)} names of classes differ in case, spaces or the way a character is "
            f"written alone, and are classes of their own: {first_and_count(same, 3)}"
        )
