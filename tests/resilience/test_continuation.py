"""A run that continues with other settings trains as if it had had them from the start.

The runs are on the digits, 32 images a step in micro-batches of 8. An epoch is `limit_batches`
micro-batches of each rank.
"""

import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from clf.resilience.continuation import Length, adapt_counts, adapt_groups, recorded_length
from tests import tiny

STEPS = 3  # an epoch, unless a test says otherwise


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("continuation") / "digits")


def config(root: str, **settings: Any) -> Any:
    return tiny.config(root, **{"limit_batches": 4 * STEPS, **settings})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def learning_rates(folder: Path) -> dict[int, float]:
    """By optimizer step, from 0."""
    names = ("lr-AdamW/pg1", "lr-SGD/pg1")
    found = {row["step"]: row[name] for row in rows(folder) for name in names if row.get(name)}
    return {int(step): float(rate) for step, rate in found.items()}


def record(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["clf"]


def plainly(build: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    """The learning rates that torch's own scheduler gives to `steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3, momentum=0.9)
    scheduler, rates = build(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def warmup_and_cosine(warmup: int, total: int) -> Callable[[torch.optim.Optimizer], LRScheduler]:
    """The default schedule of a model, from a tenth of the peak up and down to a hundredth."""
    return lambda optimizer: SequentialLR(
        optimizer,
        [
            LinearLR(optimizer, 0.1, total_iters=warmup),
            CosineAnnealingLR(optimizer, total - warmup, eta_min=1e-5),
        ],
        [warmup],
    )


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_a_finished_run_goes_on_for_more_epochs_on_the_longer_runs_schedule(
    root: str, tmp_path: Path, interval: str
) -> None:
    model = {"interval": interval}
    first = tiny.fit(config(root, epochs=2, model=model), str(tmp_path / "run"))
    before = json.loads((tmp_path / "run" / "status.json").read_text())
    more = tiny.fit(config(root, epochs=4, model=model), str(tmp_path / "run"))
    whole = tiny.fit(config(root, epochs=4, model=model), str(tmp_path / "whole"))

    per_epoch = STEPS if interval == "step" else 1
    expected = plainly(warmup_and_cosine(per_epoch, 4 * per_epoch), 4 * per_epoch)
    by_step = [rate for rate in expected for _ in range(STEPS // per_epoch)]
    found = learning_rates(tmp_path / "run")
    assert sorted(found) == list(range(4 * STEPS))
    for step in range(2 * STEPS, 4 * STEPS):
        assert found[step] == pytest.approx(by_step[step], rel=1e-9), step

    assert first["indices"] + more["indices"] == whole["indices"]
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (before["state"], before["epochs"]) == ("finished", 2)
    assert (status["state"], status["epoch"], status["epochs"]) == ("finished", 4, 4)
    assert (status["step"], status["steps"]) == (4 * STEPS, 4 * STEPS)
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row.get("train/loss_step")]
    assert steps == list(range(4 * STEPS))
    assert record(tmp_path / "run")["epochs"] == 4


def test_a_run_that_left_within_an_epoch_goes_on_for_more_epochs(root: str, tmp_path: Path) -> None:
    left = tiny.fit(config(root, epochs=2), str(tmp_path / "run"), leave_after_step=STEPS + 1)
    assert "scalars" not in left
    tiny.fit(config(root, epochs=5), str(tmp_path / "run"))
    expected = plainly(warmup_and_cosine(STEPS, 5 * STEPS), 5 * STEPS)
    found = learning_rates(tmp_path / "run")
    for step in range(STEPS + 1, 5 * STEPS):
        assert found[step] == pytest.approx(expected[step], rel=1e-9), step


def test_another_learning_rate_and_weight_decay_count_from_the_next_step_on(
    root: str, tmp_path: Path
) -> None:
    """`--allow-change`: what the checkpoint holds would otherwise win, without a word."""
    tiny.fit(config(root, epochs=2), str(tmp_path / "run"), stop_after=0)
    changed = {"learning_rate": 4e-4, "weight_decay": 0.2}
    tiny.fit(config(root, epochs=2, model=changed), str(tmp_path / "run"))
    tiny.fit(config(root, epochs=2, model=changed), str(tmp_path / "whole"))
    rates, expected = learning_rates(tmp_path / "run"), learning_rates(tmp_path / "whole")
    assert [rates[step] for step in range(STEPS, 2 * STEPS)] == pytest.approx(
        [expected[step] for step in range(STEPS, 2 * STEPS)], rel=1e-9
    )
    assert rates[0] != expected[0]
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = last["optimizer_states"][0]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.2, 0.0]


def test_the_weights_at_the_end_are_those_of_the_longer_schedule(root: str, tmp_path: Path) -> None:
    """A schedule that only reported another rate would pass the tests above."""
    # The first epoch is the warm-up, which is the same at any length.
    tiny.fit(config(root, epochs=2), str(tmp_path / "run"), stop_after=0)
    tiny.fit(config(root, epochs=3), str(tmp_path / "run"))
    tiny.fit(config(root, epochs=3), str(tmp_path / "whole"))
    weights = [
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "whole")
    ]
    for name, value in weights[1].items():
        assert torch.equal(weights[0][name], value), name


class OneCycle(tiny.TinyModel):
    """Its schedule moves the momentum too, and is of a kind that the engine does not know."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.network.parameters(), lr=1e-3, momentum=0.9)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def test_any_other_schedule_becomes_the_longer_runs_and_its_momentum_too(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "TinyModel", OneCycle)
    for epochs in (2, 4):
        tiny.fit(config(root, epochs=epochs), str(tmp_path))
    expected = plainly(
        lambda optimizer: OneCycleLR(optimizer, max_lr=0.01, total_steps=4 * STEPS), 4 * STEPS
    )
    names = ("lr-SGD", "lr-SGD/pg1")
    found = {
        int(row["step"]): float(row[name])
        for row in rows(tmp_path)
        for name in names
        if row.get(name)
    }
    for step in range(2 * STEPS, 4 * STEPS):
        assert found[step] == pytest.approx(expected[step], rel=1e-9), step
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3, momentum=0.9)
    schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=4 * STEPS)
    for _ in range(4 * STEPS - 1):
        optimizer.step()
        schedule.step()
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    momentum = last["optimizer_states"][0]["param_groups"][0]["momentum"]
    assert momentum == pytest.approx(optimizer.param_groups[0]["momentum"], abs=0.02)


