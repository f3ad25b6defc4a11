"""Optimizers by name, against torch's own."""

import pytest
import torch
from torch import nn

from clf.config import ConfigError
from clf.optim.optimizers import adamw, sgd
from clf.plan import compose


def steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> list[float]:
    for _ in range(5):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    return weight.tolist()


@pytest.mark.parametrize(
    ("ours", "torchs", "settings", "as_torch_has_them"),
    [
        (sgd, torch.optim.SGD, {"momentum": 0.8, "nesterov": True}, None),
        (adamw, torch.optim.AdamW, {}, None),
        (
            adamw,
            torch.optim.AdamW,
            {"beta1": 0.8, "beta2": 0.95, "eps": 0.1},
            {"betas": (0.8, 0.95), "eps": 0.1},
        ),
    ],
)
def test_settings_reach_torchs_optimizer(ours, torchs, settings, as_torch_has_them):
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    groups = [{"params": [weights[0]], "weight_decay": 0.1}]
    reference = torchs([weights[1]], lr=0.05, weight_decay=0.1, **as_torch_has_them or settings)
    assert steps(ours(groups, 0.05, **settings), weights[0]) == steps(reference, weights[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=sgd", "nesterov=true", "momentum=0"], "model.nesterov=true: needs model.mom"),
        (["beta2=1.0"], "model.beta2=1.0: expected a number from 0 to 0.999999"),
        (["eps=-1"], "model.eps=-1.0: expected a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_are_a_fault(words, message):
    with pytest.raises(ConfigError) as caught:
        compose([f"model.{word}" for word in words])
    assert [fault[: len(message)] for fault in caught.value.faults] == [message]
