"""Runs with mixup, cutmix, dropout and stochastic depth: the same on any number of ranks, under
ZeRO and after a kill. And what a run's loss and evaluation get of its data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from clf import run
from clf.config import MixConfig
from clf.data.datamodule import ClassificationDataModule
from clf.models.base import BaseClassificationModel
from clf.models.losses import Mixed
from tests import tiny

STEPS, EPOCHS = 4, 3  # the last epoch is not mixed
MIX = {"mixup": 0.4, "cutmix": 1.0, "probability": 0.9, "off_epochs": 1}
OTHERS = [("ddp", 2), ("ddp", 4), ("deepspeed_zero2", 2)]


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.branch = nn.Sequential(conv, nn.BatchNorm2d(channels), nn.SiLU())
        self.depth = StochasticDepth(0.5, "row")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return x_BCHW + self.depth(self.branch(x_BCHW))


class DepthModel(BaseClassificationModel):
    """Leaves out blocks and features at random."""

    def build_network(self) -> nn.Module:
        stem = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2))
        return nn.Sequential(stem, Residual(8), Residual(8), *pool, nn.Linear(8, self.num_classes))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mixing")


def config(place: Path, strategy: str = "single", world: int = 1, **more: Any) -> Any:
    model = {"_target_": f"{__name__}.DepthModel", "loss": "binary_cross_entropy", "bce_sum": True}
    more = {"limit_batches": STEPS * 4 // world, "epochs": EPOCHS, **more}
    more = {"mix": MixConfig(**MIX), "data": {"sampler": "class_balanced"}, "model": model, **more}
    return tiny.config(str(place / "digits"), strategy, world, **more)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def one(place) -> dict[str, Any]:
    return tiny.fit(config(place), str(place / "one"))


def test_all_but_the_last_epoch_are_mixed(one):
    def is_mixed(pixels: bytes) -> bool:
        """Whether some channels' values are not those of a whole grey level, normalised."""
        images = np.frombuffer(pixels, np.float32).reshape(8, 3, 32, 32)
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        levels = (images * std[:, None, None] + mean[:, None, None]) * 255
        return bool((np.abs(levels - levels.round()) > 0.01).any())

    assert [is_mixed(pixels) for pixels in one["pixels"][-4 * STEPS :]] == [False] * 4 * STEPS
    assert np.mean([is_mixed(pixels) for pixels in one["pixels"][: -4 * STEPS]]) > 0.8


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_mixed_images_and_losses_are_the_same_on_any_ranks(place, ranks, one, case):
    strategy, world = case
    name = str(place / f"{strategy}-{world}")
    found = ranks(world).run(tiny.fit, config(place, strategy, world), name)
    for key in ("losses", "pixels"):
        # Micro-batch j of a step is rank j % world's.
        dealt = [
            found[j % world][key][step * (4 // world) + j // world]
            for step in range(EPOCHS * STEPS)
            for j in range(4)
        ]
        if key == "losses":
            np.testing.assert_allclose(dealt, one[key], rtol=1e-5)
        else:
            assert dealt == one[key]


def test_a_run_that_was_stopped_within_an_epoch_ends_with_the_same_bits(place, one):
    folder = place / "stopped"
    left = tiny.fit(config(place), str(folder), leave_after_step=STEPS + 1)
    assert len(left["losses"]) == 4 * (STEPS + 1)
    after = tiny.fit(config(place), str(folder))
    for key in ("losses", "pixels", "indices"):
        assert left[key] + after[key] == one[key], key
    expected, found = state(place / "one"), state(folder)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_run_that_was_stopped_on_two_ranks_goes_on_in_one_process(place, ranks, one):
    folder = place / "moved"
    cfg = config(place, "ddp", 2)
    left = ranks(2).run(tiny.fit, cfg, str(folder), leave_after_step=STEPS + 1)
    after = tiny.fit(config(place), str(folder))
    done = sum(len(rank["losses"]) for rank in left)  # the ranks agree on a step to leave at
    assert 4 * STEPS < done < 4 * STEPS * EPOCHS
    assert after["pixels"] == one["pixels"][done:]
    np.testing.assert_allclose(after["losses"], one["losses"][done:], rtol=1e-5)


def test_training_counts_an_image_as_the_label_that_it_shows_most_of():
    model = DepthModel(num_classes=3)
    images = torch.randn(4, 3, 8, 8)
    batch = {"images": images, "labels": torch.tensor([0, 1, 2, 0]), "indices": torch.arange(4)}
    mixed = Mixed(torch.tensor([1, 0, 0, 2]), torch.tensor([0.4, 0.6, 0.9, 0.1]))
    model._step("train", batch, mixed)
    support = model.metrics("train").counts_K[:3]
    assert support.tolist() == [0, 2, 2]


def test_a_loss_that_needs_the_classes_shares_has_them_in_training_and_evaluation(place):
    model = {"loss": "logit_adjustment", "warmup_epochs": 0}
    cfg = config(place, model=model, epochs=1, mix=MixConfig(mixup=0.2), limit_batches=None)
    scalars = tiny.fit(cfg, str(place / "adjusted"))["scalars"]
    data = ClassificationDataModule(cfg.data, cfg.seed)
    labels = data.splits.train.labels
    shares = np.bincount(labels) / len(labels)
    held = state(place / "adjusted")["class_shares"]
    np.testing.assert_allclose(held.numpy(), shares, rtol=1e-6)
    result = run.evaluate(place / "adjusted", progress=False)
    assert result.scalars["test/loss"] == pytest.approx(scalars["test/loss"], abs=1e-6)


def test_an_odd_micro_batch_is_refused_where_the_job_finds_it(place):
    cfg = config(place, data={"batch_size": 33, "micro_batch_size": 11})
    with pytest.raises(ValueError, match="data.batch_size=33: 33 images a rank, an odd number"):
        run.fit(cfg, place / "odd", progress=False)
