"""A run that goes on with other settings than its checkpoint was written with.

More epochs, another micro-batch, another number of devices or nodes and another strategy are
possible after any step; another data.batch_size only between two epochs. Both functions change the
loaded checkpoint, before Lightning restores from it, into the one that a run with the new settings
would have written at the same place.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer

from clf.parallel.lightning_internals import convert_micro_batch_counts


class Length(NamedTuple):
    """How long a run is; each checkpoint records it."""

    epochs: int
    steps_per_epoch: int  # of the optimizer
    accumulation: int  # micro-batches of a rank in an optimizer step


def length_of(trainer: Trainer) -> Length:
    epochs = trainer.max_epochs
    assert epochs, "the length of a run is given in epochs"
    steps = int(trainer.estimated_stepping_batches)
    return Length(epochs, steps // epochs, trainer.accumulate_grad_batches)


def recorded_length(record: dict[str, Any], now: Length) -> Length:
    """The length in a checkpoint's record. Checkpoints of before it was recorded count as written
    with the present one, apart from what their config says."""
    recorded = {name: record[name] for name in Length._fields if name in record}
    return now._replace(**{"epochs": record["config"]["epochs"], **recorded})


def adapt_counts(checkpoint: dict[str, Any], old: Length, new: Length) -> None:
    """Convert, in place, the position in the training. Lightning and the loader count a rank's
    micro-batches, which hold other images once the micro-batch, ranks or batch size have changed.

    Raises:
        ValueError: the checkpoint was written within an optimizer step; or within an epoch, and an
            epoch has another number of steps now
    """
    if old[1:] != new[1:]:
        convert_micro_batch_counts(checkpoint, _converter(old, new))


def _converter(old: Length, new: Length) -> Callable[[int], int]:
    def convert(count: int) -> int:
        steps, rest = divmod(count, old.accumulation)
        if rest:
            raise ValueError(
                f"the checkpoint was written within an optimizer step, after {rest} of its "
                f"{old.accumulation} micro-batches: the run can go on only with the same number of "
                "devices and the same data.micro_batch_size as before"
            )
        return _in_new_epochs(steps, old, new) * new.accumulation

    return convert


def _in_new_epochs(steps: int, old: Length, new: Length) -> int:
    """The number of steps after which the new run has done as much as the old one after `steps`."""
    if old.steps_per_epoch == new.steps_per_epoch:
        return steps
    epochs, within = divmod(steps, old.steps_per_epoch)
    if within:
        raise ValueError(
            f"data.batch_size: the checkpoint was written after {within} of the "
            f"{old.steps_per_epoch} optimizer steps of an epoch, and now an epoch has "
            f"{new.steps_per_epoch}: the batch size can change only between two epochs. Resume the "
            "run with its former data.batch_size until the epoch has ended"
        )
    return epochs * new.steps_per_epoch


def adapt_groups(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Change, in place, the saved parameter groups into those of this machine: whether the step is
    fused depends on where the weights are. Groups without weights, which older versions saved, are
    left out where the optimizer has none. Call it where `adapt_schedules` is called."""
    for optimizer, state in zip(_whole(trainer), checkpoint["optimizer_states"], strict=True):
        if len(optimizer.param_groups) < len(state["param_groups"]):
            state["param_groups"] = [group for group in state["param_groups"] if group["params"]]
        pairs = zip(optimizer.param_groups, state["param_groups"], strict=False)
        for group, saved in pairs:  # of another number of groups the optimizer itself speaks
            if "fused" in group:
                saved["fused"] = group["fused"]


def adapt_schedules(trainer: Trainer, checkpoint: dict[str, Any], old: Length, new: Length) -> None:
    """Replace, in place, the saved settings of the optimizers (learning rate, weight decay, ...)
    and the state of the schedules by those that a run of the new length and settings has at the
    same place. Call it once the optimizers are built and before Lightning restores their state.

    Each schedule, whichever it is, takes all of its steps again: some microseconds for each.
    """
    states = checkpoint["lr_schedulers"]
    for index, config in enumerate(trainer.lr_scheduler_configs):
        position = states[index].get("last_epoch")
        if config.reduce_on_plateau:
            continue  # it follows a measured number, not the length of the run
        if position is None:
            rank_zero_warn(
                f"{type(config.scheduler).__name__} does not say how many steps it has taken "
                "(last_epoch): it goes on as the schedule of the run's former length"
            )
            continue
        if config.interval == "step":
            position = _in_new_epochs(position, old, new)
        _take_steps(config.scheduler, position)
        states[index] = config.scheduler.state_dict()
    for optimizer, state in zip(_whole(trainer), checkpoint["optimizer_states"], strict=True):
        for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
            # Not the learning rate alone: a schedule may move the momentum as well.
            saved.update({key: value for key, value in group.items() if key != "params"})


def _whole(trainer: Trainer) -> list[Optimizer]:
    """The model's optimizers. Under ZeRO, the trainer's own lack groups with nothing to train."""
    return getattr(trainer.strategy, "whole_optimizers", trainer.optimizers)


def _take_steps(scheduler: Any, count: int) -> None:
    with warnings.catch_warnings():
        # The optimizer's own steps are those of the checkpoint.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(count):
            scheduler.step()
