"""A loss that is not finite, on one rank of several: the run stops and says so, leaves the step
out, or goes back for it; no checkpoint with such weights replaces a good one."""

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from clf.config import EmaConfig
from clf.models.losses import spread
from clf.optim.build import optimizer_and_schedule
from clf.resilience import bad_loss
from clf.resilience.bad_steps import BadLossError
from clf.resilience.undo import Undo, changed_by
from clf.run_folder import RunFolder, read_json_lines, read_scalars
from tests import tiny
from tests.resilience.test_same_bits import differing, state

STEPS, WORLD = 4, 2  # an epoch; 2 epochs
BAD = 5  # the second step of the second epoch


class Poisoned(tiny.TinyModel):
    """Sees images of NaN in some steps, on one rank."""

    steps: tuple[int, ...] = ()
    ruined = False  # whether its weights end an epoch with a NaN
    rank = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step in self.steps and self.global_rank == self.rank:
            batch = {**batch, "images": batch["images"].float() * math.nan}
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.ruined:
            next(self.network.parameters()).data.fill_(math.nan)


def train(cfg: Any, folder: str, steps: tuple[int, ...], rank: int = 0, **how: Any) -> str:
    """The message of the error that ends the run; "" if none does."""
    limits = how.pop("limits", {})
    with (
        patch.object(Poisoned, "steps", steps),
        patch.object(Poisoned, "rank", rank),
        patch.object(Poisoned, "ruined", how.pop("ruined", False)),
        patch.multiple(bad_loss, **limits) if limits else nullcontext(),
    ):
        try:
            tiny.fit(cfg, folder, **how)
        except BadLossError as error:
            return str(error)
    return ""


def config(tmp_path: Path, strategy: str, mode: str, log_every: int = 3, **settings: Any) -> Any:
    world = 1 if strategy == "auto" else WORLD
    images = {"image_size": 16, "eval_resize": 16, "batch_size": 16, "micro_batch_size": 4}
    cfg = tiny.config(
        str(tmp_path / "digits"), strategy, world, data=images,
        model={"_target_": "tests.resilience.test_bad_loss.Poisoned"},
        limit_batches=STEPS * 4 // world, on_bad_loss=mode, **settings,
    )  # fmt: skip
    cfg.tracking.log_every = log_every
    return cfg


def run(ranks: Any, cfg: Any, folder: Path, *steps: int, **how: Any) -> str:
    rank = (cfg.gpus or 1) - 1
    messages = ranks(cfg.gpus).run(train, cfg, str(folder), steps, rank, **how)
    assert len(set(messages)) == 1, "the ranks agree"
    return messages[0]


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_json_lines(RunFolder(folder).bad_loss)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "deepspeed_zero1", "deepspeed_zero3"])
def test_a_run_stops_names_the_images_and_keeps_its_last_good_checkpoint(
    strategy: str, ranks: Any, tmp_path: Path
) -> None:
    cfg, folder = config(tmp_path, strategy, "stop"), tmp_path / "run"
    message = run(ranks, cfg, folder, BAD)
    rank = cfg.gpus - 1
    assert f"epoch 2, step {BAD}: the loss was nan on rank {rank}, expected" in message
    assert str(folder / "bad_loss.jsonl") in message
    assert "on_bad_loss=skip" in message
    (row,) = rows(folder)
    assert (row["epoch"], row["step"], row["rank"], row["loss"]) == (2, BAD, rank, "nan")
    assert row["gradient_norm"] in ("nan", "inf"), "DeepSpeed says inf for either"
    assert len(row["paths"]) == 16 // cfg.gpus
    assert all(Path(path).is_file() for path in row["paths"])
    assert row["paths"][0] in message
    kept = state(folder)
    assert kept["global_step"] == STEPS
    assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"


