"""From the config's devices and strategy to Lightning's, and what ranks must agree on."""

import os
from typing import Any

import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from clf.config import RunConfig, StrategyConfig


def world_size(cfg: RunConfig) -> int:
    """Ranks of the run: one a device."""
    return cfg.nodes * (cfg.gpus or 1)


def trainer_arguments(cfg: RunConfig) -> dict[str, Any]:
    """The `lightning.Trainer` arguments that say where and how precisely to compute.

    Raises:
        ValueError: more GPUs asked for than this machine has, or a precision that they lack
    """
    accelerator, gpus = resolve_accelerator(cfg.strategy), cfg.gpus or 1
    if accelerator == "gpu" and gpus > torch.cuda.device_count():
        raise ValueError(f"gpus={gpus}: this machine has {torch.cuda.device_count()}. Lower --gpus")
    if accelerator == "cpu":
        # Each rank computes with its share of the cores; torch would take them all in each.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // gpus))
    return {
        "accelerator": accelerator,
        "devices": gpus,
        "num_nodes": cfg.nodes,
        "strategy": _strategy(cfg, accelerator),
        "precision": _precision(cfg.strategy, accelerator),
        "sync_batchnorm": cfg.strategy.sync_batchnorm,
        "gradient_clip_val": cfg.strategy.gradient_clip,
        "deterministic": cfg.strategy.deterministic,
        "benchmark": not cfg.strategy.deterministic and accelerator == "gpu",
    }


def resolve_accelerator(cfg: StrategyConfig) -> str:
    """ "gpu" or "cpu"; ValueError if a GPU is asked for and there is none."""
    if cfg.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "strategy.accelerator=gpu: torch sees no GPU here (nvidia-smi shows whether the driver "
            "does). Use strategy.accelerator=auto to run on the CPU"
        )
    if cfg.accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return cfg.accelerator


def _strategy(cfg: RunConfig, accelerator: str) -> Any:
    if world_size(cfg) == 1 and cfg.strategy.name != "ddp":
        return "auto"
    return DDPStrategy(
        process_group_backend="nccl" if accelerator == "gpu" else "gloo",
        gradient_as_bucket_view=True,
        # DDP's default sends rank 0's BatchNorm statistics to all ranks in every step.
        # `AgreeOnBatchNorm` does it
        # when somebody looks at them, so that a step's only collective is the gradients'
        # all-reduce.
        broadcast_buffers=False,
    )


def _precision(cfg: StrategyConfig, accelerator: str) -> Any:
    if cfg.precision != "auto":
        return cfg.precision
    return "bf16-mixed" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32-true"


class AgreeOnBatchNorm(Callback):
    """Before an evaluation (and so before the epoch's checkpoints) every rank takes the mean of all
    ranks'
    BatchNorm statistics: all evaluate, and save, the same model."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            average_batchnorm(pl_module)


def average_batchnorm(module: nn.Module) -> None:
    """One all-reduce over the running mean and variance of every BatchNorm; nothing on a single
    rank."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    buffers = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
    if not buffers:
        return
    flat = torch.cat([b.flatten() for b in buffers])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for buffer, mean in zip(buffers, flat.split([b.numel() for b in buffers]), strict=True):
        buffer.copy_(mean.view_as(buffer))
