"""The learning rate against PyTorch's own schedulers, stepped once an epoch."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from clf.optim import cosine, parameter_groups, sgd, with_warmup


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


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="warm-up must be shorter than the run: got 4 of 4 steps"):
        with_warmup(adamw(), cosine, 4, 4, 0.1)


def test_biases_and_norms_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, kept = parameter_groups(network, 0.05)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert decayed["weight_decay"] == 0.05
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,), (2,)]
    assert kept["weight_decay"] == 0.0


def test_sgd_takes_its_own_settings_and_steps_as_torchs():
    def steps(optimizer, weight):
        for _ in range(5):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
        return weight.tolist()

    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    groups = [{"params": [ours], "weight_decay": 0.1}]
    reference = torch.optim.SGD([theirs], lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1)
    assert steps(sgd(groups, 0.05, momentum=0.8, nesterov=True), ours) == steps(reference, theirs)
    with pytest.raises(ValueError, match="needs model.momentum above 0"):
        sgd(groups, 0.05, momentum=0.0, nesterov=True)
