"""The average of the weights is the same on any number of ranks and under any strategy, and a run
that was left at any moment ends with the bits of one that was not.

Every run is `clf.run.fit`: 6 steps of 32 images, twice, in micro-batches of 8, unless it says
otherwise.
"""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import Callback

from clf import run
from clf.config import EmaConfig, RunConfig
from clf.config.rules import check
from clf.resilience.preempt import Preemption
from tests import tiny

STEPS, EPOCHS = 6, 2
DECAY = 0.75  # (1 + t) / (10 + t) reaches it in step 26, so every test has it without warm-up
ZERO = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
OTHERS = [("ddp", 2), ("ddp", 4), *((name, 2) for name in ZERO)]


class Recorder(Callback):
    """Keeps the weights and statistics before the first step and after each."""

    states: ClassVar[list[dict[str, np.ndarray]]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.clear()
        self._record(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == len(self.states):
            self._record(pl_module)

    def _record(self, module: Any) -> None:
        values = {name: value.numpy().copy() for name, value in module.state_dict().items()}
        self.states.append(values)


class Leave(Callback):
    """Leaves, and saves, as if all ranks had agreed to at this moment.

    Args:
        step: after this step
        batch: before this batch of the first epoch's validation
    """

    def __init__(self, step: int | None = None, batch: int | None = None) -> None:
        self.step, self.batch = step, batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step and not trainer.fit_loop._should_accumulate():
            self._leave(trainer, pl_module)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if batch_idx == self.batch and not trainer.sanity_checking:
            self._leave(trainer, pl_module)

    def _leave(self, trainer: Any, pl_module: Any) -> None:
        (preemption,) = (one for one in trainer.callbacks if isinstance(one, Preemption))
        preemption._leave(trainer, pl_module, save=True)


MOMENTS: dict[str, dict[str, Any]] = {
    "mid-epoch": {"step": STEPS + 2},
    "mid-validation": {"batch": 2},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ema")


def train(
    place: Path,
    name: str,
    ranks: Any = None,
    strategy: str = "single",
    world: int = 1,
    callbacks: list[dict[str, Any]] | None = None,
    stop_after: int | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Run `fit` in the folder `name`: what each rank saw."""
    settings = {
        "ema": EmaConfig(DECAY, warmup=False),
        "limit_batches": 4 * STEPS // world,
        "model": {"learning_rate": 0.01, "warmup_epochs": 0},
        "data": {"eval_batch_size": 8},
        **settings,
    }
    cfg = tiny.config(str(place / "digits"), strategy, world, callbacks=callbacks or [], **settings)
    if world == 1:
        return [tiny.fit(cfg, str(place / name), stop_after)]
    return ranks(world).run(tiny.fit, cfg, str(place / name), stop_after)


def leaving(**moment: int) -> list[dict[str, Any]]:
    return [{"_target_": "tests.test_ema.Leave", **moment}]


def load(place: Path, name: str) -> dict[str, Any]:
    file = place / name / "checkpoints" / "last.ckpt"
    return torch.load(file, map_location="cpu", weights_only=True)


def both(checkpoint: dict[str, Any]) -> dict[str, dict[str, torch.Tensor]]:
    return {"average": checkpoint["state_dict"], "trained": checkpoint["clf_ema"]["weights"]}


def assert_same_bits(
    found: dict[str, Any], expected: dict[str, Any], statistics_too: bool = True
) -> None:
    assert found["global_step"] == expected["global_step"]
    assert found["clf_ema"]["updates"] == expected["clf_ema"]["updates"]
    for what, state in both(expected).items():
        assert both(found)[what].keys() == state.keys()
        for name, value in state.items():
            other = both(found)[what][name]
            if "running_" in name and not statistics_too:  # means over ranks, taken once more
                torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(other, value), f"{what} {name}"


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """To 1e-4 of a tensor's largest value."""
    assert found["clf_ema"]["updates"] == expected["clf_ema"]["updates"]
    for what, state in both(expected).items():
        assert both(found)[what].keys() == state.keys()
        for name, value in state.items():
            if not name.endswith("num_batches_tracked"):  # of a rank's own micro-batches
                other, atol = both(found)[what][name].numpy(), 1e-4 * float(value.abs().max())
                np.testing.assert_allclose(other, value.numpy(), 0, atol, err_msg=f"{what} {name}")


# --- what is averaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_is_the_formulas(place: Path, warmup: bool) -> None:
    recorder = [{"_target_": "tests.test_ema.Recorder"}]
    name = f"formula-{warmup}"
    train(place, name, callbacks=recorder, ema=EmaConfig(0.8, warmup))
    states = Recorder.states
    assert len(states) == 1 + EPOCHS * STEPS
    average = {key: value.astype(np.float64) for key, value in states[0].items()}
    for t, state in enumerate(states[1:], 1):
        decay = min(0.8, (1 + t) / (10 + t)) if warmup else 0.8
        for key, value in state.items():
            average[key] = decay * average[key] + (1 - decay) * value
    last = load(place, name)
    moved = 0.0
    for key, value in last["state_dict"].items():
        trained = last["clf_ema"]["weights"][key].numpy()
        np.testing.assert_array_equal(trained, states[-1][key], err_msg=key)
        if key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value.numpy(), trained)  # a count has no average
        else:
            np.testing.assert_allclose(value.numpy(), average[key], 1e-5, 1e-6, err_msg=key)
            moved = max(moved, float(np.abs(value.numpy() - trained).max()))
    assert moved > 0.01


@pytest.fixture(scope="module")
def whole(place: Path) -> dict[str, Any]:
    seen = train(place, "whole")
    return {
        "scalars": seen[0]["scalars"],
        "losses": seen[0]["losses"],
        "last": load(place, "whole"),
    }


def test_training_is_the_same_with_an_average_and_without(place: Path, whole) -> None:
    (plain,) = train(place, "plain", ema=EmaConfig())
    assert plain["losses"] == whole["losses"]
    last = load(place, "plain")
    assert "clf_ema" not in last
    for name, value in last["state_dict"].items():
        assert torch.equal(whole["last"]["clf_ema"]["weights"][name], value), name


# --- ranks and strategies -------------------------------------------------------------------------


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_the_average_is_the_same_on_any_ranks_and_under_zero(place, ranks, whole, case) -> None:
    name = f"{case[0]}-{case[1]}"
    seen = train(place, name, ranks, *case)
    assert_close(load(place, name), whole["last"])
    for rank in seen:
        for number in ("val/loss", "val_raw/loss", "test/loss"):
            expected = whole["scalars"][number]
            assert rank["scalars"][number] == pytest.approx(expected, rel=1e-4), number


# --- a run that is left and goes on ---------------------------------------------------------------


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("case", [("single", 1), *OTHERS[:1], OTHERS[2], OTHERS[4]])
def test_a_run_that_was_left_ends_with_the_same_bits(place, ranks, whole, case, moment) -> None:
    strategy, world = case
    reference, name = "whole" if world == 1 else f"{strategy}-{world}", f"{strategy}-{moment}"
    if not (place / reference).exists():
        train(place, reference, ranks, *case)
    left = train(place, name, ranks, *case, callbacks=leaving(**MOMENTS[moment]))
    assert "scalars" not in left[0]
    assert "clf_train_metrics" in load(place, name), "it was not saved when it left"
    end = train(place, name, ranks, *case)
    assert_same_bits(load(place, name), load(place, reference), statistics_too=world == 1)
    if world == 1:
        assert end[0]["scalars"] == whole["scalars"]


def test_a_run_that_was_killed_ends_with_the_same_bits(place: Path, whole) -> None:
    train(place, "killed", stop_after=0)
    between = load(place, "killed")
    assert between["clf_ema"]["updates"] == STEPS
    train(place, "killed")
    assert_same_bits(load(place, "killed"), whole["last"])


def test_the_average_travels_between_strategies(place, ranks, whole) -> None:
    train(place, "travels", ranks, "ddp", 2, callbacks=leaving(step=3))
    train(place, "travels", ranks, "deepspeed_zero3", 2, callbacks=leaving(batch=2))
    train(place, "travels", ranks, "deepspeed_zero2", 2, callbacks=leaving(step=STEPS + 2))
    train(place, "travels")
    assert_close(load(place, "travels"), whole["last"])


def test_a_run_may_begin_or_cease_to_average(place: Path, whole) -> None:
    trained = whole["last"]["clf_ema"]["weights"]
    train(place, "begins", ema=EmaConfig(), stop_after=0)
    train(place, "begins")
    begins = load(place, "begins")
    assert begins["clf_ema"]["updates"] == STEPS
    train(place, "ceases", stop_after=0)
    train(place, "ceases", ema=EmaConfig())
    ceases = load(place, "ceases")
    assert "clf_ema" not in ceases
    for name, value in trained.items():
        assert torch.equal(begins["clf_ema"]["weights"][name], value), name
        assert torch.equal(ceases["state_dict"][name], value), name


# --- what is evaluated ----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_val_is_of_the_average_and_val_raw_of_the_weights_as_trained(place, precision) -> None:
    name = f"evaluated-{precision}"
    settings = {
        "epochs": 1,
        "limit_batches": None,
        "strategy_settings": {"precision": precision, "gradient_checkpointing": True},
    }
    (seen,) = train(place, name, **settings)
    scalars, last = seen["scalars"], load(place, name)
    file = place / name / "checkpoints" / "raw.ckpt"
    torch.save({**last, "state_dict": last["clf_ema"]["weights"]}, file)
    for prefix, path in (("val", file.with_name("last.ckpt")), ("val_raw", file)):
        found = run.evaluate(path, split="val", progress=False).scalars
        assert set(found) >= {"val/loss", "val/acc_top1", "val/acc_macro"}
        for key, value in found.items():
            assert value == scalars[key.replace("val/", f"{prefix}/")], f"{prefix}: {key}"
    assert scalars["val/loss"] != scalars["val_raw/loss"]
    # The one epoch's checkpoint is the best one, which the run has tested.
    for key, value in run.evaluate(place / name, progress=False).scalars.items():
        assert value == scalars[key], key


# --- bad inputs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "monitor", "message"),
    [
        (1.0, "val/loss", "ema.decay=1.0: the average would keep the first weights for ever"),
        (0.001, "val/loss", "ema.decay=0.001: expected a number from 0.5 to 1"),
        (99.9, "val/loss", "ema.decay=99.9: expected a number from 0.5 to 1"),
        (
            0.999,
            "val_raw/acc_top1",
            "checkpoint.monitor=val_raw/acc_top1: judges the weights as trained, and best.ckpt "
            "holds their average; set checkpoint.monitor=val/acc_top1",
        ),
        (
            None,
            "val_raw/loss",
            "checkpoint.monitor=val_raw/loss: is of the weights beside their average, and "
            "ema.decay=null averages nothing; set checkpoint.monitor=val/loss",
        ),
    ],
)
def test_what_cannot_be_meant_is_a_fault(decay, monitor: str, message: str) -> None:
    cfg = RunConfig(ema=EmaConfig(decay))
    cfg.checkpoint.monitor = monitor
    faults = [one for one in check(cfg) if one.startswith(("ema.", "checkpoint."))]
    assert len(faults) == 1
    assert faults[0].startswith(message)
