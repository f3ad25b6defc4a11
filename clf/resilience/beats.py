"""What the ranks of a run publish of themselves, and what follows from it: who is behind, and who
is silent. Imports no torch."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

EXIT_HANG = 76  # of every rank of a run that hangs, when all is said


@dataclass(frozen=True)
class Beat:
    """What a rank publishes: who it is, and how far it has come."""

    node: str
    machine: str  # where the process is, as `clf.resilience.processes.machine` tells it
    pid: int
    began: str
    number: int  # of the beat: it grows as long as the rank's threads run
    marks: int  # marks passed since the start
    doing: str
    watched: bool  # else it may take its time for what it is doing
    epoch: int
    step: int
    done: bool = False  # the rank leaves in order


class Still:
    """For how many seconds each value has stayed the same.

    It is told the seconds of each look, of which no more than `most_s` count: time in which this
    process itself was stopped, or could not run, says nothing of others.
    """

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self.seconds: dict[Hashable, float] = {}
        self._values: dict[Hashable, Any] = {}

    def look(self, values: Mapping[Any, Any], gap_s: float) -> None:
        for key, value in values.items():
            same = key in self._values and self._values[key] == value
            self.seconds[key] = self.seconds[key] + min(gap_s, self.most_s) if same else 0.0
            self._values[key] = value


def behind(table: Mapping[int, Beat]) -> list[int]:
    """The ranks that have passed the fewest marks; [] if all have passed as many, and more than
    one could be meant."""
    least = min(beat.marks for beat in table.values())
    found = [rank for rank, beat in table.items() if beat.marks == least]
    return found if len(found) < len(table) or len(table) == 1 else []
