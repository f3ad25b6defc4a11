"""The devices, strategy and precision of a config as arguments of Lightning's Trainer."""

import os
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from clf.config import RunConfig, StrategyConfig
from clf.config.device_rules import NO_SYNC_BATCHNORM, gpu_fault
from clf.config.node_range import is_elastic, most_nodes
from clf.cores import cores_per_rank
from clf.parallel.left_out import first_few
from clf.parallel.lightning_internals import settle_buckets

DDP_SETTINGS: dict[str, Any] = {
    "gradient_as_bucket_view": True,
    # By default DDP sends rank 0's BatchNorm statistics to all ranks in every step.
    # `AgreeOnBatchNorm` averages them only before they are used, so that the only collective of a
    # step is the all-reduce of the gradients.
    "broadcast_buffers": False,
}
UNUSED = (
    "strategy.find_unused_parameters=false: a step left {} without a gradient, and DDP waits for "
    "each of them; set strategy.find_unused_parameters=true, or freeze what is never used "
    "(requires_grad_(False))"
)


class Ddp(DDPStrategy):
    """Lightning's DDP, which names the parameters that a step left out and the setting for it.

    Torch notices them in the next step: a run's last one would pass with gradients that the ranks
    have not added up.
    """

    def configure_ddp(self) -> None:
        super().configure_ddp()
        if isinstance(self.model, DistributedDataParallel):
            settle_buckets(self.model)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        result = super().optimizer_step(*args, **kwargs)
        ddp, module = self.model, self.lightning_module
        if isinstance(ddp, DistributedDataParallel) and not ddp.find_unused_parameters:
            assert module is not None
            if missing := [
                name for name, p in module.named_parameters() if p.requires_grad and p.grad is None
            ]:
                raise ValueError(UNUSED.format(first_few(missing)))
        return result

    def on_exception(self, exception: BaseException) -> None:
        if "Expected to have finished reduction in the prior iteration" in str(exception):
            exception.args = (UNUSED.format("parameters"),)  # of one of its micro-batches
        super().on_exception(exception)


def world_size(cfg: RunConfig) -> int:
    """The number of ranks of the run: one for each device of each node."""
    return most_nodes(cfg) * (cfg.gpus or 1)


def on_nodes_here(cfg: RunConfig) -> RunConfig:
    """The config with the number of nodes that this start has, where `nodes` is a range: that of
    the ranks which the launcher has started, as WORLD_SIZE says; without one, this node alone."""
    if not is_elastic(cfg):
        return cfg
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    return replace(cfg, nodes=max(1, ranks // (cfg.gpus or 1)))


def trainer_arguments(cfg: RunConfig) -> dict[str, Any]:
    """The `lightning.Trainer` arguments that say where, and in which precision, to compute.

    Raises:
        ValueError: the config asks for more GPUs than this machine has, or for what its devices
            cannot do
    """
    accelerator, gpus = resolve_accelerator(cfg.strategy), cfg.gpus or 1
    if accelerator == "gpu" and (
        fault := gpu_fault(cfg.strategy.accelerator, gpus, torch.cuda.device_count())
    ):
        raise ValueError(fault)
    if accelerator == "cpu":
        if cfg.strategy.sync_batchnorm and world_size(cfg) > 1:
            raise ValueError(NO_SYNC_BATCHNORM)
        # Each rank computes with its share of the cores. Torch would use all of them in each rank.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(cores_per_rank(gpus))
    return {
        "accelerator": accelerator,
        "devices": gpus,
        "num_nodes": cfg.nodes,
        "sync_batchnorm": cfg.strategy.sync_batchnorm,
        "gradient_clip_val": cfg.strategy.gradient_clip,
        "deterministic": _deterministic(cfg.strategy.deterministic),
        "benchmark": not cfg.strategy.deterministic and accelerator == "gpu",
        **_strategy(cfg, accelerator),
    }


def resolve_accelerator(cfg: StrategyConfig) -> str:
    """Either "gpu" or "cpu".

    Raises:
        ValueError: the config asks for a GPU and there is none
    """
    if cfg.accelerator == "gpu" and not torch.cuda.is_available():
        raise ValueError(
            "strategy.accelerator=gpu: torch sees no GPU here (nvidia-smi shows whether the driver "
            "does). Use strategy.accelerator=auto to run on the CPU"
        )
    if cfg.accelerator == "auto":
        return "gpu" if torch.cuda.is_available() else "cpu"
    return cfg.accelerator


def _strategy(cfg: RunConfig, accelerator: str) -> dict[str, Any]:
    precision = _precision(cfg.strategy, accelerator)
    if cfg.strategy.name.startswith("deepspeed"):
        from clf.parallel.zero import ZeroStrategy  # deepspeed takes seconds to import

        # The Trainer takes the precision from this strategy, which has its own plugin for it.
        return {"strategy": ZeroStrategy(cfg.strategy, accelerator, precision)}
    if world_size(cfg) == 1 and cfg.strategy.name != "ddp":
        return {"strategy": "auto", "precision": precision}
    ddp = Ddp(
        process_group_backend="nccl" if accelerator == "gpu" else "gloo",
        find_unused_parameters=cfg.strategy.find_unused_parameters,
        **DDP_SETTINGS,
    )
    return {"strategy": ddp, "precision": precision}


def wrap_again(strategy: Strategy) -> None:
    """Let DDP send the gradients of those parameters that require one now. Each rank's weights and
    buffers stay its own."""
    ddp = strategy.model
    if isinstance(ddp, DistributedDataParallel):
        assert isinstance(strategy, DDPStrategy)
        unused, strategy.model = ddp.find_unused_parameters, ddp.module
        del ddp  # with its hooks on the parameters, and its memory for gradients
        strategy.model = DistributedDataParallel(
            strategy.model,
            device_ids=strategy.determine_ddp_device_ids(),
            init_sync=False,
            find_unused_parameters=unused,
            **DDP_SETTINGS,
        )
        settle_buckets(strategy.model)


def _precision(cfg: StrategyConfig, accelerator: str) -> Any:
    if cfg.precision != "auto":
        return cfg.precision
    return "bf16-mixed" if accelerator == "gpu" and torch.cuda.is_bf16_supported() else "32-true"


def _deterministic(asked: bool) -> bool | None:
    """For Lightning; None where nothing has to be set: to set it, torch imports its compiler."""
    return True if asked else (False if torch.are_deterministic_algorithms_enabled() else None)
