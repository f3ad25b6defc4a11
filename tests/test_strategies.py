"""Any strategy on any number of ranks is the same training: real processes over gloo, started once
for each number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tests.ranks import Ranks

STEPS = 25  # an epoch, of two
ZERO = ("deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("strategies")


@pytest.fixture(scope="module")
def pools():
    """Number of ranks -> its processes, for as long as they are needed."""
    with Ranks(1) as one, Ranks(2) as two, Ranks(4) as four:
        yield {1: one, 2: two, 4: four}


def train(place: Path, pools: dict, strategy: str, world: int, resnet: bool, **more: Any) -> dict:
    """A run's global micro-batches in order, its last and best checkpoints and scalars."""
    name = f"{strategy}-{world}-{resnet}-{'-'.join(map(str, more.values()))}"
    accumulation = 4 // world
    cfg = tiny.config(
        str(place / "digits"), strategy, world, resnet, limit_batches=STEPS * accumulation, **more
    )
    ranks = pools[world].run(tiny.fit, cfg, str(place / name))
    found: dict[str, Any] = {"scalars": ranks[0]["scalars"], "folder": place / name}
    for key in ("losses", "indices", "pixels"):
        # Micro-batch j of a step is rank j % world's.
        found[key] = [
            ranks[j % world][key][step * accumulation + j // world]
            for step in range(2 * STEPS)
            for j in range(4)
        ]
    for which in ("last", "best"):
        file = place / name / "checkpoints" / f"{which}.ckpt"
        found[which] = torch.load(file, map_location="cpu", weights_only=True)
    return found


@pytest.fixture(scope="module")
def tiny_runs(place, pools) -> dict:
    cases = [("single", 1), ("ddp", 2), ("ddp", 4), *((name, 2) for name in ZERO)]
    return {case: train(place, pools, *case, resnet=False) for case in cases}


OTHERS = [("ddp", 2), ("ddp", 4), *((name, 2) for name in ZERO)]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_the_order_of_images_and_every_pixel_are_the_same(tiny_runs, case):
    one, other = tiny_runs["single", 1], tiny_runs[case]
    assert other["indices"] == one["indices"]
    assert other["pixels"] == one["pixels"]


@pytest.mark.parametrize("case", OTHERS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_losses_weights_statistics_and_evaluation_are_the_same(tiny_runs, case):
    one, other = tiny_runs["single", 1], tiny_runs[case]
    np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-3, atol=1e-4)
    for name, value in one["last"]["state_dict"].items():
        torch.testing.assert_close(
            other["last"]["state_dict"][name].contiguous(), value, rtol=1e-2, atol=1e-3, msg=name
        ) if value.is_floating_point() else None
    for name in ("val/loss", "test/loss"):
        assert other["scalars"][name] == pytest.approx(one["scalars"][name], rel=1e-3)
