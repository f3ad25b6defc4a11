"""Every optimizer and schedule trains as torch's or timm's own in a bare loop, under any strategy,
and its checkpoint travels between strategies.

A run is 4 epochs of 5 steps of 32 images, in micro-batches of 8, on the digits. It computes in
float64, except under ZeRO, which keeps to float32. (Muon rounds to bfloat16, which would make a
visible number of a rounding error of float32.)
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    SequentialLR,
)

from clf.config import RunConfig
from clf.config.registry import node_schema
from clf.data.index import load_splits
from tests import tiny

EPOCHS, STEPS, MICRO = 4, 5, 4  # steps an epoch, micro-batches a step

# Name -> settings, and the limit of the gradient's norm
CASES: dict[str, tuple[dict[str, Any], float | None]] = {
    "adamw": ({"learning_rate": 1e-3, "beta2": 0.98}, None),
    "adamw-groups": (
        {
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "schedule": "linear",
            "layer_decay": 0.5,
            "head_lr_factor": 3.0,
        },
        None,
    ),
    "sgd": (
        {"learning_rate": 0.05, "schedule": "step", "step_epochs": [2, 3], "nesterov": True},
        0.2,
    ),
    "lamb": ({"learning_rate": 0.01, "schedule": "linear"}, None),
    "lars": ({"learning_rate": 1.0, "schedule": "constant"}, None),
    "muon": ({"learning_rate": 0.01}, None),
    "sgd-without-momentum": (
        {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.0, "schedule": "linear"},
        None,
    ),
}


def schedule(optimizer: torch.optim.Optimizer, name: str) -> LRScheduler:
    """torch's own, after a warm-up of one epoch."""
    left = (EPOCHS - 1) * STEPS
    warm = LinearLR(optimizer, 0.1, total_iters=STEPS)
    after = {
        "cosine": lambda: CosineAnnealingLR(
            optimizer, left, eta_min=0.01 * optimizer.param_groups[0]["initial_lr"]
        ),
        "linear": lambda: LinearLR(optimizer, 1.0, 0.01, total_iters=left),
        "step": lambda: MultiStepLR(optimizer, [STEPS, 2 * STEPS], gamma=0.1),
        "constant": lambda: ConstantLR(optimizer, 1.0),
    }[name]()
    return SequentialLR(optimizer, [warm, after], [STEPS])


def optimizers(
    name: str, network: nn.Module, lr: float
) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
    """torch's or timm's own, and the function that steps them."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    groups = [
        {"params": kernels, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    if name == "muon":
        return muon(kernels, vectors, lr)
    if name == "adamw-groups":
        groups = [
            {"params": [p], "weight_decay": 0.05 if p.ndim > 1 else 0.0, "lr": lr * factor}
            for number, factor in ((0, 0.25), (1, 0.5), (4, 3.0))  # two convolutions and the head
            for p in network[number].parameters()
        ]
    (one,) = made = [
        {
            "adamw": lambda: torch.optim.AdamW(groups, lr, (0.9, 0.98)),
            "adamw-groups": lambda: torch.optim.AdamW(groups, lr),
            "sgd": lambda: torch.optim.SGD(groups, lr, 0.9, nesterov=True),
            "sgd-without-momentum": lambda: torch.optim.SGD(groups, lr),
            "lamb": lambda: timm.optim.Lamb(groups, lr, max_grad_norm=None),
            "lars": lambda: timm.optim.Lars(groups, lr, momentum=0.9),
        }[name]()
    ]
    return made, lambda: one.step()


def muon(
    kernels: list[nn.Parameter], vectors: list[nn.Parameter], lr: float
) -> tuple[list[torch.optim.Optimizer], Callable[[], None]]:
    *hidden, head = kernels
    matrices = [nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in hidden]
    others = [{"params": [head], "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    made: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr),
    ]

    def step() -> None:
        for matrix, kernel in zip(matrices, hidden, strict=True):
            assert kernel.grad is not None
            matrix.grad = kernel.grad.flatten(1).clone()
        for optimizer in made:
            optimizer.step()
        for matrix, kernel in zip(matrices, hidden, strict=True):
            kernel.data.copy_(matrix.detach().view(kernel.shape))

    return made, step


def bare_loop(
    case: str, batches: Iterator[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of all micro-batches, and the weights at the end."""
    settings, clip = CASES[case]
    torch.manual_seed(0)
    network = tiny.WithoutDropout(num_classes=10).network.to(dtype)
    made, step = optimizers(case, network, settings["learning_rate"])
    schedules = [schedule(one, settings.get("schedule", "cosine")) for one in made]
    losses = []
    for _ in range(EPOCHS * STEPS):
        network.zero_grad()
        for _ in range(MICRO):
            images, labels = next(batches)
            loss = nn.functional.cross_entropy(network(images), labels)
            (loss / MICRO).backward()
            losses.append(float(loss.detach()))
        if clip is not None:
            assert nn.utils.clip_grad_norm_(network.parameters(), clip) > clip
        step()
        for one in schedules:
            one.step()
    return losses, dict(network.named_parameters())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exact")


