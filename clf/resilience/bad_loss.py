"""A loss or gradient that is not finite: `on_bad_loss` (stop, skip, rollback).

A step whose gradient is not finite on one rank has one that is not finite on all of them: the ranks
add their gradients up, and `spread` gives a loss that is not finite such a gradient. So the flag of
a step is the same on all ranks without a further collective, and stays on the device. The host
looks at it when it waits for the device anyway: every tracking.log_every steps, at an epoch's end,
and before a checkpoint.

A step counts from 0 and an epoch from 1, as in metrics.csv.
"""

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from clf.atomic import append_line
from clf.parallel import lightning_internals as internals
from clf.resilience.bad_steps import BadLossError, BadStep, RollBack, refusal
from clf.resilience.midway import unwritten
from clf.resilience.undo import Key, Undo, changed_by
from clf.run_folder import RunFolder, read_json, read_json_lines

MOST_IN_A_ROW = 10  # skipped steps: more of them are no accident of a batch
MOST_OF_A_SCALER = 30  # steps that a gradient scaler skips in a row: it can halve no more
MOST_ROLLBACKS = 10  # in a run, over all of its starts


class BadLoss(Callback):
    """Does what `on_bad_loss` says, on all ranks in the same step.

    Args:
        mode: "stop", "skip" or "rollback"
        left_out: steps whose update does not happen, since an earlier start found them bad
    """

    def __init__(self, mode: str, folder: RunFolder, left_out: list[int]) -> None:
        self.mode, self.folder, self.left_out = mode, folder, frozenset(left_out)
        self.skipped = self.in_row = 0  # as of the last look
        self._steps: list[BadStep] = []  # those not looked at
        self._current: BadStep | None = None
        self._norm: Tensor | None = None
        self._weights, self._counts = Undo(), Undo()  # the optimizer's; BatchNorm's and metrics'
        self._hooks: list[Any] = []

    # --- begin and go on ---

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_row": self.in_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_row = state_dict["skipped"], state_dict["in_row"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.mode != "skip" and not self.left_out:
            return
        strategy = trainer.strategy
        for optimizer in getattr(strategy, "whole_optimizers", strategy.optimizers):

            def before(inner: Optimizer, *args: Any) -> None:
                if self._may_undo(trainer):
                    self._weights.keep(changed_by(inner))

            def after(inner: Optimizer, *args: Any) -> None:
                if self._may_undo(trainer):
                    bad = self._is_left_out(trainer) or self._bad(trainer)[0]
                    self._weights.put_back(changed_by(inner), bad)

            self._hooks += [
                optimizer.register_step_pre_hook(before),
                optimizer.register_step_post_hook(after),
            ]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._steps, self._current = [], [], None
        self._weights, self._counts = Undo(), Undo()

    # --- a step ---

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._current is None:
            self._current = BadStep(trainer.current_epoch + 1, trainer.global_step)
            if self._may_undo(trainer):
                self._counts.keep(_counts(pl_module))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if not hasattr(trainer.strategy, "gradient_norm"):
            found = (parameter.grad for parameter in pl_module.parameters())
            gradients = [gradient.detach() for gradient in found if gradient is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients) if gradients else None

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self._current
        if step is None:
            return
        if outputs is not None:  # Lightning has divided the loss by the micro-batches of the step
            step.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
            step.indices.append(batch["indices"])
        if not internals.ends_a_step(trainer):
            return
        self._current = None
        step.is_left_out = step.number in self.left_out
        step.bad, step.norm = self._bad(trainer)
        if self.mode == "skip" or step.is_left_out:
            self._counts.put_back(_counts(pl_module), True if step.is_left_out else step.bad)
        self._steps.append(step)
        due = trainer.global_step % trainer.log_every_n_steps == 0
        if due or internals.ends_an_epoch(trainer):
            self._look(trainer)
        if self.mode != "stop":
            pl_module.log("train/skipped_steps", float(self.skipped))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look(trainer)
        if self.state_key in checkpoint.get("callbacks", {}):  # from before this look
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def gradient_norm(self, trainer: Trainer) -> Any:
        """L2 norm of the whole gradient of the last step, averaged over ranks and micro-batches and
        not clipped: a tensor of the device, or a number; None without gradients. Under ZeRO no rank
        has the whole gradient, but DeepSpeed has computed its norm."""
        return getattr(trainer.strategy, "gradient_norm", self._norm)

    def _bad(self, trainer: Trainer) -> tuple[Tensor, Tensor]:
        """Whether the gradient of the last step is bad, and its norm, without dimensions, on the
        device."""
        norm = self.gradient_norm(trainer)
        norm = torch.as_tensor(0.0 if norm is None else norm).detach()
        return ~torch.isfinite(norm), norm

    def _is_left_out(self, trainer: Trainer) -> bool:
        return self._current is not None and self._current.number in self.left_out

    def _may_undo(self, trainer: Trainer) -> bool:
        return self.mode == "skip" or self._is_left_out(trainer)

    # --- what the host does ---

    def _look(self, trainer: Trainer) -> None:
        """Read the flags of the steps since the last look, and act on those that are bad."""
        steps, self._steps = self._steps, []
        if not steps:
            return
        flags = torch.stack([step.bad.to(steps[-1].bad.device) for step in steps]).tolist()
        bad, longest = [], self.in_row
        for step, is_bad in zip(steps, flags, strict=True):
            if step.is_left_out:
                self.skipped += 1
            elif is_bad:
                bad.append(step)
                self.in_row += 1
                longest = max(longest, self.in_row)
                self.skipped += self.mode == "skip"
            else:
                self.in_row = 0
        if not bad:
            return
        scaled = getattr(trainer.precision_plugin, "precision", "") == "16-mixed"
        if scaled and longest <= MOST_OF_A_SCALER:
            return
        self._act(trainer, bad, too_many=longest > MOST_IN_A_ROW or scaled)

    def _act(self, trainer: Any, bad: list[BadStep], too_many: bool) -> None:
        if self.mode != "skip":
            del bad[1:]  # those after it follow from it
        path = getattr(trainer.train_dataloader, "path", str)
        rows = [_of_ranks(step.row(trainer.global_rank, path)) for step in bad]
        rows = [_with_a_bad_loss(of_step) for of_step in rows]
        if trainer.is_global_zero:
            self._record([row for of_step in rows for row in of_step])
        if self.mode == "skip" and not too_many:
            return
        sentence = refusal(rows[-1], self.folder, self.mode)
        if self.mode == "stop" or too_many:
            more = (
                f". There were more than {MOST_IN_A_ROW} such steps in a row, which is all that "
                "on_bad_loss=skip leaves out"
                if self.mode == "skip"
                else ""
            )
            raise BadLossError(sentence + more)
        if len(self.left_out) >= MOST_ROLLBACKS:
            raise BadLossError(
                f"{sentence}. The run has gone back {MOST_ROLLBACKS} times for such steps, which "
                "is all that on_bad_loss=rollback does"
            )
        unwritten(trainer)  # the checkpoint that all ranks go back to is on the disk now
        raise RollBack(sorted(self.left_out | {bad[0].number}), sentence)

    def _record(self, rows: list[dict[str, Any]]) -> None:
        """Add rows to bad_loss.jsonl that an earlier start has not written there."""
        file = self.folder.bad_loss
        keys = ("epoch", "step", "rank")
        known = {tuple(row.get(key) for key in keys) for row in read_json_lines(file)}
        for row in rows:
            if tuple(row[key] for key in keys) not in known:
                add = partial(append_line, file, json.dumps(row))
                self.folder.writer.write(file, add)


