"""The printed number of images for BatchNorm is the number that it sees in training."""

from pathlib import Path

import pytest

from clf.config import DataConfig, RunConfig, StrategyConfig
from clf.plan import images_per_batchnorm, images_per_forward_pass
from tests import tiny


@pytest.mark.parametrize("micro_batch_size", [None, 4])
def test_a_run_gives_each_forward_pass_as_many_images_as_were_announced(
    tmp_path: Path, micro_batch_size: int | None
) -> None:
    cfg = tiny.config(
        str(tmp_path / "digits"), limit_batches=8, data={"micro_batch_size": micro_batch_size}
    )
    seen = tiny.fit(cfg, str(tmp_path / "run"))
    announced = images_per_forward_pass(cfg)
    assert announced == (micro_batch_size or 32)
    assert {len(images) for images in seen["indices"]} == {announced}


@pytest.mark.parametrize(
    ("nodes", "gpus", "micro_batch_size", "synchronised", "expected"),
    [
        (1, 1, None, False, 256),
        (2, 4, None, False, 32),  # fewer on more devices
        (2, 4, 16, False, 16),
        (1, 1, 16, False, 16),  # held when the devices change
        (2, 4, None, True, 256),
        (2, 4, 16, True, 128),
        (2, None, None, False, None),  # the devices are not known yet
        (2, None, 16, False, 16),
        (2, None, 16, True, None),
        (2, 4, "auto", False, None),
    ],
)
def test_what_batchnorm_normalises_over_follows_from_devices_and_micro_batch(
    nodes: int, gpus: int | None, micro_batch_size: object, synchronised: bool, expected: int | None
) -> None:
    cfg = RunConfig(
        nodes=nodes,
        gpus=gpus,
        data=DataConfig(batch_size=256, micro_batch_size=micro_batch_size),
        strategy=StrategyConfig(sync_batchnorm=synchronised),
    )
    assert images_per_batchnorm(cfg) == expected
