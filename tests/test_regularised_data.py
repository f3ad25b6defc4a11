"""A run whose images are repeated in a step and grow from epoch to epoch, from end to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tests.ranks import Ranks

PER_IMAGE = {size: 3 * size * size for size in (16, 24, 32)}  # bytes


class FixedSize(tiny.TinyModel):
    """Its last layer knows the number of pixels, as a transformer its number of patches."""

    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, self.num_classes))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("regularised") / "digits")


def config(root: str, gpus: int = 1, **settings: Any) -> Any:
    """Three epochs of three steps, of 16, 24 and 32 pixels."""
    data = {"start_size": 16, "repeats": 2}
    limit = 12 // gpus
    return tiny.config(root, gpus=gpus, epochs=3, limit_batches=limit, data=data, **settings)


def test_a_run_that_left_in_mid_epoch_goes_on_with_the_same_images_and_losses(
    root: str, tmp_path: Path, ranks: Callable[[int], Ranks]
) -> None:
    whole = tiny.fit(config(root), str(tmp_path / "whole"))
    sizes = [len(pixels) // 8 for pixels in whole["pixels"]]
    assert sizes == [PER_IMAGE[size] for size in (16, 24, 32) for _ in range(12)]
    for start in range(0, 36, 4):
        step = [index for micro in whole["indices"][start : start + 4] for index in micro]
        assert len(set(step)) == 16, "of the 32 images of a step each stands there twice"

    first = tiny.fit(config(root), str(tmp_path / "run"), leave_after_step=4)
    then = tiny.fit(config(root), str(tmp_path / "run"))
    for seen in ("losses", "indices", "pixels"):
        assert first[seen] + then[seen] == whole[seen]
    assert then["scalars"] == whole["scalars"]

    both = ranks(2).run(tiny.fit, config(root, gpus=2), str(tmp_path / "two"))
    for seen in ("indices", "pixels"):
        pairs = zip(both[0][seen], both[1][seen], strict=True)
        assert [one for pair in pairs for one in pair] == whole[seen]


def test_a_network_for_one_size_alone_is_named_before_training(root: str, tmp_path: Path) -> None:
    cfg = config(root)
    cfg.model._target_ = "tests.test_regularised_data.FixedSize"
    with pytest.raises(ValueError, match=r"data.start_size=16: \S+FixedSize does not take images"):
        tiny.fit(cfg, str(tmp_path / "fixed"))
    cfg.data.start_size = None
    cfg.epochs = 1
    cfg.model.warmup_epochs = 0
    tiny.fit(cfg, str(tmp_path / "fixed"))
    assert torch.load(tmp_path / "fixed" / "checkpoints" / "last.ckpt", weights_only=True)
