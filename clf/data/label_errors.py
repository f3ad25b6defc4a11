"""Finds images whose label is probably wrong, from what networks say that were not trained on them.

    scores = Scores(members, cfg, classes)
    scores.add("runs/mine", predictions, trained_on)      # for each run and split
    scores.findings(items)

Confident learning (Northcutt and others, "Confident Learning: Estimating Uncertainty in Dataset
Labels", 2021; the package cleanlab): a network that has learned most labels contradicts the wrong
ones, provided that it has not seen them. So each image is scored only by runs that did not train on
it, nor on another file with the same bytes; several runs with other `data.split_seed` cover it all.

N images, M members of the data, C classes.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from clf.atomic import write_file
from clf.config import DataConfig
from clf.data.exclude import place_in_data
from clf.data.findings import LOOK, Finding, Item, with_words
from clf.data.inspection import Facts
from clf.data.overlap import Member
from clf.data.reader import DataError
from clf.predictions import Predictions

TITLE = "probably another label"
REMEDY = (
    "--run: labels that are probably wrong are found with the package cleanlab, which is not "
    "installed: pip install 'clf[label_errors]'"
)


def missing() -> str:
    """What is missing to find wrong labels, and the remedy; "" if nothing is."""
    return "" if find_spec("cleanlab") is not None else REMEDY


def fingerprints(paths: Iterable[str], cfg: DataConfig) -> np.ndarray:
    """uint64 [N]: 8 bytes for each image by its place in the data, so that a run can record which
    images it trained on, however many."""
    return np.array([_fingerprint(place_in_data(path, cfg)) for path in paths], dtype=np.uint64)


def is_recorded(path: Path, listed: Path) -> bool:
    """Whether the file of fingerprints is younger than the list of the run's images: then there is
    nothing to add."""
    return path.exists() and listed.stat().st_mtime_ns < path.stat().st_mtime_ns


def record_trained_on(path: Path, new: np.ndarray) -> None:
    """Add the fingerprints of images to the file, which a resumed run has already: its images may
    have changed in between."""
    known = read_trained_on(path) if path.exists() else new[:0]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, NumPy would put ".npy" behind it
            np.save(file, np.union1d(known, new))

    write_file(path, write)


def read_trained_on(path: Path) -> np.ndarray:
    """What `record_trained_on` wrote, uint64 [N], sorted."""
    return np.load(path, allow_pickle=False)


def _fingerprint(place: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(place), digest_size=8).digest(), "big")


@dataclass
class ClassLabels:
    """How many images of a class were scored, and how many of their labels are suspected."""

    name: str
    scored: int
    suspected: int


class Scores:
    """The probabilities of each image, as the mean over the runs that did not train on it.

    Args:
        members, facts: the images of the data, and what is known of each
        classes: C names in label order
    """

    def __init__(
        self,
        members: Sequence[Member],
        facts: Sequence[Facts],
        cfg: DataConfig,
        classes: Sequence[str],
    ) -> None:
        self.members, self.classes = members, list(classes)
        places = [place_in_data(member.place, cfg) for member in members]
        self._fingerprints_M = np.array([_fingerprint(one) for one in places], dtype=np.uint64)
        _, self._contents_M = np.unique(
            [one.content or str(place) for place, one in enumerate(facts)], return_inverse=True
        )
        self._by_place: dict[str, list[int]] = {}
        for number, place in enumerate(places):
            self._by_place.setdefault(place, []).append(number)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []  # members, probabilities
        self.runs: list[str] = []

    def add(self, run: str, predictions: Predictions, trained_on: np.ndarray) -> int:
        """Take a run's predictions of a split; returns the number of images that were scored.

        Args:
            trained_on: fingerprints of the images that the run was trained on

        Raises:
            DataError: the run has other classes, or was trained on other images
        """
        if sorted(predictions.classes) != sorted(self.classes):
            raise DataError(
                f"--run {run}: it has {len(predictions.classes)} classes and the data "
                f"{len(self.classes)}, and not the same: {_difference(predictions, self.classes)}; "
                "give runs that were trained on this data"
            )
        seen_M = np.isin(self._fingerprints_M, trained_on)
        seen_M |= np.isin(self._contents_M, self._contents_M[seen_M])
        rows, found = [], []
        for row, place in enumerate(self._places(predictions.images)):
            numbers = self._by_place.get(place, [])
            rows += [row] * len(numbers)
            found += numbers
        if 2 * len(set(rows)) < len(predictions):
            raise DataError(
                f"--run {run}: of the {len(predictions)} images of its {predictions.split} split "
                f"only {len(set(rows))} are in this data, such as {predictions.images[0]} is not; "
                "give ROOT as the run's data.root, or runs that were trained on this data"
            )
        members_n, rows_n = np.array(found, dtype=np.int64), np.array(rows, dtype=np.int64)
        unseen_n = ~seen_M[members_n]
        columns = [predictions.classes.index(name) for name in self.classes]
        probabilities_nC = predictions.probabilities_NC[rows_n[unseen_n]][:, columns]
        self._parts.append((members_n[unseen_n], probabilities_nC))
        if run not in self.runs:
            self.runs.append(run)
        return int(unseen_n.sum())

    def _places(self, images: Sequence[str]) -> list[str]:
        """Where predicted images are in the data. They may have lain under another root: on a
        node's own disk, or before the folder was moved."""
        first = images[0].split("/")
        tails = ("/".join(first[start:]) for start in range(len(first)))
        tail = next((one for one in tails if one in self._by_place), None)
        if tail is None:
            return list(images)
        root = images[0][: len(images[0]) - len(tail)]
        return [image.removeprefix(root) for image in images]

    def mean(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The members that were scored, int64 [N], sorted; their probabilities [N, C] float64; and
        by how many runs, int64 [N]."""
        members_n = np.concatenate([part[0] for part in self._parts])
        members_N, inverse_n, runs_N = np.unique(members_n, return_inverse=True, return_counts=True)
        sums_NC = np.zeros((len(members_N), len(self.classes)))
        np.add.at(sums_NC, inverse_n, np.concatenate([part[1] for part in self._parts]))
        return members_N, sums_NC / sums_NC.sum(axis=1, keepdims=True), runs_N

    def findings(self, items: Sequence[Item]) -> tuple[list[Finding], list[ClassLabels], list[str]]:
        """The suspected images, the least plausible label first; the classes, those with the most
        suspicions first; and notes.

        Args:
            items: one for each member
        """
        members_N, probabilities_NC, runs_N = self.mean()
        if not len(members_N):
            return [], [], ["labels: no image was scored that the runs were not trained on"]
        number = {name: place for place, name in enumerate(self.classes)}
        labels_N = np.array([number[self.members[place].label] for place in members_N])
        suspected_n = suspects(labels_N, probabilities_NC)
        groups = [
            [
                with_words(
                    items[members_N[place]],
                    _words(self.classes, labels_N[place], probabilities_NC[place], runs_N[place]),
                )
            ]
            for place in suspected_n
        ]
        scored, suspected = Counter(labels_N.tolist()), Counter(labels_N[suspected_n].tolist())
        by_class = [
            ClassLabels(name, scored[label], suspected[label])
            for label, name in enumerate(self.classes)
            if scored[label]
        ]
        by_class.sort(key=lambda one: (-one.suspected / one.scored, one.name))
        notes = [self._coverage(len(members_N), len(suspected_n))]
        return [Finding(TITLE, LOOK, groups)] if groups else [], by_class, notes

    def _coverage(self, scored: int, suspected: int) -> str:
        runs = f"{len(self.runs)} run{'s' if len(self.runs) > 1 else ''}"
        note = (
            f"labels: {runs} scored {scored} of {len(self.members)} images without having trained "
            f"on them, and {suspected} of these labels are probably wrong"
        )
        if scored < len(self.members):
            note += "; more runs with another data.split_seed, each given to --run, score more"
        return note


def suspects(labels_N: np.ndarray, probabilities_NC: np.ndarray) -> np.ndarray:
    """int64: the images whose label is probably wrong, the least plausible first.

    Args:
        labels_N: the labels that are given
        probabilities_NC: of networks that were not trained on these images
    """
    from cleanlab.filter import find_label_issues

    return find_label_issues(
        labels_N,
        probabilities_NC,
        return_indices_ranked_by="self_confidence",
        n_jobs=1,  # processes would cost more than they save, and torch may have threads here
    )


def _words(classes: Sequence[str], label: int, probabilities_C: np.ndarray, runs: int) -> str:
    likely = int(probabilities_C.argmax())
    seen = "" if runs == 1 else f", {runs} runs"
    return (
        f"rather {classes[likely]} ({probabilities_C[likely]:.1%}) than {classes[label]} "
        f"({probabilities_C[label]:.1%}){seen}"
    )


def _difference(predictions: Predictions, classes: Sequence[str]) -> str:
    only_run = sorted(set(predictions.classes) - set(classes))[:3]
    only_data = sorted(set(classes) - set(predictions.classes))[:3]
    parts = [("only the run has", only_run), ("only the data has", only_data)]
    return ", ".join(f"{words} {', '.join(names)}" for words, names in parts if names)
