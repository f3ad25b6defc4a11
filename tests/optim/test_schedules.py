"""The learning rate against PyTorch's own schedulers, stepped once an epoch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
    StepLR,
)

from clf.config import ConfigError
from clf.optim import schedules
from clf.optim.schedules import constant, cosine, linear, step
from clf.plan import compose


def with_warmup(optimizer, schedule, *lengths, **more):
    """Ours, with a schedule that need not take the epochs."""

    def called(optimizer, steps, epochs):
        is_step = getattr(schedule, "func", schedule) is step
        return schedule(optimizer, steps, *([epochs] if is_step else []))

    return schedules.with_warmup(optimizer, called, *lengths, **more)


def adamw() -> torch.optim.Optimizer:
    return torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=0.3)


def rates(optimizer, scheduler, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("per_epoch", [1, 7])
@pytest.mark.parametrize(("warmup", "epochs"), [(2, 10), (1, 3)])
def test_epoch_boundaries_equal_pytorchs_sequential_lr(warmup, epochs, per_epoch):
    optimizer = adamw()
    schedule = partial(cosine, cosine_eta_min_factor=0.02)
    ours = with_warmup(optimizer, schedule, warmup * per_epoch, epochs * per_epoch, 0.1)
    boundaries = rates(optimizer, ours, epochs * per_epoch)[::per_epoch]

    reference = adamw()
    linear = LinearLR(reference, start_factor=0.1, total_iters=warmup)
    after = CosineAnnealingLR(reference, epochs - warmup, eta_min=0.3 * 0.02)
    sequential = SequentialLR(reference, [linear, after], milestones=[warmup])
    assert boundaries == pytest.approx(rates(reference, sequential, epochs), rel=1e-9)
    assert boundaries[0] == pytest.approx(0.03)
    assert boundaries[warmup] == pytest.approx(0.3)


def test_no_warm_up_starts_at_the_peak():
    optimizer = adamw()
    scheduler = with_warmup(optimizer, partial(cosine, cosine_eta_min_factor=0.0), 0, 4, 0.1)
    values = rates(optimizer, scheduler, 4)
    assert values[0] == 0.3
    assert values[2] == pytest.approx(0.15)


@pytest.mark.parametrize("total", [4, 6])
def test_a_short_try_begins_as_the_whole_run_does(total):
    """Its warm-up may be as long as it is, or longer."""
    optimizer, whole = adamw(), adamw()
    expected = rates(whole, with_warmup(whole, cosine, 6, 20, 0.1), total)
    assert rates(optimizer, with_warmup(optimizer, cosine, 6, total, 0.1), total) == expected


def two_groups(lr: float) -> torch.optim.Optimizer:
    """Of which the second has a tenth of the first one's learning rate."""
    first, second = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.SGD([{"params": [first]}, {"params": [second], "lr": lr / 10}], lr=lr)


SCHEDULES = {  # ours, and torch's own after a warm-up of 2 epochs of 3 steps in a run of 8 epochs
    "cosine": (
        partial(cosine, cosine_eta_min_factor=0.2),
        lambda optimizer, peak: CosineAnnealingLR(optimizer, 18, eta_min=0.2 * peak),
    ),
    "linear": (
        partial(linear, linear_end_factor=0.1),
        lambda optimizer, peak: LinearLR(optimizer, 1.0, 0.1, total_iters=18),
    ),
    "step": (
        partial(step, step_epochs=[4, 7], step_factor=0.5),
        lambda optimizer, peak: MultiStepLR(optimizer, [6, 15], gamma=0.5),
    ),
    "step-every": (
        partial(step, step_every=3, step_factor=0.5),  # at epochs 3 and 6
        lambda optimizer, peak: MultiStepLR(optimizer, [3, 12], gamma=0.5),
    ),
    "constant": (constant, lambda optimizer, peak: ConstantLR(optimizer, 1.0)),
}


@pytest.mark.parametrize(("ours", "torchs"), SCHEDULES.values(), ids=SCHEDULES)
def test_each_group_follows_torchs_schedule_in_proportion_to_its_own_peak(ours, torchs):
    optimizer = two_groups(0.4)
    scheduler = with_warmup(optimizer, ours, 6, 24, 0.1, per_epoch=3)
    found = []
    for _ in range(24):
        found.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    for number, peak in enumerate((0.4, 0.04)):
        reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
        after = torchs(reference, peak)
        warm = LinearLR(reference, start_factor=0.1, total_iters=6)
        expected = rates(reference, SequentialLR(reference, [warm, after], milestones=[6]), 24)
        assert [pair[number] for pair in found] == pytest.approx(expected, rel=1e-9)


def test_without_a_warm_up_a_fall_every_few_epochs_is_torchs_step_lr():
    optimizer, reference = two_groups(0.4), two_groups(0.4)
    ours = with_warmup(optimizer, partial(step, step_every=3), 0, 16, 0.1, per_epoch=2)
    expected = rates(reference, StepLR(reference, 6, gamma=0.1), 16)
    assert rates(optimizer, ours, 16) == pytest.approx(expected, rel=1e-9)


def test_a_checkpoint_of_torchs_own_cosine_can_be_gone_on_with():
    """Those that were written before each group had its own end."""

    def plain(optimizer: torch.optim.Optimizer) -> LRScheduler:
        warm = LinearLR(optimizer, start_factor=0.1, total_iters=3)
        after = CosineAnnealingLR(optimizer, 9, eta_min=0.3 * 0.01)
        return SequentialLR(optimizer, [warm, after], milestones=[3])

    reference = adamw()
    scheduler = plain(reference)
    rates(reference, scheduler, 5)
    optimizer = adamw()
    ours = with_warmup(optimizer, cosine, 3, 12, 0.1)
    ours.load_state_dict(scheduler.state_dict())
    optimizer.load_state_dict(reference.state_dict())
    assert rates(optimizer, ours, 7) == pytest.approx(rates(reference, scheduler, 7), rel=1e-9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model.schedule=step: does not say when the learning rate falls; set model.step_e"),
        (["step_epochs=[3]", "step_every=3"], "model.schedule=step: says twice when the"),
        (["step_epochs=[4,3]"], r"model.step_epochs=[4,3]: expected epochs in ascending order"),
        (["step_epochs=[]"], r"model.step_epochs=[]: expected epochs in ascending order"),
        (["step_epochs=[2,5]", "warmup_epochs=2"], "model.step_epochs=[2,5]: epoch 2 is not after"),
        (["step_every=1"], "model.step_every=1: epoch 1 is not after the warm-up, which takes 1"),
        (["step_epochs=[0]"], "model.step_epochs=[0]: expected a number of at least 1"),
        (["step_every=3", "step_factor=2"], "model.step_factor=2.0: expected a number from 0 to 1"),
    ],
)
def test_falls_that_would_not_come_are_a_fault(words, message):
    with pytest.raises(ConfigError) as caught:
        compose(["model.schedule=step", "epochs=10", *(f"model.{word}" for word in words)])
    assert [fault[: len(message)] for fault in caught.value.faults] == [message]
