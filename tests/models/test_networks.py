"""Every classification network of torchvision, and some of timm's: built by name, trained and
evaluated, from weights too."""

from typing import Any

import pytest
import torch
import torchvision
from lightning import Trainer
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from clf.batch import ClassificationBatch
from clf.config.networks import find, names
from clf.config.weights import size_argument, weights
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.plan import compose

LARGE = 60_000_000  # parameters; larger ones are built without memory
OF_TIMM = [
    "resnet10t",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_lite0",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "regnetx_002",
    "deit_tiny_distilled_patch16_224",
]


def built(choice: str, *settings: str, classes: int = 3, size: int = 32) -> BaseClassificationModel:
    words = [f"model={choice}", "strategy.channels_last=false", f"data.image_size={size}"]
    cfg = compose([*words, f"data.eval_resize={size}", *settings])
    return build_model(cfg, classes, pretrained=True)


def batch(size: int) -> ClassificationBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    return {"images": images, "labels": torch.tensor([0, 1, 2, 1]), "indices": torch.arange(4)}


def one_step(model: BaseClassificationModel, size: int) -> dict[str, float]:
    """Train for a step and evaluate, by Lightning; what was logged."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        num_sanity_val_steps=0, **quiet,
    )  # fmt: skip
    before = [p.detach().clone() for p in model.head().parameters()]
    loader = DataLoader([batch(size)], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, loader, loader)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.head().parameters(), strict=True)
    )
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def smallest(choice: str) -> int:
    network = find(choice)
    given = next(iter(weights(network).values())) if weights(network) else None
    if size_argument(network) in ("image_size", "img_size"):
        return 28 if choice == "vit_h_14" else 32
    return max(32, given.smallest or 32) if given else 32


class WithoutMemory(TorchFunctionMode):
    """Weights are created on the meta device, and what a network computes with (RegNet's widths)
    is not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


@pytest.mark.parametrize("name", sorted(names("torchvision")))
def test_every_network_of_torchvision_trains_a_step_and_evaluates(name: str) -> None:
    size = smallest(name)
    (default, *_) = weights(find(name)).values()
    with WithoutMemory():
        own = torchvision.models.get_model(name, num_classes=3, **extra(name, size))
    if default.parameters > LARGE:
        with WithoutMemory():
            model = built(name, size=size).to("meta")
        assert model(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 3)
    else:
        model = built(name, size=size)
        logged = one_step(model, size)
        assert 0 < logged["train/loss"] < 100
        assert logged["val/loss"] > 0
    shapes = {key: value.shape for key, value in own.state_dict().items()}
    assert {key: value.shape for key, value in model.network.state_dict().items()} == shapes


def extra(name: str, size: int) -> dict[str, Any]:
    """What torchvision must be told to build the same network."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {"image_size": size} if name.startswith("vit") else {}
