"""Tied, frozen and left-out parameters, and empty groups: the same training under every strategy.

Every run is `clf.run.fit` of `tests.parallel.odd`: two epochs of four steps of four micro-batches.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clf.parallel.strategies import Ddp
from tests import tiny

STEPS = 4  # an epoch
ZERO = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
OTHERS = ("ddp", *ZERO)
SGD = ("PlainSgd", "MomentumSgd")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("odd")


def train(
    place: Path, ranks: Any, name: str, strategy: str, model: str = "OddModel", **more: Any
) -> dict[str, Any]:
    """A run's losses in the micro-batches' global order, and its last checkpoint."""
    world = 1 if strategy == "single" else 2
    settings = {"find_unused_parameters": strategy == "ddp"} | more.pop("strategy_settings", {})
    stop_after, steps = more.pop("stop_after", None), more.pop("steps", STEPS)
    cfg = tiny.config(
        str(place / "digits"),
        strategy,
        world,
        limit_batches=steps * 4 // world,
        model={"_target_": f"tests.parallel.odd.{model}"},
        strategy_settings=settings,
        **more,
    )
    folder = str(place / name)
    if world == 1:
        losses = tiny.fit(cfg, folder, stop_after)["losses"]
    else:
        seen = ranks(2).run(tiny.fit, cfg, folder, stop_after)
        pairs = zip(*(rank["losses"] for rank in seen), strict=True)
        losses = [loss for pair in pairs for loss in pair]
    file = place / name / "checkpoints" / "last.ckpt"
    return {"losses": losses, "last": torch.load(file, map_location="cpu", weights_only=True)}


def assert_same(other: dict[str, Any], one: dict[str, Any]) -> None:
    """Weights and the optimizer's state: the same entries, to 1e-4 of a tensor's largest value."""
    (state,), (expected) = other["optimizer_states"], one["optimizer_states"][0]
    assert state["state"].keys() == expected["state"].keys()
    assert state["param_groups"] == expected["param_groups"]
    pairs = {"weights": (other["state_dict"], one["state_dict"])}
    pairs |= {f"state {n}": (state["state"][n], expected["state"][n]) for n in state["state"]}
    for what, (found, wanted) in pairs.items():
        assert found.keys() == wanted.keys(), what
        for name, value in wanted.items():
            if name.endswith("num_batches_tracked"):  # a rank's own count, and used for no number
                continue
            if value is None or not isinstance(value, torch.Tensor):
                assert found[name] == value, f"{what} {name}"
                continue
            assert found[name].shape == value.shape, f"{what} {name}"
            np.testing.assert_allclose(
                found[name].numpy(),
                value.numpy(),
                rtol=0,
                atol=1e-4 * float(value.abs().max()),
                err_msg=f"{what} {name}",
            )


@pytest.fixture(scope="module")
def singles(place, ranks) -> dict[str, Any]:
    """Torch's own optimizer, in one process: what the others are compared with."""
    return {m: train(place, ranks, m, "single", m) for m in ("OddModel", "ByMicroBatch")}


@pytest.fixture(scope="module")
def one(singles) -> dict[str, Any]:
    return singles["OddModel"]


@pytest.mark.parametrize("model", ["OddModel", "ByMicroBatch"])
def test_the_case_is_what_it_says(singles, model):
    last = singles[model]["last"]
    names = [name for name in last["state_dict"] if name.startswith("network.")]
    assert {"network.first.weight", "network.second.weight"} <= set(names)  # one parameter
    groups = last["optimizer_states"][0]["param_groups"]
    assert [group["params"] for group in groups] == [[], [0], [1, 2, 3, 4, 5, 6]]
    # In the model's order: scale, stem, first, never, sometimes, head
    steps = {n: int(value["step"]) for n, value in last["optimizer_states"][0]["state"].items()}
    often = steps.pop(5)
    assert steps == dict.fromkeys((1, 2, 3, 6), 2 * STEPS)  # and none of `frozen` and `never`
    assert 0 < often < 2 * STEPS


