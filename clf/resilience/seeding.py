"""The random numbers that a network draws while it trains (dropout, stochastic depth) are a
function of (seed, epoch, micro-batch): the same on any number of ranks, and after any resume."""

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class SeedEachMicroBatch(Callback):
    """Seeds the generators of the CPU and of this rank's GPU before each training micro-batch.

    Micro-batch m of an epoch, counted over all ranks, draws the same numbers whichever rank has it.
    A GPU draws other numbers than a CPU. Nothing waits for the device.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # The sampler deals the micro-batches out to the ranks in turn.
        number = batch_idx * trainer.world_size + trainer.global_rank
        sequence = np.random.SeedSequence([self.seed, trainer.current_epoch, number])
        seed = int(sequence.generate_state(1, np.uint64)[0])
        # Not `torch.manual_seed`, which keeps a stack trace of every call until CUDA is in use.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)
