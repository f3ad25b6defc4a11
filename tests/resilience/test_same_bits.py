"""A run that is killed and asked to leave, on several ranks, ends with the bits of one that never
was."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clf.config import CheckpointConfig, EmaConfig
from clf.models.base import BaseClassificationModel
from tests import tiny
from tests.chaos.equal import differing

WORLD = 4
STEPS = 8  # an epoch
EVALUATED = ("val/", "val_raw/", "test/")
LEAVES = [1, 4, 6, 9, 12]  # steps after which a run is asked to leave; it does one or two later
KILLED, EVERY = 5, 3  # the first start ends after step 5, and the next goes on from step 3


class Backwards(BaseClassificationModel):
    """Its layers are registered in another order than they run in, so that gradients arrive in
    another order than the parameters have, and they fill more than one of DDP's buckets."""

    def build_network(self) -> nn.Module:
        class Network(nn.Module):
            def __init__(self, classes: int) -> None:
                super().__init__()
                self.head = nn.Linear(32, classes)
                self.wide = nn.Linear(32 * 16, 600)
                self.narrow = nn.Linear(600, 32)
                self.norm = nn.BatchNorm2d(32)
                self.conv = nn.Conv2d(3, 32, 3, stride=4, padding=1, bias=False)

            def forward(self, images_BCHW: Tensor) -> Tensor:
                features = self.norm(self.conv(images_BCHW)).relu().flatten(1)
                return self.head(self.narrow(self.wide(features).relu()).relu())

        return Network(self.num_classes)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


CASES = {
    "ddp": (LEAVES, {"ema": EmaConfig(decay=0.9)}),
    "deepspeed_zero1": (LEAVES[2:3], {}),
    "deepspeed_zero2": (LEAVES[3:4], {}),
    "deepspeed_zero3": (LEAVES[2:3], {}),
}


@pytest.mark.parametrize("strategy", CASES)
def test_a_run_of_four_ranks_that_is_killed_and_leaves_ends_with_the_same_bits(
    strategy: str, ranks: Any, tmp_path: Path
) -> None:
    leaves, settings = CASES[strategy]
    images = {"image_size": 16, "eval_resize": 16, "threads": 1, "micro_batch_size": 4}
    model = {"_target_": "tests.resilience.test_same_bits.Backwards"}
    cfg = tiny.config(
        str(tmp_path / "digits"), strategy, WORLD, data=images, model=model,
        limit_batches=2 * STEPS, checkpoint=CheckpointConfig(every_steps=EVERY), **settings,
    )  # fmt: skip
    whole = ranks(WORLD).run(tiny.fit, cfg, str(tmp_path / "whole"))
    killed = ranks(WORLD).run(tiny.fit, cfg, str(tmp_path / "left"), stop_after_step=KILLED)
    assert all(len(found["losses"]) == 2 * KILLED for found in killed), "2 micro-batches a step"
    starts = [[found["losses"][: 2 * (KILLED // EVERY) * EVERY] for found in killed]]
    for step in [*(step for step in leaves if step > EVERY), None]:
        left = ranks(WORLD).run(tiny.fit, cfg, str(tmp_path / "left"), leave_after_step=step)
        starts.append([found["losses"] for found in left])
    assert all(losses for start in starts for losses in start), "each start has trained"
    assert [list(chain(*losses)) for losses in zip(*starts, strict=True)] == [
        found["losses"] for found in whole
    ]
    one, other = state(tmp_path / "whole"), state(tmp_path / "left")
    assert one["global_step"] == 2 * STEPS
    numbers = [
        {name: value for name, value in found[0]["scalars"].items() if name.startswith(EVALUATED)}
        for found in (whole, left)
    ]
    assert numbers[0].keys() == numbers[1].keys()
    entries = [
        name
        for name in ("state_dict", "optimizer_states", "lr_schedulers", "clf_ema")
        if name in one
    ]
    wrong = [n for name in entries for n in differing(one[name], other[name], name)]
    assert wrong + differing(*numbers, "scalars") == []
