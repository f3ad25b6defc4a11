"""Mixup (Zhang et al. 2017, arXiv 1710.09412) and cutmix (Yun et al. 2019, arXiv 1905.04899) of
normalised images, on the device.

Images 2i and 2i + 1 of an optimizer step are partners, counted over all ranks. What is drawn for
them is a function of (seed, epoch, step), so a pair is mixed in the same way on any number of
ranks, in micro-batches of any even size, and after any resume. It is drawn on the host, and nothing
waits for the device.

B images of a micro-batch, P pairs, H x W pixels.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clf.batch import PADDING, ClassificationBatch
from clf.config import MixConfig, RunConfig
from clf.config.batch_rules import batch_fault
from clf.models.losses import Mixed

MIX = 4  # keeps this generator apart from the sampler's and the loader's


@dataclass(frozen=True)
class Mix:
    """Mixes the images of training micro-batches, as `cfg` says."""

    cfg: MixConfig
    seed: int
    epochs: int  # of the run, the last `cfg.off_epochs` of which are not mixed
    batch_size: int  # images of an optimizer step, over all ranks

    def __call__(
        self, batch: ClassificationBatch, epoch: int, number: int
    ) -> tuple[ClassificationBatch, Mixed | None]:
        """The batch with mixed images and its own labels, and what was mixed in; None in an epoch
        without mixing.

        Args:
            batch: a micro-batch whose images are normalised
            epoch: from 0
            number: the micro-batch's place among those of the epoch over all ranks, from 0
        """
        if epoch >= self.epochs - self.cfg.off_epochs:
            return batch, None
        images_BCHW = batch["images"]
        B, _, H, W = images_BCHW.shape
        step, offset = divmod(number * B, self.batch_size)
        drawn_P6 = self.draw(epoch, step, (H, W))[offset // 2 : (offset + B) // 2]
        numbers_P6 = torch.from_numpy(drawn_P6.astype(np.float32))
        if images_BCHW.is_cuda:
            numbers_P6 = numbers_P6.pin_memory().to(images_BCHW.device, non_blocking=True)
        # An image whose partner could not be read stays as it is.
        alone_P = (batch["labels"].unflatten(0, (-1, 2)) == PADDING).any(dim=1)
        numbers_P6[:, 0].masked_fill_(alone_P, 0.0)
        numbers_P6[:, 5].masked_fill_(alone_P, 1.0)
        shares_B = numbers_P6[:, 5:].expand(-1, 2).flatten()
        mixed = Mixed(swap(batch["labels"]), shares_B)
        return {**batch, "images": mix_images(images_BCHW, numbers_P6)}, mixed

    def draw(self, epoch: int, step: int, size: tuple[int, int]) -> np.ndarray:
        """What happens to each pair of an optimizer step, [P, 6]: the weight of the partner in a
        box, the box's top, bottom, left and right, and the share of the image's own that follows.

        Mixup's box is the whole image, cutmix's weight is 1. A pair that is not mixed has weight 0.
        """
        cfg, pairs = self.cfg, self.batch_size // 2
        rng = np.random.default_rng([MIX, self.seed, epoch, step])
        is_mixed_P, is_cut_P = rng.random((2, pairs)) < [
            [cfg.probability],
            [cfg.switch_probability if cfg.mixup and cfg.cutmix else float(cfg.cutmix > 0)],
        ]
        alpha_P = np.where(is_cut_P, cfg.cutmix, cfg.mixup)
        lambda_P = rng.beta(alpha_P, alpha_P)
        size_2 = np.array(size)[:, None]
        centre_2P = (rng.random((2, pairs)) * size_2).astype(int)
        half_2P = (0.5 * np.sqrt(1 - lambda_P) * size_2).astype(int)
        low_2P = np.where(is_cut_P, np.clip(centre_2P - half_2P, 0, None), 0)
        high_2P = np.where(is_cut_P, np.clip(centre_2P + half_2P, None, size_2), size_2)
        weight_P = np.where(is_cut_P, 1.0, 1 - lambda_P) * is_mixed_P
        share_P = 1 - weight_P * (high_2P - low_2P).prod(axis=0) / size_2.prod()
        (top_P, left_P), (bottom_P, right_P) = low_2P, high_2P
        return np.stack([weight_P, top_P, bottom_P, left_P, right_P, share_P], axis=1)


def mixer(cfg: RunConfig, ranks: int) -> Mix | None:
    """What mixes the training images of a run; None: they are not mixed.

    Raises:
        ValueError: the micro-batches cannot be cut into pairs
    """
    if not (cfg.mix.mixup or cfg.mix.cutmix):
        return None
    if fault := batch_fault(cfg.data, ranks, mixes=True):
        raise ValueError(fault)
    return Mix(cfg.mix, cfg.seed, cfg.epochs, cfg.data.batch_size)


def mix_images(images_BCHW: Tensor, numbers_P6: Tensor) -> Tensor:
    """Each image with its partner mixed in, as `Mix.draw` says; in the same memory format."""
    H, W = images_BCHW.shape[-2:]
    weight_P1, top_P1, bottom_P1, left_P1, right_P1, _ = numbers_P6[:, :, None].unbind(dim=1)
    y_H, x_W = (torch.arange(length, device=images_BCHW.device) for length in (H, W))
    inside_PH1 = ((y_H >= top_P1) & (y_H < bottom_P1))[:, :, None]
    inside_P1W = ((x_W >= left_P1) & (x_W < right_P1))[:, None, :]
    weight_PHW = (inside_PH1 & inside_P1W) * weight_P1[:, :, None].to(images_BCHW)
    pairs_P2CHW = images_BCHW.unflatten(0, (-1, 2))
    mixed_P2CHW = torch.lerp(pairs_P2CHW, pairs_P2CHW.flip(1), weight_PHW[:, None, None])
    return mixed_P2CHW.flatten(0, 1)


def swap(rows_B: Tensor) -> Tensor:
    """Each row's partner's."""
    return rows_B.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
