"""Muon and AdamW as one optimizer, against torch's two.

In float64: a memory format has other rounding errors than another, and Muon, which rounds to
bfloat16, would make visible numbers of those of float32.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from clf.models.head import head_of
from clf.optim.groups import not_hidden, parameter_groups
from clf.optim.muon import muon


def network() -> nn.Module:
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    # No bias before BatchNorm: its gradient is a rounding error, of which AdamW makes a step.
    convs = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.SiLU())
    convs += (nn.Conv2d(8, 8, 1, bias=False),)
    return nn.Sequential(*convs, *head).double()


def ours(net: nn.Module, **settings) -> torch.optim.Optimizer:
    groups = parameter_groups(net, 0.05, 0.01, head_of(net))
    return muon(groups, 0.01, not_hidden(net, head_of(net)), **settings)


def train(net: nn.Module, optimizers: list, steps: int, first: int = 0) -> list[Tensor]:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64)
        net.zero_grad()
        cross_entropy(net(images), torch.tensor([0, 1, 2, 0])).backward()
        for optimizer in optimizers:
            optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def torchs(net: nn.Module) -> list[torch.optim.Optimizer]:
    """torch's two, after the kernels have been replaced by matrices of which they are views."""
    matrices = []
    for conv in (net[0], net[3]):
        matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
        shape = conv.weight.shape
        nn.utils.parametrize.register_parametrization(conv, "weight", View(shape), unsafe=True)
        conv.parametrizations.weight.original = matrix
        matrices.append(matrix)
    vectors = [net[1].weight, net[1].bias, net[6].bias]
    others = [{"params": [net[6].weight]}, {"params": vectors, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(matrices, 0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, 0.01, weight_decay=0.05),
    ]


class View(nn.Module):
    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, matrix: Tensor) -> Tensor:
        return matrix.view(self.shape)


def test_its_steps_are_those_of_torchs_muon_and_adamw():
    net, reference = network(), network()
    train(net, [ours(net)], 20)
    optimizers = torchs(reference)
    train(reference, optimizers, 20)
    for name, weight in net.state_dict().items():
        module, _, kind = name.rpartition(".")
        expected = getattr(reference.get_submodule(module), kind)
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-9, msg=name)


def test_a_memory_format_changes_neither_the_steps_nor_the_checkpoint():
    one = network()
    other = copy.deepcopy(one).to(memory_format=torch.channels_last)
    first, second = ours(one), ours(other)
    for expected, found in zip(train(one, [first], 5), train(other, [second], 5), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    states = [optimizer.state_dict()["state"] for optimizer in (first, second)]
    assert [sorted(state) for state in states[0].values()].count(["momentum_buffer"]) == 2
    for index, held in states[0].items():
        for name, value in held.items():
            torch.testing.assert_close(states[1][index][name], value, rtol=0, atol=1e-9)


@pytest.mark.parametrize("then", [torch.contiguous_format, torch.channels_last])
def test_it_goes_on_from_its_checkpoint_in_any_memory_format(then):
    whole = network()
    end = train(whole, [ours(whole)], 10)
    begun = network()
    optimizer = ours(begun)
    train(begun, [optimizer], 5)
    gone_on = network()
    gone_on.load_state_dict(begun.state_dict())
    gone_on.to(memory_format=then)
    loaded = ours(gone_on)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for expected, found in zip(end, train(gone_on, [loaded], 5, first=5), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_schedule_moves_both_and_a_weight_without_a_gradient_stays():
    net = network()
    optimizer = ours(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step > 0))
    before = [p.detach().clone() for p in net.parameters()]
    for expected, found in zip(before, train(net, [optimizer], 1), strict=True):
        assert torch.equal(found, expected)
    schedule.step()
    moved = train(net, [optimizer], 1)
    assert not any(torch.equal(*pair) for pair in zip(before, moved, strict=True))
    net.zero_grad()
    net[6].bias.grad = torch.ones_like(net[6].bias)
    optimizer.step()
    after = [p.detach() for p in net.parameters()]
    assert [torch.equal(*pair) for pair in zip(after, moved, strict=True)] == [True] * 5 + [False]


def test_groups_of_several_learning_rates_keep_their_names_apart():
    net = network()
    groups = parameter_groups(net, 0.05, 0.01, net[6], layer_decay=0.5)
    optimizer = muon(groups, 0.01, not_hidden(net, net[6]))
    names = [(group["name"], group["optimizer"]) for group in optimizer.param_groups]
    assert sorted(names) == [
        ("head", "adamw"),
        ("head-no-decay", "adamw"),
        ("layer00-muon", "muon"),
        ("layer00-no-decay", "adamw"),
        ("layer01-muon", "muon"),
    ]


def test_a_network_of_a_head_alone_is_refused():
    with pytest.raises(ValueError, match="model.optimizer=muon: the network has no hidden weight"):
        ours(nn.Linear(2, 2))
