"""Any strategy on any number of ranks is the same training: real processes over gloo.

Every run is `clf.run.fit`: 25 steps of 32 images, twice, in micro-batches of 8.
"""

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from clf import run
from clf.config import EmaConfig, MixConfig
from clf.parallel import micro_batch
from clf.parallel.micro_batch import FindMicroBatch
from clf.predictions import Predictions
from clf.run_folder import RunFolder, read_scalars
from tests import tiny

STEPS = 25  # an epoch
SMALL = {"image_size": 16, "eval_resize": 16}  # of a ResNet18, which takes its time
ZERO = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")
OTHERS = [("ddp", 2), ("ddp", 4), *((name, 2) for name in ZERO)]
each_other = pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("strategies")


def start(place: Path, ranks: Any, name: str, strategy: str, world: int, **more: Any) -> list[dict]:
    """Run `fit` on `world` ranks in the folder `name`: what each of them saw."""
    more = {"stop_after": None, "limit_batches": STEPS * 4 // world, **more}
    stop_after, double = more.pop("stop_after"), more.pop("double", False)
    more.setdefault("data", {"threads": world % 4})  # which must not matter
    cfg = tiny.config(str(place / "digits"), strategy, world, **more)
    if world == 1:
        return [tiny.fit(cfg, str(place / name), stop_after, None, double)]
    return ranks(world).run(tiny.fit, cfg, str(place / name), stop_after, None, double)


def train(place: Path, ranks: Any, strategy: str, world: int, **more: Any) -> dict[str, Any]:
    """A run's micro-batches in their global order, its scalars and checkpoints."""
    name = f"{strategy}-{world}{'-resnet' if more.get('resnet') else ''}"
    name += "-double" if more.get("double") else ""
    found = start(place, ranks, name, strategy, world, **more)
    made: dict[str, Any] = {"scalars": found[0]["scalars"], "folder": place / name}
    for key in ("losses", "indices", "pixels"):
        # Micro-batch j of a step is rank j % world's.
        made[key] = [
            found[j % world][key][step * (4 // world) + j // world]
            for step in range(len(found[0][key]) * world // 4)
            for j in range(4)
        ]
    return made | {"last": load(place / name, "last")}


def load(folder: Path, which: str) -> dict[str, Any]:
    file = folder / "checkpoints" / f"{which}.ckpt"
    return torch.load(file, map_location="cpu", weights_only=True)


def assert_same_state(other: dict[str, Any], one: dict[str, Any]) -> None:
    """Weights, BatchNorm statistics and Adam's moments, to 1e-4 of a tensor's largest value."""
    pairs = {"weights": [checkpoint["state_dict"] for checkpoint in (one, other)]}
    for place in one["optimizer_states"][0]["state"]:
        pairs[f"moments {place}"] = [c["optimizer_states"][0]["state"][place] for c in (one, other)]
    for what, (expected, found) in pairs.items():
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # A micro-batch's count is a rank's own, and no number that is used.
            if not name.endswith("num_batches_tracked"):
                atol = 1e-4 * float(value.abs().max())
                np.testing.assert_allclose(
                    found[name].numpy(), value.numpy(), rtol=0, atol=atol, err_msg=f"{what} {name}"
                )


@pytest.fixture(scope="module")
def runs(place, ranks) -> dict:
    return {case: train(place, ranks, *case) for case in [("single", 1), *OTHERS]}


@each_other
def test_the_order_of_images_and_every_pixel_are_the_same(runs, case):
    one, other = runs["single", 1], runs[case]
    assert other["indices"] == one["indices"]
    assert other["pixels"] == one["pixels"]


@each_other
def test_losses_weights_statistics_and_evaluation_are_the_same(runs, case):
    one, other = runs["single", 1], runs[case]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
    assert_same_state(other["last"], one["last"])
    for name in ("val/loss", "test/loss"):
        assert other["scalars"][name] == pytest.approx(one["scalars"][name], rel=1e-4)


def norms(folder: Path) -> list[float]:
    return [float(row["train/grad_norm"]) for row in read_scalars(folder) if row["train/loss_step"]]


@each_other
def test_the_gradient_norm_of_each_step_is_the_same(runs, case):
    one, other = norms(runs["single", 1]["folder"]), norms(runs[case]["folder"])
    assert len(one) == 2 * STEPS
    np.testing.assert_allclose(other, one, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["ddp", *ZERO])
def test_the_gradient_norm_is_from_before_clipping(place, ranks, runs, strategy):
    clipped = {"strategy_settings": {"gradient_clip": 1e-3}, "epochs": 1, "limit_batches": 4}
    start(place, ranks, f"{strategy}-clipped", strategy, 2, **clipped, model={"warmup_epochs": 0})
    first = norms(place / f"{strategy}-clipped")[0]
    assert first == pytest.approx(norms(runs["single", 1]["folder"])[0], rel=1e-3)


@each_other
def test_one_process_gives_the_numbers_of_the_runs_best_checkpoint(runs, case):
    result = run.evaluate(runs[case]["folder"], progress=False)
    own = runs[case]["scalars"]
    for name in ("test/acc_top1", "test/acc_top5", "test/acc_macro"):
        assert result.scalars[name] == own[name], name
    assert result.scalars["test/loss"] == pytest.approx(own["test/loss"], abs=1e-6)
    kept = Predictions.read(RunFolder(runs[case]["folder"]).predictions_of("test"))
    assert result.predictions is not None
    assert (kept.images, kept.classes) == (result.predictions.images, result.predictions.classes)
    for name in ("indices_N", "labels_N", "predicted_N"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(result.predictions, name))
    np.testing.assert_allclose(
        kept.probabilities_NC, result.predictions.probabilities_NC, atol=1e-6
    )


def test_a_resnet18_trains_the_same_on_1_2_and_4_ranks(place, ranks):
    """In float64, over 50 steps: in float32 rounding alone grows to half a percent by then."""
    settings = {"resnet": True, "double": True, "data": SMALL}
    one = train(place, ranks, "single", 1, **settings)
    for case in (("ddp", 2), ("ddp", 4)):
        other = train(place, ranks, *case, **settings)
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-6, err_msg=str(case))


def test_a_resnet18_trains_the_same_under_zero(place, ranks):
    """In float32, which DeepSpeed keeps to, over the first 20 steps and at a low learning rate."""
    model = {"learning_rate": 3e-6, "warmup_epochs": 0}
    settings = {"resnet": True, "model": model, "data": SMALL, "epochs": 1}
    one = train(place, ranks, "single", 1, **settings)
    for case in ((name, 2) for name in ZERO):
        other = train(place, ranks, *case, **settings)
        first = slice(20 * 4)  # four micro-batches a step
        np.testing.assert_allclose(
            other["losses"][first], one["losses"][first], rtol=1e-3, err_msg=str(case)
        )


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (("single", 1), ("deepspeed_zero3", 2)),
        (("deepspeed_zero3", 2), ("ddp", 4)),
        (("deepspeed_zero1", 2), ("single", 1)),
    ],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def test_a_run_goes_on_under_another_strategy_and_number_of_ranks(place, ranks, runs, first, then):
    """Weights, optimizer, schedule and place in the data: it ends as if it had not been stopped."""
    name = f"{first[0]}-then-{then[0]}"
    begun = start(place, ranks, name, *first, stop_after=0)
    assert all("scalars" not in rank for rank in begun)
    gone_on = start(place, ranks, name, *then)
    world = then[1]
    assert [len(rank["losses"]) for rank in gone_on] == [STEPS * 4 // world] * world
    one, end = runs["single", 1]["last"], load(place / name, "last")
    assert end["global_step"] == one["global_step"] == 2 * STEPS
    assert end["lr_schedulers"] == one["lr_schedulers"]
    assert_same_state(end, one)
    steps = [float(state["step"]) for state in end["optimizer_states"][0]["state"].values()]
    assert set(steps) == {2 * STEPS}


SGD = {"optimizer": "sgd"}  # with momentum, its default


@pytest.fixture(scope="module")
def sgd(place, ranks) -> dict[str, Any]:
    name = "sgd-ddp"
    seen = start(place, ranks, name, "ddp", 2, model=SGD)
    return {"losses": [rank["losses"] for rank in seen], "last": load(place / name, "last")}


def test_sgd_trains_the_same_under_zero(place, ranks, sgd):
    seen = start(place, ranks, "sgd-zero", "deepspeed_zero1", 2, model=SGD)
    np.testing.assert_allclose([rank["losses"] for rank in seen], sgd["losses"], rtol=1e-5)
    assert_same_state(load(place / "sgd-zero", "last"), sgd["last"])


@pytest.mark.parametrize(
    ("first", "then"), [("ddp", "deepspeed_zero1"), ("deepspeed_zero1", "ddp")]
)
def test_a_run_with_sgd_goes_on_under_another_strategy(place, ranks, sgd, first, then):
    name = f"sgd-{first}-then"
    start(place, ranks, name, first, 2, model=SGD, stop_after=0)
    start(place, ranks, name, then, 2, model=SGD)
    assert_same_state(load(place / name, "last"), sgd["last"])


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_zero2"])
def test_mixed_precision_keeps_float32_weights_and_exact_counts(place, ranks, strategy):
    settings = {"epochs": 1, "model": {"warmup_epochs": 0}}
    half, whole = (
        start(place, ranks, f"{strategy}-{precision}", strategy, 2, **settings,
              strategy_settings={"precision": precision})
        for precision in ("bf16-mixed", "32-true")
    )  # fmt: skip
    for one, other in zip(half, whole, strict=True):
        assert one["indices"] == other["indices"]
        np.testing.assert_allclose(one["losses"], other["losses"], rtol=0.05)
        assert not np.allclose(one["losses"], other["losses"], rtol=1e-4), "bf16 was not used"
    folder = place / f"{strategy}-bf16-mixed"
    weights = load(folder, "last")["state_dict"]
    assert {value.dtype for value in weights.values()} == {torch.float32, torch.int64}
    result = run.evaluate(folder, progress=False)
    for name in ("test/acc_top1", "test/acc_top5", "test/acc_macro"):
        assert result.scalars[name] == half[0]["scalars"][name], name


# --- collectives ----------------------------------------------------------------------------------


def collectives(cfg: Any, folder: str) -> tuple[Counter, Counter]:
    """Names of a rank's collectives: in three training steps, and of an epoch's metrics."""
    from torch.profiler import ProfilerActivity, profile

    steps, end = Counter(), Counter()

    def names(profiler: Any) -> Counter:
        return Counter(e.name for e in profiler.events() if e.name.startswith("c10d::"))

    class Watch(run.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:  # DDP has settled its buckets
                self.profiler = profile(activities=[ProfilerActivity.CPU])
                self.profiler.start()

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if batch_idx == 6:
                self.profiler.stop()
                steps.update(names(self.profiler))

    build = run.build_model

    def watched(*args: Any, **kwargs: Any) -> Any:
        model = build(*args, **kwargs)
        log_epoch = model._log_epoch

        def profiled(stage: str) -> None:
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                log_epoch(stage)
            if stage == "train":
                end.update(names(profiler))

        model._log_epoch = profiled
        return model

    callbacks = run.callbacks
    with (
        patch.object(run, "build_model", watched),
        patch.object(run, "callbacks", lambda *a: [*callbacks(*a), Watch()]),
    ):
        run.fit(cfg, Path(folder), progress=False)
    return steps, end


def test_a_ddp_step_sends_gradients_alone_and_an_epochs_metrics_two_sums(place, ranks):
    data = {"micro_batch_size": None}
    settings = {"epochs": 1, "limit_batches": 8, "model": {"warmup_epochs": 0}, "data": data}
    settings["ema"] = EmaConfig(0.9)  # which adds none
    cfg = tiny.config(str(place / "digits"), "ddp", 2, **settings)
    for steps, end in ranks(2).run(collectives, cfg, str(place / "profiled")):
        assert steps == {"c10d::allreduce_": 3}  # the tiny model's gradients are one bucket
        assert end == {"c10d::allreduce_": 2}


# --- data.micro_batch_size=auto -------------------------------------------------------------------


def search(cfg: Any, folder: str, memory: int) -> dict[str, Any]:
    """A run whose second rank has memory for `memory` images of a forward pass."""
    tried, states = [], []
    try_step, fits = micro_batch._try_step, micro_batch.fits

    def out_of_memory(trainer: Any, module: Any, m: int, size: int) -> None:
        tried.append(m)
        torch.rand(1)
        try_step(trainer, module, m, size)
        if dist.get_rank() == 1 and m > memory:
            raise torch.OutOfMemoryError("CUDA out of memory (for a test)")

    def watched(trainer: Any, module: Any, m: int, size: int) -> bool:
        def state() -> dict[str, Any]:
            values = {name: value.clone() for name, value in module.state_dict().items()}
            counts = module.metrics("train").counts_K.clone()
            return values | {"rng": torch.get_rng_state(), "counts": counts}

        before = state()
        fitted = fits(trainer, module, m, size)
        after = state()
        states.append(all(torch.equal(before[name], after[name]) for name in before))
        states.append(all(p.grad is None for p in module.parameters()))
        return fitted

    with (
        patch.object(micro_batch, "_try_step", out_of_memory),
        patch.object(micro_batch, "fits", watched),
    ):
        seen = tiny.fit(cfg, folder)
    return seen | {"tried": tried, "traceless": all(states)}


def test_ranks_halve_the_micro_batch_together_and_keep_the_step(place, ranks, runs):
    cfg = tiny.config(
        str(place / "digits"), "ddp", 2, data={"micro_batch_size": "auto"}, limit_batches=2 * STEPS
    )
    found = ranks(2).run(search, cfg, str(place / "auto"), 9)
    assert [rank["tried"] for rank in found] == [[16, 8], [16, 8]]
    assert all(rank["traceless"] for rank in found)
    # From there it is the run that was given the number, to the bit.
    given = load(runs["ddp", 2]["folder"], "last")
    last = load(place / "auto", "last")
    assert last["clf"]["config"]["data"]["micro_batch_size"] == 8
    for name, value in given["state_dict"].items():
        assert torch.equal(last["state_dict"][name], value), name


@pytest.mark.parametrize(("mixup", "least"), [(0.0, "one image"), (0.2, "two images")])
def test_the_error_says_what_to_do_if_not_even_that_many_images_fit(place, mixup, least):
    cfg = tiny.config(
        str(place / "digits"), data={"micro_batch_size": "auto"}, mix=MixConfig(mixup=mixup)
    )
    error = torch.OutOfMemoryError("CUDA out of memory (for a test)")
    with (
        patch.object(micro_batch, "_try_step", side_effect=error),
        pytest.raises(ValueError, match=f"not even {least} .* Lower data.image_size"),
    ):
        run.fit(cfg, place / "none", progress=False)


def test_a_number_that_was_found_is_where_the_next_start_begins(place):
    assert FindMicroBatch(8).largest == 8
    assert micro_batch._largest_divisor(48, 20) == 16


def test_images_that_are_mixed_in_pairs_are_searched_for_in_even_numbers(place):
    data = {"micro_batch_size": "auto", "batch_size": 36}
    settings = {"limit_batches": 2, "mix": MixConfig(cutmix=1.0), "epochs": 1}
    cfg = tiny.config(str(place / "digits"), data=data, model={"warmup_epochs": 0}, **settings)
    tried, try_step = [], micro_batch._try_step

    def out_of_memory(trainer: Any, module: Any, m: int, size: int) -> None:
        tried.append(m)
        try_step(trainer, module, m, size)
        if m > 4:
            raise torch.OutOfMemoryError("CUDA out of memory (for a test)")

    with patch.object(micro_batch, "_try_step", out_of_memory):
        seen = tiny.fit(cfg, str(place / "pairs"))
    assert tried == [36, 18, 6, 2]
    assert [len(indices) for indices in seen["indices"]] == [2, 2]