@pytest.mark.parametrize(
    ("strategy", "model"),
    # Under ZeRO-3 all ranks must reach a layer together: they bring its weights together.
    [(s, "ByMicroBatch") for s in OTHERS if s != "deepspeed_zero3"]
    + [(s, "OddModel") for s in OTHERS],
)
def test_losses_weights_and_optimizer_state_are_those_of_one_process(
    place, ranks, singles, strategy, model
):
    one = singles[model]
    other = train(place, ranks, f"{strategy}-{model}", strategy, model)
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    assert_same(other["last"], one["last"])


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("ddp", "deepspeed_zero1"),
        ("deepspeed_zero1", "deepspeed_zero3"),
        ("deepspeed_zero3", "single"),
        ("single", "deepspeed_zero2"),
        ("deepspeed_zero2", "ddp"),
    ],
)
def test_a_run_goes_on_under_another_strategy(place, ranks, one, first, then):
    name = f"{first}-{then}"
    train(place, ranks, name, first, stop_after=0)
    assert_same(train(place, ranks, name, then)["last"], one["last"])


@pytest.mark.parametrize("model", SGD)
def test_optimizers_that_keep_nothing_or_something_once_it_is_there(place, ranks, model):
    """SGD has no state; with momentum it has a buffer only of parameters that it has moved."""
    one = train(place, ranks, model, "single", model)
    state = one["last"]["optimizer_states"][0]["state"]
    assert state.keys() == (set() if model == "PlainSgd" else {1, 2, 3, 5, 6})
    for strategy in ZERO:
        name = f"{model}-{strategy}"
        train(place, ranks, name, strategy, model, stop_after=0)
        assert_same(train(place, ranks, name, strategy, model)["last"], one["last"])


def test_the_gradient_is_clipped_by_the_norm_of_what_is_there(place, ranks):
    clip = {"strategy_settings": {"gradient_clip": 0.05}, "epochs": 1}
    one = train(place, ranks, "clip-single", "single", **clip)
    for strategy in ("deepspeed_zero2", "deepspeed_zero3"):
        assert_same(train(place, ranks, f"clip-{strategy}", strategy, **clip)["last"], one["last"])


def test_a_parameter_without_dimensions_is_refused_by_its_name(place, ranks):
    """DeepSpeed cannot send it from rank to rank."""
    with pytest.raises(AssertionError, match=r"ValueError: .*network\.scale.*torch\.ones\(1\)"):
        train(place, ranks, "scalar", "deepspeed_zero2", "WithoutDimensions")


def test_leaving_out_a_parameter_later_needs_the_setting(place, ranks):
    """Without it, ranks that use everything in the first step do not go on telling each other."""
    late: dict[str, Any] = {"model": "Late", "epochs": 1}
    one = train(place, ranks, "late-single", "single", **late)
    for strategy in ZERO:
        also = " and strategy=deepspeed_zero2" if strategy == "deepspeed_zero3" else ""
        remedy = rf"left .*sometimes\.weight without.*unused_parameters=true{also}: the"
        with pytest.raises(AssertionError, match=remedy):
            train(place, ranks, f"late-{strategy}", strategy, **late)
    setting = {"strategy_settings": {"find_unused_parameters": True}}
    for strategy in ("ddp", "deepspeed_zero1", "deepspeed_zero2"):
        found = train(place, ranks, f"late-set-{strategy}", strategy, **late, **setting)
        assert_same(found["last"], one["last"])


@pytest.mark.parametrize(
    ("model", "steps", "names"),
    [
        ("OddModel", 4, r"network\.never\.weight, network\.sometimes\.weight"),
        ("Late", 2, r"network\.sometimes\.weight"),  # in the run's last step, too
    ],
)
def test_ddp_says_which_setting_it_needs(place, ranks, model, steps, names):
    settings = {"strategy_settings": {"find_unused_parameters": False}, "epochs": 1}
    with pytest.raises(AssertionError, match=rf"=false: a step left ({names}) .*_parameters=true"):
        train(place, ranks, f"ddp-{model}-raises", "ddp", model, steps=steps, **settings)


def test_what_torch_says_of_it_becomes_the_same_line():
    """Where a micro-batch of a step leaves out what another one uses, only torch knows."""
    error = RuntimeError("Expected to have finished reduction in the prior iteration before ...")
    Ddp().on_exception(error)
    assert str(error).startswith("strategy.find_unused_parameters=false: a step left parameters")
