"""What would stop or falsify a run on a data set, from the facts of its images.

report = check(splits, faults, members, facts, cfg)
report.findings, report.stops, report.fix_list, report.as_json()
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from clf.config import DataConfig
from clf.data.copies import alike, copies, copy_findings, fix_list
from clf.data.decode import Look
from clf.data.findings import FALSIFIES, LOOK, Finding, absent, broken, item_of, odd
from clf.data.index import ImageSplits
from clf.data.inspection import Facts
from clf.data.label_errors import ClassLabels
from clf.data.overlap import Member
from clf.data.reader import SPLITS


@dataclass
class Report:
    """All that was found; `faults` are those of the data set as a whole."""

    root: str
    images: int
    faults: list[str]
    notes: list[str]
    counts: dict[str, dict[str, int]]  # class -> split -> images
    findings: list[Finding] = field(default_factory=list)
    sizes: dict[str, list[float]] = field(default_factory=dict)  # quantiles 0, 5, 50, 95, 100 %
    mean: list[float] = field(default_factory=list)  # of the training images, by channel, 0..1
    std: list[float] = field(default_factory=list)
    fix_list: list[str] = field(default_factory=list)  # places for data.exclude
    labels: list[ClassLabels] = field(default_factory=list)  # where runs have scored the labels

    @property
    def spoils(self) -> bool:
        """Whether something would stop or falsify a run."""
        return bool(self.faults) or any(one.weight != LOOK for one in self.findings)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values; images by their places."""
        tree = {"spoils_a_run": self.spoils, **asdict(self)}
        for item in (item for one in tree["findings"] for each in one["groups"] for item in each):
            del item["image"]
        return tree


def check(
    splits: ImageSplits,
    faults: Sequence[str],
    members: Sequence[Member],
    facts: Sequence[Facts],
    cfg: DataConfig,
) -> Report:
    """The report on a data set.

    Args:
        faults: those of `clf.data.index.read_splits`
        members, facts: each image, and what `clf.data.inspection.inspect` knows of it
    """
    counts = {name: dict.fromkeys(SPLITS, 0) for name in splits.classes}
    for member in members:
        counts[member.label][member.split] += 1
    report = Report(str(cfg.root), len(members), list(faults), splits.notes, counts)
    items = [item_of(member, cfg) for member in members]
    same = copies(items, facts)
    similar = alike(items, facts, Look.of(cfg), report.notes)
    report.findings = [
        one
        for one in (
            *broken(items, facts),
            *copy_findings("the same image", same, FALSIFIES),
            *copy_findings("the same picture, saved anew,", similar, LOOK),
            *odd(items, facts, cfg),
            *absent(counts),
        )
        if one.groups
    ]
    report.fix_list = fix_list(items, facts, [*same, *similar], splits.drawn)
    usable = [one for one in facts if not one.problem]
    if usable:
        report.sizes = _sizes(usable)
    pairs = zip(members, facts, strict=True)
    train = [one for member, one in pairs if member.split == "train" and one.mean]
    if train:
        mean_C = np.mean([one.mean for one in train], axis=0)
        square_C = np.mean([one.square for one in train], axis=0)
        report.mean = mean_C.round(4).tolist()
        report.std = np.sqrt(np.maximum(square_C - mean_C**2, 0)).round(4).tolist()
    return report


def _sizes(facts: Iterable[Facts]) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {
        "width": [one.width for one in facts],
        "height": [one.height for one in facts],
        "width / height": [one.width / one.height for one in facts],
        "kilobytes": [one.size / 1000 for one in facts],
    }
    quantiles = (0, 0.05, 0.5, 0.95, 1)
    return {
        name: np.quantile(values, quantiles).round(3).tolist() for name, values in columns.items()
    }