def images(seen: dict[str, Any]) -> list[int]:
    return [index for micro_batch in seen["indices"] for index in micro_batch]


def test_another_micro_batch_within_an_epoch_uses_every_image_once(
    root: str, tmp_path: Path
) -> None:
    at_8 = tiny.config(root, limit_batches=40)  # 10 steps an epoch
    at_4 = tiny.config(root, limit_batches=80, data={"micro_batch_size": 4})
    whole = tiny.fit(at_8, str(tmp_path / "whole"))
    first = tiny.fit(at_8, str(tmp_path / "run"), leave_after_step=14)
    assert len(images(first)) == 14 * 32
    then = tiny.fit(at_4, str(tmp_path / "run"))
    assert {len(micro_batch) for micro_batch in then["indices"]} == {4}
    assert images(first) + images(then) == images(whole)
    second_epoch = images(first)[10 * 32 :] + images(then)
    assert len(set(second_epoch)) == len(second_epoch) == 10 * 32

    last, rates = record(tmp_path / "run"), learning_rates(tmp_path / "run")
    assert (last["accumulation"], last["steps_per_epoch"], last["epochs"]) == (8, 10, 2)
    assert rates == pytest.approx(learning_rates(tmp_path / "whole"), rel=1e-12)


@pytest.mark.parametrize("strategy", ["deepspeed_zero2", "deepspeed_zero3"])
def test_another_number_of_ranks_and_strategy_within_an_epoch(
    root: str, tmp_path: Path, ranks: Any, strategy: str
) -> None:
    settings = {"epochs": 1, "model": {"warmup_epochs": 0}}
    alone = tiny.config(root, limit_batches=40, **settings)
    whole = tiny.fit(alone, str(tmp_path / "whole"))
    first = tiny.fit(alone, str(tmp_path / "run"), leave_after_step=6)
    together = tiny.config(root, strategy, 2, limit_batches=20, **settings)
    then = ranks(2).run(tiny.fit, together, str(tmp_path / "run"))
    pairs = zip(then[0]["indices"], then[1]["indices"], strict=True)
    assert images(first) + [index for pair in pairs for m in pair for index in m] == images(whole)
    last = record(tmp_path / "run")
    assert (last["accumulation"], last["steps_per_epoch"]) == (2, 10)