class FiniteWeights(Callback):
    """Refuses a checkpoint whose weights are not finite, on all ranks together, before anything
    replaces the last good one."""

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state = checkpoint["state_dict"]
        names = [name for name, p in pl_module.named_parameters() if p.requires_grad]
        norms = (n for n, module in pl_module.named_modules() if internals.is_batchnorm(module))
        names += [f"{n}.running_{what}" for n in norms for what in ("mean", "var")]
        kept = [name for name in names if state.get(name) is not None]
        if not kept:
            return
        device = state[kept[-1]].device
        flags = [torch.isfinite(state[name]).all().to(device) for name in kept]
        if not all(finite := torch.stack(flags).tolist()):
            wrong = kept[finite.index(False)]
            raise BadLossError(
                f"epoch {trainer.current_epoch + 1}, step {max(0, trainer.global_step - 1)}: "
                f"{wrong} is not finite, so no checkpoint was written, and the last one stays as "
                "it is. Lower model.learning_rate, or set strategy.gradient_clip=1.0, and start "
                "the run again: it goes on from there"
            )


def read_left_out(folder: RunFolder) -> list[int]:
    """The steps that earlier starts went back for; in a run without any: none."""
    return (read_json(folder.left_out) or {}).get("steps", [])


def _counts(pl_module: Any) -> Iterator[tuple[Key, Tensor]]:
    """What the forward passes of a step change on this rank: statistics of BatchNorm, counts."""
    for place, module in enumerate(pl_module.modules()):
        if internals.is_batchnorm(module):
            for name, buffer in module.named_buffers(recurse=False):
                yield (place, name), buffer
    metrics = pl_module.metrics("train")
    for name in ("counts_K", "loss_sums", "first_bad"):
        yield (-1, name), getattr(metrics, name)


def _of_ranks(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same step's row of every rank. All ranks have found the step bad, and call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [row]
    rows: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(rows, row)
    return rows


def _with_a_bad_loss(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the ranks whose own loss was not finite; of all, where it was the gradient."""
    return [row for row in rows if isinstance(row["loss"], str)] or rows
