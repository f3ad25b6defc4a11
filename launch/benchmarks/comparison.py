"""Ours beside a peer, measured in turns."""

import contextlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 7  # times that ours and the peer take turns
    warm_ups: int = 1  # rounds before these
    jpegs: int = 256  # different files
    passes: int = 4  # times that a round reads each
    batch: int = 64  # images
    crop: int = 224  # pixels a side
    workers: int = 2  # threads of ours, processes of the reference
    step_images: int = 32  # a training step
    step_side: int = 64  # pixels
    steps: int = 5  # a round
    rows: int = 256  # of a metric's update
    updates: int = 20  # a round


SMOKE = Sizes(
    rounds=1,
    warm_ups=0,
    jpegs=8,
    passes=1,
    batch=4,
    crop=32,
    step_images=2,
    step_side=32,
    steps=1,
    updates=2,
)


@dataclass(frozen=True)
class Side:
    """One of two that were measured."""

    name: str
    values: list[float]  # one a round

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def summary(self) -> dict[str, Any]:
        least, most = min(self.values), max(self.values)
        return {**asdict(self), "median": self.median, "min": least, "max": most}


@dataclass(frozen=True)
class Comparison:
    """Ours beside a peer, measured in turns."""

    what: str
    unit: str  # "images/s": more is better; "us", "s": less is
    ours: Side
    peer: Side

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, of medians."""
        faster, slower = self.ours.median, self.peer.median
        return faster / slower if self.unit.endswith("/s") else slower / faster

    def summary(self) -> dict[str, Any]:
        sides = {"ours": self.ours.summary(), "peer": self.peer.summary()}
        return {"what": self.what, "unit": self.unit, "ratio": self.ratio, **sides}


Measure = Callable[[], float]


def in_turns(sizes: Sizes, *measures: Measure) -> list[list[float]]:
    """`sizes.rounds` values of each, A B A B, after warm-ups that do not count."""
    rounds = [[measure() for measure in measures] for _ in range(sizes.warm_ups + sizes.rounds)]
    return [list(values) for values in zip(*rounds[sizes.warm_ups :], strict=True)]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """For torch on the CPU: on a busy machine, threads that wait for each other hide the work."""
    import torch

    here = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(here)
