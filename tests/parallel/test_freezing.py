"""model.freeze_epochs: the head alone is trained first, the same under every strategy and after
every way to leave a run. A run is two frozen epochs and a thawed one, of three steps each."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from clf.config import EmaConfig, MixConfig
from clf.models.base import BaseClassificationModel
from clf.optim.ema import AS_TRAINED
from tests import tiny
from tests.parallel.test_odd_networks import assert_same

STEPS, FROZEN, EPOCHS = 3, 2, 3
OTHERS = ("ddp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
HEAD = {"network.5.weight", "network.5.bias"}  # of the tiny model


class FrozenByHand(tiny.TinyModel):
    """The same frozen phase as a user would write it, for one process."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for module in list(self.network.modules())[1:-1]:  # neither the whole nor the head
            module.eval()
            module.requires_grad_(False)


class Headless(BaseClassificationModel):
    def build_network(self) -> nn.Module:
        return nn.Sequential(
            nn.BatchNorm2d(3), nn.Flatten(), nn.AdaptiveAvgPool1d(self.num_classes)
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("freezing")


def train(
    place: Path, ranks: Any, name: str, strategy: str = "single", leave: int | None = None,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A run's last checkpoint. `leave`: the step after which it is asked to leave."""
    world = 1 if strategy == "single" else 2
    model = {"freeze_epochs": FROZEN, "weight_decay": 0.5} | more.pop("model", {})
    stop_after = more.pop("stop_after", None)
    more = {"epochs": EPOCHS, **more}
    cfg = tiny.config(
        str(place / "digits"),
        strategy,
        world,
        limit_batches=STEPS * 4 // world,
        model=model,
        **more,
    )
    arguments = (cfg, str(place / name), stop_after, None, False, leave)
    if world == 1:
        tiny.fit(*arguments)
    else:
        ranks(2).run(tiny.fit, *arguments)
    file = place / name / "checkpoints" / "last.ckpt"
    return torch.load(file, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def whole(place, ranks) -> dict[str, Any]:
    return train(place, ranks, "whole")


@pytest.fixture(scope="module")
def frozen(place, ranks) -> dict[str, Any]:
    """After the frozen epochs."""
    return train(place, ranks, "frozen", stop_after=FROZEN - 1)


def test_nothing_but_the_head_moves_while_the_backbone_is_frozen(place, ranks, frozen):
    first = train(place, ranks, "first", stop_after=0)
    moved = {
        name
        for name, value in frozen["state_dict"].items()
        if name.startswith("network.") and not torch.equal(value, first["state_dict"][name])
    }
    assert moved == HEAD  # no weight, no BatchNorm statistic
    (optimizer,) = frozen["optimizer_states"]
    assert [float(one["step"]) for one in optimizer["state"].values()] == [FROZEN * STEPS] * 2


def test_it_is_the_training_of_a_head_on_fixed_features(place, ranks, frozen):
    by_hand = train(
        place, ranks, "hand", stop_after=FROZEN - 1,
        model={"_target_": "tests.parallel.test_freezing.FrozenByHand", "freeze_epochs": 0},
    )  # fmt: skip
    for name in by_hand["state_dict"]:
        if name.startswith("network."):
            assert torch.equal(by_hand["state_dict"][name], frozen["state_dict"][name]), name


def test_a_thawed_parameter_starts_as_in_a_first_step(whole, frozen):
    (optimizer,) = whole["optimizer_states"]
    steps = [float(one["step"]) for one in optimizer["state"].values()]
    assert sorted(set(steps)) == [STEPS, EPOCHS * STEPS]
    assert steps.count(EPOCHS * STEPS) == 2
    stays = {name for name in whole["state_dict"] if name.startswith("network.")} - {
        name
        for name, value in whole["state_dict"].items()
        if not torch.equal(value, frozen["state_dict"][name])
    }
    assert stays == set()
    assert whole["lr_schedulers"][0]["last_epoch"] == EPOCHS * STEPS


@pytest.mark.parametrize("strategy", OTHERS)
def test_every_strategy_freezes_and_thaws_alike(place, ranks, whole, strategy):
    assert_same(train(place, ranks, strategy, strategy), whole)


@pytest.mark.parametrize(
    ("first", "then", "leave"),
    [
        ("single", "single", FROZEN * STEPS - 2),  # in the frozen phase
        ("single", "single", FROZEN * STEPS),  # exactly at the border
        ("single", "single", FROZEN * STEPS + 1),  # in the thawed phase
        ("ddp", "deepspeed_zero3", FROZEN * STEPS - 3),
        ("deepspeed_zero1", "deepspeed_zero2", FROZEN * STEPS + 1),
    ],
)
def test_a_run_that_left_goes_on_as_if_it_had_not(place, ranks, whole, first, then, leave):
    name = f"{first}-{then}-{leave}"
    left = train(place, ranks, name, first, leave)
    # Several ranks agree on a step that none of them has passed.
    assert left["global_step"] == leave or (first != "single" and left["global_step"] > leave)
    resumed = train(place, ranks, name, then)
    assert_same(resumed, whole)
    if first == then == "single":
        for key, value in whole["state_dict"].items():
            assert torch.equal(resumed["state_dict"][key], value), key


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("deepspeed_zero3", "ddp"),
        ("ddp", "deepspeed_zero1"),
        ("deepspeed_zero2", "deepspeed_zero3"),
    ],
)
def test_a_run_goes_on_from_the_border_under_another_strategy(place, ranks, whole, first, then):
    name = f"{first}-{then}-border"
    left = train(place, ranks, name, first, stop_after=FROZEN - 1)
    assert left["global_step"] == FROZEN * STEPS
    assert_same(train(place, ranks, name, then), whole)


@pytest.mark.parametrize("strategy", ["single", "ddp", "deepspeed_zero3"])
def test_a_run_that_only_trains_the_head_goes_on_after_an_epoch(place, ranks, frozen, strategy):
    name = f"head-{strategy}"
    settings: dict[str, Any] = {"model": {"freeze_epochs": 99}, "stop_after": FROZEN - 1}
    train(place, ranks, name, strategy, **settings | {"stop_after": 0})
    assert_same(train(place, ranks, name, strategy, **settings), frozen)


def test_blocks_that_are_computed_again_give_the_same_numbers(place, ranks, whole):
    again = {"strategy_settings": {"gradient_checkpointing": True}}
    for strategy in ("single", "ddp"):
        assert_same(train(place, ranks, f"again-{strategy}", strategy, **again), whole)


@pytest.mark.parametrize("leave", [FROZEN * STEPS, FROZEN * STEPS + 1])
def test_with_mixing_and_an_average_a_run_goes_on_to_the_same_bits(place, ranks, leave):
    def of(name: str, leave: int | None = None) -> dict[str, Any]:
        average, mix = EmaConfig(decay=0.9), MixConfig(mixup=0.5, cutmix=1.0)
        return train(place, ranks, name, leave=leave, ema=average, mix=mix)

    expected = of("regularised")
    of(f"regularised-{leave}", leave)
    resumed = of(f"regularised-{leave}")
    for found, held in (
        (resumed["state_dict"], expected["state_dict"]),
        (resumed[AS_TRAINED]["weights"], expected[AS_TRAINED]["weights"]),
    ):
        for key, value in held.items():
            assert torch.equal(found[key], value), key


def test_a_network_without_a_head_is_refused(place, ranks):
    target = {"_target_": "tests.parallel.test_freezing.Headless"}
    with pytest.raises(ValueError, match=r"freeze_epochs=2: .*override head\(\)"):
        train(place, ranks, "headless", model=target)