def config(place: Path, case: str, strategy: str = "single", epochs: int = EPOCHS) -> RunConfig:
    settings, clip = CASES[case]
    world = 1 if strategy == "single" else 2
    cfg = tiny.config(
        str(place / "digits"),
        strategy,
        world,
        epochs=epochs,
        limit_batches=STEPS * MICRO // world,
        strategy_settings={"gradient_clip": clip, "channels_last": False},
    )
    values = {**vars(cfg.model), "optimizer": case, "_target_": "tests.tiny.WithoutDropout"}
    values |= settings
    cfg.model = node_schema("model", values)(**values)
    return cfg


def fit(
    place: Path, ranks: Any, folder: str, case: str, strategy: str, stop_after: int | None = None
) -> list[dict[str, Any]]:
    cfg, double = config(place, case, strategy), "zero" not in folder
    if strategy == "single":
        return [tiny.fit(cfg, str(place / folder), stop_after, None, double)]
    return ranks(2).run(tiny.fit, cfg, str(place / folder), stop_after, None, double)


@pytest.fixture(scope="module")
def plain(place: Path) -> Callable[[str, torch.dtype], tuple[list[float], dict[str, Tensor]]]:
    """What the bare loop gives for a case, on the images that a run of clf sees."""
    seen = tiny.fit(config(place, "adamw"), str(place / "images"))
    labels = load_splits(config(place, "adamw").data).train.labels
    of_imagenet = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    found: dict[Any, Any] = {}

    def batches(dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        mean, std = (of_imagenet[:, :, None, None] * 255).to(dtype)
        for pixels, indices in zip(seen["pixels"], seen["indices"], strict=True):
            images = np.frombuffer(pixels, np.uint8).reshape(-1, 3, 32, 32)
            yield (torch.tensor(images) - mean) / std, torch.as_tensor(np.array(labels)[indices])

    def of(case: str, dtype: torch.dtype) -> Any:
        if (case, dtype) not in found:
            found[case, dtype] = bare_loop(case, batches(dtype), dtype)
        return found[case, dtype]

    return of


def last(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_weights(folder: Path, expected: dict[str, Tensor], atol: float) -> None:
    weights = last(folder)["state_dict"]
    for name, value in expected.items():
        found = weights[f"network.{name}"]
        torch.testing.assert_close(found, value.detach(), rtol=0, atol=atol, msg=name)


def tolerance(folder: str) -> tuple[torch.dtype, float]:
    return (torch.float32, 1e-5) if "zero" in folder else (torch.float64, 1e-9)


ALL = ["adamw", "adamw-groups", "sgd", "lamb", "lars", "muon"]
ZERO = [f"deepspeed_zero{stage}" for stage in (1, 2, 3)]
STRATEGIES = [f"{case} {strategy}" for case in ALL for strategy in ("single", "ddp")]
STRATEGIES += [f"{case} {strategy}" for case in ("adamw", "sgd") for strategy in ZERO]


@pytest.mark.parametrize("run", STRATEGIES)
def test_twenty_steps_are_those_of_a_bare_loop(place, ranks, plain, run):
    case, strategy = run.split()
    dtype, atol = tolerance(run)
    losses, weights = plain(case, dtype)
    seen = fit(place, ranks, run, case, strategy)
    in_order = [rank["losses"][i] for i in range(len(seen[0]["losses"])) for rank in seen]
    np.testing.assert_allclose(in_order, losses, rtol=0, atol=atol)
    assert_same_weights(place / run, weights, atol)


ROUTES = [f"{case} single ddp single" for case in ALL]
ROUTES += [
    f"{case} ddp deepspeed_zero2 ddp deepspeed_zero3"
    for case in ("adamw-groups", "sgd-without-momentum")
]


@pytest.mark.parametrize("route", ROUTES)
def test_a_checkpoint_travels_between_strategies(place, ranks, plain, route):
    """An epoch under each."""
    case, *strategies = route.split()
    for epoch, strategy in enumerate(strategies):
        end = epoch if epoch < len(strategies) - 1 else None
        fit(place, ranks, route, case, strategy, stop_after=end)
    dtype, atol = tolerance(route)
    assert_same_weights(place / route, plain(case, dtype)[1], atol)
    assert last(place / route)["global_step"] == EPOCHS * STEPS


@pytest.mark.parametrize("case", ["sgd", "muon"])
def test_a_run_goes_on_for_more_epochs_on_the_schedule_of_the_longer_run(place, plain, case):
    """The warm-up, its first epoch, is the same at any length."""
    folder = str(place / f"{case} longer")
    tiny.fit(config(place, case, epochs=2), folder, 0, None, True)
    tiny.fit(config(place, case, epochs=4), folder, None, None, True)
    assert_same_weights(Path(folder), plain(case, torch.float64)[1], 1e-9)


def test_the_learning_rate_of_each_group_is_recorded_by_its_name(place, ranks):
    fit(place, ranks, "names", "adamw-groups", "single", stop_after=0)
    with (place / "names" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("lr-AdamW/head")]
    assert len(rows) >= STEPS
    for row in rows:
        head = float(row["lr-AdamW/head-no-decay"])
        assert float(row["lr-AdamW/layer01"]) == pytest.approx(head / 3 * 0.5)
        assert float(row["lr-AdamW/layer00-no-decay"]) == pytest.approx(head / 3 * 0.25)