@pytest.mark.parametrize("interval", ["step", "epoch"])
def test_another_batch_size_between_two_epochs(root: str, tmp_path: Path, interval: str) -> None:
    """6 steps of 32 images, then 3 of 64 an epoch, on the schedule of a run that has 3 an epoch."""
    settings = {"epochs": 3, "limit_batches": 24, "model": {"interval": interval}}
    at_32 = tiny.config(root, **settings)
    at_64 = tiny.config(root, **settings, data={"batch_size": 64})
    first = tiny.fit(at_32, str(tmp_path), stop_after=0)
    then = tiny.fit(at_64, str(tmp_path))
    assert len(images(first)) == 6 * 32
    assert len(images(then)) == 2 * 3 * 64
    for epoch in (images(then)[: 3 * 64], images(then)[3 * 64 :]):
        assert len(set(epoch)) == len(epoch)
    per_epoch = 3 if interval == "step" else 1
    expected = plainly(warmup_and_cosine(per_epoch, 3 * per_epoch), 3 * per_epoch)
    by_step = [rate for rate in expected for _ in range(3 // per_epoch)][3:]
    found = learning_rates(tmp_path)
    assert sorted(found) == list(range(6 + 2 * 3))
    assert [found[6 + step] for step in range(6)] == pytest.approx(by_step, rel=1e-9)
    assert record(tmp_path)["steps_per_epoch"] == 3


def test_another_batch_size_within_an_epoch_is_refused(root: str, tmp_path: Path) -> None:
    tiny.fit(tiny.config(root, limit_batches=24), str(tmp_path), leave_after_step=2)
    other = tiny.config(root, limit_batches=24, data={"batch_size": 64})
    with pytest.raises(ValueError, match="after 2 of the 6 optimizer steps .* between two epochs"):
        tiny.fit(other, str(tmp_path))


def test_a_checkpoint_of_the_middle_of_a_step_is_refused() -> None:
    counts = {"ready": 6, "started": 6, "processed": 6, "completed": 5}
    progress = {"total": counts, "current": dict(counts), "is_last_batch": False}
    loop = {"epoch_loop.batch_progress": progress, "state_dict": {}}
    with pytest.raises(ValueError, match="after 2 of its 4 micro-batches"):
        adapt_counts({"loops": {"fit_loop": loop}}, Length(2, 44, 4), Length(2, 44, 8))


def test_a_checkpoint_of_before_the_length_was_recorded_can_be_gone_on_with() -> None:
    now = Length(epochs=4, steps_per_epoch=44, accumulation=2)
    old = {"config": {"epochs": 2}, "accumulation": 8}
    assert recorded_length(old, now) == Length(2, 44, 8)


def test_groups_of_an_older_checkpoint_or_another_device_become_those_of_this_run() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.1}])
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["fused"] = True  # on a GPU
    state["param_groups"].append({**state["param_groups"][0], "params": []})
    trainer: Any = SimpleNamespace(optimizers=[optimizer], strategy=None)
    adapt_groups(trainer, {"optimizer_states": [state]})
    optimizer.load_state_dict(state)
    assert [group["fused"] for group in optimizer.param_groups] == [None]
