"""Optimizers by name, against torch's own."""

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm.optim
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from clf.config import ConfigError, optimizer_rules, registry
from clf.optim.build import optimizer_and_schedule
from clf.optim.optimizers import adamw, fused, lamb, lars, sgd
from clf.plan import compose, examine


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
        (
            lamb,
            timm.optim.Lamb,
            {"beta1": 0.8, "beta2": 0.95, "eps": 0.1},
            {"betas": (0.8, 0.95), "eps": 0.1, "max_grad_norm": None},
        ),
        (
            lars,
            timm.optim.Lars,
            {"momentum": 0.8, "nesterov": True, "lars_trust": 0.02},
            {"momentum": 0.8, "nesterov": True, "trust_coeff": 0.02},
        ),
    ],
)
def test_settings_reach_torchs_optimizer(ours, torchs, settings, as_torch_has_them):
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    groups = [{"params": [weights[0]], "weight_decay": 0.1}]
    reference = torchs([weights[1]], lr=0.05, weight_decay=0.1, **as_torch_has_them or settings)
    expected = pytest.approx(steps(reference, weights[1]), rel=1e-6)  # AdamW's is not fused
    assert steps(ours(groups, 0.05, **settings), weights[0]) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=sgd", "nesterov=true", "momentum=0"], "model.nesterov=true: needs momentum"),
        (["beta2=1.0"], "model.beta2=1.0: expected a number from 0 to 0.999999"),
        (["eps=-1"], "model.eps=-1.0: expected a number of at least 0"),
        (["optimizer=lars", "nesterov=true", "momentum=0"], "model.nesterov=true: needs momentum"),
        (["optimizer=muon", "muon_iterations=0"], "model.muon_iterations=0: expected a number fro"),
        (
            ["optimizer=lars", "weight_decay=0"],
            "model.weight_decay=0.0: model.optimizer=lars adapts the steps of those weights alone "
            "that decay",
        ),
        (
            ["optimizer=lamb", "freeze_epochs=1"],
            "model.freeze_epochs=1: model.optimizer=lamb counts the steps of all weights together",
        ),
        (["head_lr_factor=-1"], "model.head_lr_factor=-1.0: expected a number of at least 0"),
        (["layer_decay=1.5"], "model.layer_decay=1.5: expected a number above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_be_are_a_fault(words, message):
    with pytest.raises(ConfigError) as caught:
        compose([f"model.{word}" for word in words])
    assert [fault[: len(message)] for fault in caught.value.faults] == [message]


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_timm_adapts_the_steps_of_weights_that_decay_alone(name):
    """The rule about model.weight_decay=0 can go when this fails."""
    moved = []
    for decay in (0.0, 1e-6):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        ours = {"lamb": lamb, "lars": lars}[name]
        steps(ours([{"params": [weight], "weight_decay": decay}], 0.01), weight)
        moved.append(float(weight.detach().sub(torch.tensor([1.0, -2.0])).norm()))
    assert moved[0] != pytest.approx(moved[1], rel=0.1)


def test_timms_lamb_counts_the_steps_of_a_group():
    """The rule about model.freeze_epochs can go when this fails."""
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = lamb([{"params": [first, second], "weight_decay": 0.0}], 0.01)
    for gradients in ((torch.ones(1), None), (torch.ones(1), torch.ones(1))):
        first.grad, second.grad = gradients
        before = second.detach().clone()
        optimizer.step()
    assert float((second.detach() - before).abs()) != pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["optimizer=sgd"], ["model.learning_rate=0.0005", "model.weight_decay=0.05"]),
        (["optimizer=lars"], ["model.learning_rate=0.0005", "model.weight_decay=0.05"]),
        (["optimizer=lars", "learning_rate=2"], ["model.weight_decay=0.05"]),
        (["optimizer=lamb"], []),
    ],
)
def test_defaults_that_do_not_suit_an_optimizer_are_a_note(words, keys):
    notes = examine([f"model.{word}" for word in words]).notes
    assert [note.partition(": the default, which suits adamw; with")[0] for note in notes] == keys


def test_a_step_is_fused_where_all_weights_are_on_one_kind_of_device_that_gains_by_it():
    gpu, cpu, meta = (SimpleNamespace(device=torch.device(one)) for one in ("cuda", "cpu", "meta"))

    def asks(*weights: Any) -> bool:
        return all(group.get("fused") for group in fused([{"params": [*weights]}], "cuda", "cpu"))

    assert asks(gpu)
    assert asks(cpu, cpu)
    assert not asks(gpu, cpu)
    assert not asks(meta)
    assert not asks()
    weight = nn.Parameter(torch.ones(1))
    chosen = [ours([{"params": [weight]}], 0.1).param_groups[0]["fused"] for ours in (adamw, sgd)]
    assert chosen == [True, None]