@pytest.mark.parametrize("strategy", ["auto", "ddp", "deepspeed_zero2", "deepspeed_zero3"])
def test_a_step_that_is_skipped_and_one_that_is_gone_back_for_change_nothing(
    strategy: str, ranks: Any, tmp_path: Path
) -> None:
    numbers = []
    for mode in ("skip", "rollback"):
        cfg = config(tmp_path, strategy, mode, ema=EmaConfig(decay=0.9))
        assert run(ranks, cfg, tmp_path / mode, BAD) == ""
        assert [row["step"] for row in rows(tmp_path / mode)] == [BAD]
        found = read_scalars(tmp_path / mode)
        if strategy == "ddp":  # DeepSpeed's micro-batches have rows of their own
            steps = [row["step"] for row in found]
            assert len(steps) == len(set(steps)) > 0
        assert [float(x) for row in found if (x := row["train/skipped_steps"])][-1] == 1
        numbers.append([row["train/loss"] + row["val/loss"] for row in found if row["val/loss"]])
    skipped, back = state(tmp_path / "skip"), state(tmp_path / "rollback")
    entries = ("state_dict", "optimizer_states", "lr_schedulers", "clf_ema")
    assert differing(*({name: one[name] for name in entries} for one in (skipped, back))) == []
    assert skipped["global_step"] == 2 * STEPS
    assert all(tensor.isfinite().all() for tensor in skipped["state_dict"].values())
    assert numbers[0] == numbers[1]
    assert "nan" not in "".join(numbers[0]), "the images of a skipped step are not counted"


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero3"])
def test_a_run_that_went_back_and_is_preempted_afterwards_ends_with_the_same_bits(
    strategy: str, ranks: Any, tmp_path: Path
) -> None:
    cfg = config(tmp_path, strategy, "rollback", epochs=3)
    whole, left = tmp_path / "whole", tmp_path / "left"
    run(ranks, cfg, whole, BAD)
    run(ranks, cfg, left, BAD, leave_after_step=BAD + 2)
    assert STEPS < state(left)["global_step"] < 3 * STEPS
    assert json.loads((left / "left_out.json").read_text()) == {"steps": [BAD]}
    run(ranks, cfg, left, BAD)
    names = ("state_dict", "optimizer_states", "lr_schedulers")
    pair = [{name: state(folder)[name] for name in names} for folder in (whole, left)]
    assert differing(*pair) == []
    steps = [[row["step"] for row in read_scalars(folder)] for folder in (whole, left)]
    assert steps[0] == steps[1]


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero1"])
def test_a_signal_after_a_bad_loss_leaves_the_last_good_checkpoint(
    strategy: str, ranks: Any, tmp_path: Path
) -> None:
    cfg, folder = config(tmp_path, strategy, "stop", log_every=50), tmp_path / "run"
    message = run(ranks, cfg, folder, BAD, leave_after_step=BAD + 1)
    assert f"step {BAD}: the loss was nan" in message
    assert state(folder)["global_step"] == STEPS
    assert run(ranks, cfg, folder) == "", "with better images it goes on"
    assert state(folder)["global_step"] == 2 * STEPS


def test_too_many_bad_steps_stop_a_run_that_skips_or_goes_back(ranks: Any, tmp_path: Path) -> None:
    steps = range(2, 8)
    skip, back = (config(tmp_path, "ddp", mode) for mode in ("skip", "rollback"))
    message = run(ranks, skip, tmp_path / "skip", *steps, limits={"MOST_IN_A_ROW": 2})
    assert "more than 2 such steps in a row" in message
    message = run(ranks, back, tmp_path / "back", *steps, limits={"MOST_ROLLBACKS": 2})
    assert "has gone back 2 times" in message
    assert [row["step"] for row in rows(tmp_path / "back")] == [2, 3, 4]


def test_no_checkpoint_with_weights_that_are_not_finite_replaces_a_good_one(
    ranks: Any, tmp_path: Path
) -> None:
    cfg, folder = config(tmp_path, "ddp", "stop", epochs=1), tmp_path / "run"
    run(ranks, cfg, folder)
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    cfg.epochs = 2
    message = run(ranks, cfg, folder, ruined=True)
    assert "network.0.0.weight is not finite, so no checkpoint was written" in message
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "lamb", "lars"])
def test_a_step_of_any_optimizer_is_taken_back(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    from clf.config.registry import complete

    settings = complete("model", {"optimizer": name, "num_classes": 2, "_target_": ""})
    optimizer, _ = optimizer_and_schedule(network, network[2], settings, 1, 10)
    undo, weights = Undo(), [p.detach().clone() for p in network.parameters()]
    for bad in (True, False, True):
        before = {key: value.clone() for key, value in changed_by(optimizer)}
        undo.keep(changed_by(optimizer))
        for p in network.parameters():
            p.grad = torch.full_like(p, math.nan if bad else 0.1)
        optimizer.step()
        undo.put_back(changed_by(optimizer), torch.tensor(bad))
        after = dict(changed_by(optimizer))
        if bad:
            assert all(
                torch.equal(value, before.get(key, torch.zeros_like(value)))
                for key, value in after.items()
            )
    moved = zip(network.parameters(), weights, strict=True)
    assert all(p.isfinite().all() and not torch.equal(p, w) for p, w in moved)


def test_a_loss_that_is_not_finite_has_such_gradients_on_its_rank() -> None:
    weight = torch.tensor([2.0], requires_grad=True)
    spread((weight * 3).sum()).backward()
    assert weight.grad.tolist() == [3.0]
    spread((weight * 3).sum() + math.inf).backward()
    assert weight.grad.isnan().all()
