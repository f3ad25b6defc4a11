"""Images that live on the device (data.cache=device), on a CPU that stands for it: the pictures of
the CPU's own transform to within a grey level, in the same order, with the same draws."""

import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as F

from clf.batch import PADDING
from clf.config import AugmentConfig
from clf.data import datamodule
from clf.data.datamodule import ClassificationDataModule
from clf.data.on_device import OnDevice, crop_and_resize_batch, store_on
from clf.data.picture import Decoded
from clf.data.reader import DataError
from clf.data.transforms import crop_and_resize, draw_crop
from tests.data.conftest import noise

CPU = torch.device("cpu")


def test_a_batch_is_cropped_resized_and_flipped_as_one_by_one_to_within_a_grey_level(monkeypatch):
    monkeypatch.setattr("clf.data.on_device.MOST", 200_000)  # a batch in several parts
    rng = np.random.default_rng(0)
    sides = rng.integers(8, 300, (24, 2))
    images = [np.asarray(noise(rng, int(h), int(w))) for h, w in sides]
    images[0] = rng.integers(0, 256, (200, 150, 3), dtype=np.uint8)  # no two pixels alike
    pixels_P3 = torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images]))
    starts = np.cumsum([0, *(image.shape[0] * image.shape[1] for image in images)])
    for size in (16, 64, 100):
        rows, expected = [], []
        for place, image in enumerate(images):
            box = draw_crop(*image.shape[:2], [0.08, 1.0], [0.75, 1.33], rng)
            rows.append([starts[place], image.shape[1], *box, place % 2])
            alone = crop_and_resize(Decoded(image), box, size)
            expected.append(F.horizontal_flip_image(alone) if place % 2 else alone)
        rows.append([0] * 7)  # padding
        expected.append(torch.zeros(3, size, size, dtype=torch.uint8))
        batch = crop_and_resize_batch(pixels_P3, torch.tensor(rows), size)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        off = (batch.int() - torch.stack(expected).int()).abs()
        assert int(off.max()) <= 1
        assert float((off > 0).float().mean()) < 0.01


@pytest.fixture
def batches(config, tmp_path, monkeypatch):
    """The batches of an epoch of training on some images, from a device or the node's memory."""

    def run(root: Any, cache: str, epoch: int = 0, **changes: Any) -> list[Any]:
        asked = {"threads": 2, "augment": AugmentConfig(crop_scale=[0.2, 1.0]), **changes}
        cfg = config(root, cache=cache, cache_dir=str(tmp_path), **asked)
        data = ClassificationDataModule(cfg, seed=3)
        place = {"global_rank": 0, "world_size": 1, "num_devices": 1, "max_epochs": 4}
        data.trainer: Any = SimpleNamespace(**place, strategy=SimpleNamespace(root_device=CPU))
        data.setup("fit")
        loader = data.train_dataloader()
        assert (loader.store is not None) == (cache == "device")
        loader.sampler.set_epoch(epoch)
        found = list(loader)
        assert loader.state_dict() == {"epoch": epoch, "batches": len(found)}
        list(data.val_dataloader())
        data.teardown("fit")
        assert loader.store is None or not loader.store.pixels_P3.numel()
        data.teardown("test")
        return found

    monkeypatch.setattr(
        datamodule,
        "store_on",
        lambda device, cache, cfg: OnDevice(cache, device) if cfg.cache == "device" else None,
    )
    return run


@pytest.mark.parametrize("changes", [{}, {"start_size": 8}, {"threads": 0}])
def test_a_run_sees_the_same_pictures_in_the_same_order(folder, batches, changes):
    for epoch in (0, 1):
        there = batches(folder, "device", epoch, **changes)
        here = batches(folder, "ram", epoch, **changes)
        assert len(there) == len(here) == 7
        for one, other in zip(there, here, strict=True):
            assert one["images"].dtype == torch.uint8
            assert one["images"].shape == other["images"].shape
            assert int((one["images"].int() - other["images"].int()).abs().max()) <= 1
            assert all(torch.equal(one[key], other[key]) for key in ("labels", "indices"))


def test_an_image_that_cannot_be_read_is_left_out_there_too(folder, batches, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(folder, root)
    broken = next((root / "train").rglob("*.jpg"))
    broken.write_bytes(b"no image")
    there, here = (
        batches(root, cache, on_bad_image="skip", max_bad_fraction=0.5)
        for cache in ("device", "ram")
    )
    assert sum(int((batch["labels"] == PADDING).sum()) for batch in there) == 1
    for one, other in zip(there, here, strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert int((one["images"].int() - other["images"].int()).abs().max()) <= 1


def test_without_a_gpu_the_nodes_memory_serves_and_on_a_small_one_it_says_how_much_is_needed(
    config, monkeypatch
):
    cache: Any = SimpleNamespace(pixels=np.zeros(6_000_000, np.uint8), rows_N5=np.zeros((1, 5)))
    for device in (None, CPU):
        assert store_on(device, cache, config(None, cache="device")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10_000_000, 80_000_000))
    with pytest.raises(DataError, match=r"take 6\.0 MB, .* at most 5\.0 MB \(50% of"):
        store_on(torch.device("cuda", 0), cache, config(None, cache="device"))
    with pytest.raises(DataError, match=r"at most 1\.0 MB \(data\.cache_gb\); set data\.cache=ram"):
        store_on(torch.device("cuda", 0), cache, config(None, cache="device", cache_gb=0.001))