@pytest.mark.parametrize("ours", [sgd, adamw])
def test_a_fused_step_is_an_option_of_the_groups_and_gives_the_same_numbers(ours):
    """torch has one for the CPU too, which stands for the GPU's here."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1000, generator=generator)
    weights = [nn.Parameter(values.clone()) for _ in range(2)]
    quick = ours([{"params": [weights[0]], "fused": True, "weight_decay": 0.1}], 0.05)
    plain = ours([{"params": [weights[1]], "weight_decay": 0.1}], 0.05)
    plain.param_groups[0]["fused"] = None
    np.testing.assert_allclose(steps(quick, weights[0]), steps(plain, weights[1]), atol=1e-6)
    # Each goes on from the other's state.
    plain.load_state_dict(copy.deepcopy(quick.state_dict()))
    assert plain.param_groups[0]["fused"]
    np.testing.assert_allclose(steps(quick, weights[0]), steps(plain, weights[1]), atol=1e-6)
    # Lightning clips its gradients, which it refuses where torch is asked for a fused step itself.
    mixed = MixedPrecision("bf16-mixed", "cpu")
    weights[0].grad = torch.zeros(1000)
    weights[0].grad[:2] = torch.tensor([3.0, 4.0])
    mixed.clip_gradients(quick, 1.0)
    assert float(weights[0].grad.norm()) == pytest.approx(1.0, rel=1e-4)
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        mixed.clip_gradients(torch.optim.AdamW([weights[1]], fused=True), 1.0)


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_a_step_from_a_state_of_another_memory_format_is_the_same(name):
    """The fused steps would pair the weights with moments of others."""
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, 3, bias=False)
    settings = registry.complete("model", {"optimizer": name, "num_classes": 2, "_target_": ""})

    def made(network: nn.Module) -> torch.optim.Optimizer:
        return optimizer_and_schedule(network, None, settings, epochs=2, per_epoch=1)[0]

    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        optimizer.zero_grad()
        network(torch.linspace(0, 1, 75).view(1, 3, 5, 5)).square().sum().backward()
        optimizer.step()
        return next(network.parameters()).detach()

    first = made(plain)
    step(plain, first)
    other = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    second = made(other)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for state in second.state.values():
        kept = [one for one in state.values() if torch.is_tensor(one) and one.ndim == 4]
        assert kept
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in kept)
    torch.testing.assert_close(step(other, second), step(plain, first), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["lamb", "lars", "muon"])
def test_an_optimizer_that_needs_whole_weights_is_refused_under_zero(name):
    assert compose([f"model.optimizer={name}", "strategy=ddp", "gpus=2"]).model.optimizer == name
    with pytest.raises(ConfigError) as caught:
        compose([f"model.optimizer={name}", "strategy=deepspeed_zero1", "gpus=2"])
    assert caught.value.faults == [
        f"model.optimizer={name}: looks at each weight as a whole, and deepspeed_zero1 cuts "
        "weights into pieces; set strategy=ddp, or model.optimizer=adamw"
    ]


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(optimizer_rules, "find_spec", lambda name: None)
    assert compose(["model.optimizer=muon"]).model.optimizer == "muon"  # torch's own
    with pytest.raises(ConfigError) as caught:
        compose(["model.optimizer=lamb"])
    assert caught.value.faults == [
        "model.optimizer=lamb: the package timm is not installed; pip install timm, or choose "
        "another optimizer"
    ]


def test_an_optimizer_of_ones_own_may_need_whole_weights(tmp_path, monkeypatch):
    (tmp_path / "whole_steps.py").write_text(
        "from torch.optim import SGD\n"
        "from clf.config import register\n"
        '@register(name="whole", group="optimizer", whole_weights=True)\n'
        "def whole(groups, learning_rate):\n"
        "    return SGD(groups, learning_rate)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entries", {})  # another test lists all names
    words = ["trusted_packages=[whole_steps]", "model.optimizer=whole", "strategy=deepspeed_zero2"]
    with pytest.raises(ConfigError, match="model.optimizer=whole: looks at each weight as a whole"):
        compose(words)
