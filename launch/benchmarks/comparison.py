"""Ours beside its peers, which take turns, each in a process of its own that starts anew every
round: nothing that one of them imported, started or left in memory meets another."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Sizes:
    """What is measured beside ours, and how much of it."""

    rounds: int = 5  # times that ours and its peers take turns
    vs: tuple[str, ...] | None = None  # peers of the loader; None: torchvision and those installed
    jpegs: int = 256  # different files of 500x375
    big_jpegs: int = 64  # different files of 2000x1500
    passes: int = 4  # times that a round reads each
    batch: int = 64  # images
    crop: int = 224  # pixels a side
    workers: int = 2  # threads of ours, threads or processes of a peer
    step_images: int = 32  # a training step
    step_side: int = 64  # pixels
    steps: int = 20  # a round
    rows: int = 256  # of a metric's update
    updates: int = 200  # a round
    many_images: int = 14_200_000  # those of ImageNet-21k
    many_classes: int = 21_841
    many_nodes: int = 128
    listed_images: int = 1_000_000
    gpu_images: int = 256  # a training step on a GPU
    gpu_steps: int = 50  # a round


SMOKE = Sizes(
    rounds=1,
    jpegs=8,
    big_jpegs=4,
    passes=1,
    batch=4,
    crop=32,
    step_images=2,
    step_side=32,
    steps=1,
    updates=2,
    many_images=2_000,
    many_classes=20,
    many_nodes=2,
    listed_images=1_000,
    gpu_images=4,
    gpu_steps=2,
)


class BenchmarkError(Exception):
    """What stops a benchmark, in words for its user."""


@dataclass(frozen=True)
class Side:
    """One of those that are compared: a function that `launch.benchmarks.side` calls."""

    name: str
    function: Callable[..., None]  # of a module; its first argument is a Meter
    arguments: dict[str, Any] = field(default_factory=dict)  # the others, as JSON has them
    hint: str = ""  # what to do where it fails


@dataclass(frozen=True)
class Reading:
    """What one process did between a Meter's start and stop."""

    amount: float  # images, updates, commands: whatever the unit counts
    wall_s: float
    cpu_s: float  # of the process and of the processes that it started
    peak_mb: float = 0.0  # memory of the process at its peak, above that before


@dataclass(frozen=True)
class Measured:
    """A side and its readings, one a round."""

    name: str
    readings: list[Reading]

    def values(self, unit: str) -> tuple[list[float], list[float]]:
        """In that unit, by the wall and by CPU second."""
        if unit.endswith("/s"):
            wall = [one.amount / one.wall_s for one in self.readings]
            return wall, [one.amount / max(one.cpu_s, 1e-9) for one in self.readings]
        parts = {"s": 1, "ms": 1e3, "us": 1e6}[unit]
        wall = [parts * one.wall_s / one.amount for one in self.readings]
        return wall, [parts * one.cpu_s / one.amount for one in self.readings]


@dataclass(frozen=True)
class Comparison:
    """Ours, which is the first of the sides, beside its peers."""

    what: str
    unit: str  # "images/s": more is better; "s", "ms", "us": less is
    sides: list[Measured]
    note: str = ""  # what follows from them, in a sentence

    def summary(self) -> dict[str, Any]:
        """Every number; `times_as_fast` of a peer is how many times as fast ours is, of medians."""
        ours, *peers = (self._side(measured) for measured in self.sides)
        for peer in peers:
            peer["times_as_fast"] = {
                clock: self._ratio(ours[clock]["median"], peer[clock]["median"])
                for clock in ("wall", "cpu")
            }
        row = {"what": self.what, "unit": self.unit, "ours": ours, "peers": peers}
        return row | ({"note": self.note} if self.note else {})

    def _side(self, measured: Measured) -> dict[str, Any]:
        wall, cpu = measured.values(self.unit)
        return {"name": measured.name, "wall": _spread(wall), "cpu": _spread(cpu)}

    def _ratio(self, ours: float, peer: float) -> float:
        faster, slower = (ours, peer) if self.unit.endswith("/s") else (peer, ours)
        return faster / max(slower, 1e-9)


def _spread(values: list[float]) -> dict[str, Any]:
    median = statistics.median(values)
    return {"values": values, "median": median, "min": min(values), "max": max(values)}


def in_turns(sizes: Sizes, *sides: Side) -> list[Measured]:
    """`sizes.rounds` readings of each side, A B C A B C."""
    rounds = [[run_side(side) for side in sides] for _ in range(sizes.rounds)]
    columns = zip(*rounds, strict=True)
    return [Measured(side.name, list(of)) for side, of in zip(sides, columns, strict=True)]


def run_side(side: Side) -> Reading:
    """A reading of a side, from a process that does nothing else.

    Raises:
        BenchmarkError: the process failed; with what it said last
    """
    function = f"{side.function.__module__}:{side.function.__name__}"
    done = subprocess.run(
        [sys.executable, "-m", "launch.benchmarks.side", function, json.dumps(side.arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        hint = f". {side.hint}" if side.hint else ""
        raise BenchmarkError(f"{side.name}: its process ended with {done.returncode}: {last}{hint}")
    return Reading(**json.loads(done.stdout))
