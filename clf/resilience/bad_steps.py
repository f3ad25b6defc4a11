"""What is known of a training step whose loss or gradient is not finite, and the errors that say
so."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from clf.batch import PADDING
from clf.run_folder import RunFolder

SHOWN = 3  # paths in a message


class BadLossError(ValueError):
    """A loss, gradient or weight is not finite; on all ranks in the same step."""


class RollBack(Exception):
    """All ranks have left the fit in the same step, to go on from the last good checkpoint.

    Attributes:
        left_out: the steps whose update is left out from now on
    """

    def __init__(self, left_out: list[int], sentence: str) -> None:
        super().__init__(sentence)
        self.left_out, self.sentence = left_out, sentence


@dataclass
class BadStep:
    """A step of this rank that may be bad, with tensors of the device.

    Attributes:
        losses, indices: of each micro-batch: a scalar; the images' positions in the split
        bad, norm: whether it is bad, and the norm of its gradient; the same on all ranks
        is_left_out: its update did not happen anyway
    """

    epoch: int
    number: int
    losses: list[Tensor] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)
    bad: Any = None
    norm: Any = None
    is_left_out: bool = False

    def row(self, rank: int, path: Callable[[int], str]) -> dict[str, Any]:
        """This rank's line of bad_loss.jsonl: the paths are those of the micro-batches whose loss
        is not finite, or of all where none is so. What JSON has no number for is text ("nan")."""
        losses = [float(loss) for loss in self.losses]
        bad = [place for place, loss in enumerate(losses) if not math.isfinite(loss)]
        places = bad or range(len(losses))
        indices = [index for place in places for index in self.indices[place].tolist()]
        loss = losses[bad[0]] if bad else sum(losses) / max(1, len(losses))
        return {
            "epoch": self.epoch,
            "step": self.number,
            "rank": rank,
            "loss": _number(loss),
            "gradient_norm": _number(float(self.norm)),
            "paths": [path(index) for index in indices if index != PADDING],
        }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def refusal(rows: list[dict[str, Any]], folder: RunFolder, mode: str) -> str:
    """The sentences for the user.

    Args:
        rows: of the ranks that had the step's bad batch
        mode: the run's on_bad_loss
    """
    first, paths = rows[0], [path for row in rows for path in row["paths"]]
    is_loss = isinstance(first["loss"], str)
    what = "the loss" if is_loss else "the gradient's norm"
    value = first["loss"] if is_loss else first["gradient_norm"]
    ranks = ", ".join(str(row["rank"]) for row in rows)
    shown = ", ".join(paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")
    remedy = "Look at the images; lower model.learning_rate, or set strategy.gradient_clip=1.0"
    if mode == "stop":
        remedy += "; on_bad_loss=skip and on_bad_loss=rollback go on without such a batch"
    return (
        f"epoch {first['epoch']}, step {first['step']}: {what} was {value} on rank"
        f"{'s' if len(rows) > 1 else ''} {ranks}, expected a finite number. The batch had {shown}; "
        f"all of its images are in {folder.bad_loss}. The checkpoints are from before it. {remedy}"
    )
