"""Mixup and cutmix against a plain loop over images, torchvision, and their own promises."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from clf.batch import ClassificationBatch
from clf.config import MixConfig
from clf.models.mix import Mix, mix_images

B, H, W = 64, 12, 20
RNG = torch.Generator().manual_seed(0)
IMAGES = torch.randn(B, 3, H, W, generator=RNG).contiguous(memory_format=torch.channels_last)
LABELS = torch.randint(10, (B,), generator=RNG)
BOTH = {"mixup": 0.4, "cutmix": 1.0, "probability": 0.8}


def batch(images: Tensor = IMAGES, labels: Tensor = LABELS) -> ClassificationBatch:
    return ClassificationBatch(images=images, labels=labels, indices=torch.arange(len(labels)))


def mix(seed: int = 0, batch_size: int = B, epochs: int = 3, **settings) -> Mix:
    return Mix(MixConfig(**settings), seed, epochs, batch_size)


@pytest.mark.parametrize(
    "settings", [{"mixup": 0.2}, {"cutmix": 1.0}, BOTH], ids=["mixup", "cutmix", "both"]
)
def test_images_and_shares_are_those_of_a_plain_loop_over_the_images(settings):
    mixer = mix(**settings)
    found, mixed = mixer(batch(), epoch=1, number=2)
    kinds = set()
    images = IMAGES.numpy()
    for i, numbers in enumerate(mixer.draw(1, 2, (H, W))):
        weight, (top, bottom, left, right) = numbers[0], numbers[1:5].astype(int)
        for own, other in ((2 * i, 2 * i + 1), (2 * i + 1, 2 * i)):
            expected, of_own = images[own].copy(), 0.0
            for y in range(H):
                for x in range(W):
                    if top <= y < bottom and left <= x < right:
                        expected[:, y, x] = (1 - weight) * images[own, :, y, x]
                        expected[:, y, x] += weight * images[other, :, y, x]
                        of_own += 1 - weight
                    else:
                        of_own += 1
            np.testing.assert_allclose(found["images"][own].numpy(), expected, atol=1e-6)
            assert mixed.shares_B[own].item() == pytest.approx(of_own / (H * W), abs=1e-6)
            assert mixed.labels_B[own] == LABELS[other]
            kinds.add("plain" if weight == 0 else "cutmix" if weight == 1 else "mixup")
    on = {key for key in ("mixup", "cutmix") if settings.get(key)}
    assert kinds == on | ({"plain"} if settings.get("probability", 1) < 1 else set())
    assert torch.equal(found["labels"], LABELS)


def test_a_pair_is_mixed_as_torchvision_mixes_a_batch_of_two():
    for settings, transform in (
        ({"mixup": 1.0}, v2.MixUp(num_classes=10)),
        ({"cutmix": 1.0}, v2.CutMix(num_classes=10)),
    ):
        mixer = mix(**settings)
        found, mixed = mixer(batch(), epoch=0, number=0)
        for i, numbers in enumerate(mixer.draw(0, 0, (H, W))):
            top, bottom, left, right = (int(number) for number in numbers[1:5])
            pair, labels = slice(2 * i, 2 * i + 2), LABELS[2 * i : 2 * i + 2]
            params = {"labels": labels, "batch_size": 2, "lam": 1 - numbers[0]}
            params |= {"box": (left, top, right, bottom), "lam_adjusted": numbers[5]}
            expected = transform.transform(IMAGES[pair].contiguous(), params)
            torch.testing.assert_close(found["images"][pair], expected)
            own, other = (torch.nn.functional.one_hot(of[pair], 10) for of in (LABELS, mixed[0]))
            share = mixed.shares_B[pair, None]
            targets = share * own + (1 - share) * other
            torch.testing.assert_close(targets, transform.transform(labels, params))


def test_boxes_have_the_sizes_and_places_of_the_paper():
    """Half-sides of sqrt(1 - lambda) / 2 around a centre anywhere, clipped; shares are exact."""
    drawn = mix(batch_size=20000, cutmix=1.0).draw(0, 0, (224, 224))
    _, top, bottom, left, right, share = drawn.T
    assert (top >= 0).all()
    assert (bottom <= 224).all()
    np.testing.assert_array_equal(share, 1 - (bottom - top) * (right - left) / 224**2)
    sides = (bottom - top)[(top > 0) & (bottom < 224) & (left > 0) & (right < 224)]
    assert (sides % 2 == 0).all()
    # An independent draw by the paper's formulas.
    rng = np.random.default_rng(1)
    half = (np.sqrt(1 - rng.beta(1, 1, 10000)) * 112).astype(int)
    x, y = rng.integers(224, size=(2, 10000))
    expected = np.prod([np.clip(c + half, 0, 224) - np.clip(c - half, 0, 224) for c in (x, y)], 0)
    assert (1 - share).mean() == pytest.approx(expected.mean() / 224**2, abs=0.01)
    assert (left > 0).mean() == pytest.approx((x - half > 0).mean(), abs=0.02)


def test_shares_follow_the_beta_distribution_and_pairs_the_probabilities():
    drawn = mix(batch_size=20000, **BOTH, switch_probability=0.25).draw(0, 0, (224, 224))
    weight = drawn[:, 0]
    assert (weight == 0).mean() == pytest.approx(0.2, abs=0.02)
    assert (weight == 1).mean() == pytest.approx(0.8 * 0.25, abs=0.02)
    of_mixup = weight[(weight > 0) & (weight < 1)]
    expected = np.random.default_rng(1).beta(0.4, 0.4, 20000)
    for q in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(of_mixup, q) == pytest.approx(np.quantile(expected, q), abs=0.03)


@pytest.mark.parametrize("micro", [2, 4, 16, 64])
def test_a_step_is_mixed_the_same_in_any_even_micro_batches(micro):
    mixer = mix(**BOTH)
    whole, mixed = mixer(batch(), epoch=1, number=3)
    for j in range(B // micro):
        rows = slice(j * micro, (j + 1) * micro)
        part = batch(IMAGES[rows], LABELS[rows])
        found, of_part = mixer(part, epoch=1, number=3 * (B // micro) + j)
        torch.testing.assert_close(found["images"], whole["images"][rows], rtol=0, atol=1e-6)
        assert torch.equal(of_part.shares_B, mixed.shares_B[rows])
        assert torch.equal(of_part.labels_B, mixed.labels_B[rows])


def test_every_epoch_step_and_seed_is_mixed_in_another_way():
    draws = [
        mix(seed=seed, **BOTH).draw(epoch, step, (H, W))
        for seed, epoch, step in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    for i, one in enumerate(draws):
        assert not any(np.array_equal(one, other) for other in draws[:i])
    np.testing.assert_array_equal(draws[0], mix(**BOTH).draw(0, 0, (H, W)))


def test_no_global_generator_is_used():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    mix(**BOTH)(batch(), 0, 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_last_epochs_are_not_mixed():
    mixer = mix(**BOTH, off_epochs=2, epochs=5)
    assert [mixer(batch(), epoch, 0)[1] is not None for epoch in range(5)] == [True] * 3 + [
        False
    ] * 2
    assert mixer(batch(), 3, 0)[0]["images"] is IMAGES


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mixed_images_keep_their_type_and_memory_format(dtype):
    images = IMAGES.to(dtype)
    found, _ = mix(**BOTH)(batch(images), 0, 0)
    assert found["images"].dtype == dtype
    assert found["images"].is_contiguous(memory_format=torch.channels_last)
    contiguous = mix_images(images.contiguous(), torch.rand(B // 2, 6))
    assert contiguous.is_contiguous()
