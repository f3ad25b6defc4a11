"""Images that live on the device (data.cache=device), on a CPU that stands for it: the pictures of
the CPU's own transform to within a grey level, in the same order, with the same draws."""

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from clf.data.on_device import crop_and_resize_batch
from clf.data.picture import Decoded
from clf.data.transforms import crop_and_resize, draw_crop
from tests.data.conftest import noise


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
