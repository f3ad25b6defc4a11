"""DeepSpeed's ZeRO 1, 2 and 3 with the mathematics and the checkpoints of every other strategy.

It differs from Lightning's own `DeepSpeedStrategy` in three ways:

- The weights stay float32 and the forward pass runs under `torch.autocast`, as under DDP. Lightning
  converts the module, BatchNorm's statistics included, to bfloat16.
- A checkpoint is the same single file that the other strategies write. The optimizer's state is
  gathered from the shards, so any strategy and any number of ranks can read it. Lightning
  overwrites a folder of shards in place.
- `sync_batchnorm` is applied, an evaluation runs without an engine, and ranks may be CPU processes.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from clf.config import StrategyConfig
from clf.parallel import deepspeed_internals as internals
from clf.parallel.left_out import LeftOut
from clf.parallel.lightning_internals import init_deepspeed_ranks, with_synchronised_batchnorm
from clf.parallel.sharded_optimizer import ShardedOptimizer

LEFT_OUT = "clf_left_out"  # our entry in a checkpoint: `LeftOut.state_dict`
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO of the stage in `cfg.name`: Lightning runs the loops, and DeepSpeed runs the step.

    Args:
        cfg: gives the stage and what is offloaded
        accelerator: "gpu", or "cpu" for ranks over gloo
        precision: "32-true", "bf16-mixed" or "16-mixed"
    """

    def __init__(self, cfg: StrategyConfig, accelerator: str, precision: str) -> None:
        if accelerator == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"  # read when deepspeed is imported
        super().__init__(
            config=engine_config(cfg, accelerator, precision),
            process_group_backend="nccl" if accelerator == "gpu" else "gloo",
            precision_plugin=ZeroPrecision(precision, "cuda" if accelerator == "gpu" else "cpu"),
        )
        internals.check_deepspeed()
        if accelerator == "cpu":
            internals.talk_through_gloo()
        self._find_unused = cfg.find_unused_parameters
        self._sharded: ShardedOptimizer | None = None
        self._left_out: LeftOut | None = None

    # --- set-up: the same as Lightning's, without its demand for a GPU ---

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        init_deepspeed_ranks(self)

    def setup(self, trainer: Trainer) -> None:
        if self.model is not None:
            # Before the engine takes the weights
            self.model = with_synchronised_batchnorm(self, self.model)
        if trainer.training and self.model is not None:
            # DeepSpeed flattens the weights into shards and cannot broadcast channels_last weights.
            # The convolutions still run in channels_last, because the images are.
            self.model.to(memory_format=torch.contiguous_format)
            if sentence := advice(self.model):
                rank_zero_warn(sentence)
        super().setup(trainer)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> Any:
        import deepspeed

        assert optimizer is not None
        if scalars := [name for name, p in model.named_parameters() if not p.ndim]:
            raise ValueError(
                f"strategy.name: DeepSpeed takes no parameter without dimensions, such as "
                f"{scalars[0]}; give it one, as nn.Parameter(torch.ones(1)), or set strategy=ddp"
            )
        self._sharded = ShardedOptimizer(optimizer)
        names = {id(p): name for name, p in model.named_parameters()}
        engine, zero_optimizer, _, _ = deepspeed.initialize(
            args=SimpleNamespace(device_rank=self.local_rank),  # a CPU device has no index
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=self._sharded,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        stage_3 = self.zero_stage_3
        internals.check_optimizer(zero_optimizer, stage_3)
        internals.keep_bad_norms(zero_optimizer)
        self._sharded.divide(internals.fragments(zero_optimizer, stage_3))
        self._left_out = LeftOut(
            zero_optimizer, self._sharded, stage_3, names, self.root_device, self._find_unused
        )
        return engine, zero_optimizer

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Use the plain module on each rank: an evaluation shards nothing."""
        self.model = model
        self.model_to_device()

    def teardown(self) -> None:
        super().teardown()
        self.optimizers = []  # they would keep the sharded weights and states in memory
        self._sharded = self._left_out = None

    @property
    def gradient_norm(self) -> Any:
        """L2 norm of the whole gradient in the last step, before it was clipped, a tensor or a
        number. DeepSpeed computes it in each step, over all ranks."""
        return internals.gradient_norm(self.optimizers[0])

    # --- checkpoints: one whole file ---

    # Lightning loads the weights into the plain module, and the engine then shards them.
    restore_checkpoint_after_setup = False  # type: ignore[assignment]
    lightning_restore_optimizer = True  # type: ignore[assignment]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole float32 tensors. All ranks must call it; the result on rank 0 is saved."""
        import deepspeed

        assert self.lightning_module is not None
        if not self.zero_stage_3:
            return self.lightning_module.state_dict()
        state = dict(self.lightning_module.named_buffers())
        kept = self.lightning_module.state_dict().keys()
        whole: dict[int, Tensor] = {}  # tied weights have several names
        for name, parameter in self.lightning_module.named_parameters(remove_duplicate=False):
            if id(parameter) not in whole:
                with deepspeed.zero.GatheredParameters([parameter]):
                    whole[id(parameter)] = parameter.detach().to("cpu", copy=True)
            state[name] = whole[id(parameter)]
        return {name: state[name] for name in kept}

    @property
    def whole_optimizers(self) -> list[Optimizer]:
        """Those of the model, with all of their groups."""
        return [self._sharded.whole] if self._sharded else []

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The unsharded torch optimizer's `state_dict`. All ranks must call it."""
        assert self._sharded is not None
        return self._sharded.whole_state(self.root_device)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the whole optimizer state of a checkpoint, which any strategy may have saved."""
        assert self._sharded is not None
        (saved,) = checkpoint["optimizer_states"]
        self._sharded.load_whole_state(saved)
        if self._left_out is not None and LEFT_OUT in checkpoint:
            self._left_out.load_state_dict(checkpoint[LEFT_OUT])

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        if self._left_out is not None:
            checkpoint[LEFT_OUT] = self._left_out.state_dict()
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        DDPStrategy.load_model_state_dict(self, checkpoint, strict)

    # --- the memory of the weights (clf.parallel.weights) ---

    def own_parts(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """This rank's memory of the parameters: whole ones, or under ZeRO-3 its shards."""
        return internals.own_parts(parameters) if self.zero_stage_3 else list(parameters)

    def parts_changed(self) -> None:
        """Tell DeepSpeed that `own_parts` have other contents now."""
        if self.zero_stage_3:
            internals.forget_whole_parameters(self.optimizers[0])

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load whole tensors while the engine is there. All ranks must call it."""
        import deepspeed

        assert self.lightning_module is not None
        if not self.zero_stage_3:
            self.lightning_module.load_state_dict(state)
            return
        for name, parameter in self.lightning_module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.copy_(state[name])
        kept = self.lightning_module.state_dict().keys()
        for name, buffer in self.lightning_module.named_buffers():
            if name in kept:
                buffer.copy_(state[name])


class ZeroPrecision(DeepSpeedPrecision):
    """Keeps float32 weights. Mixed precision is autocast alone, in training and in evaluation."""

    def __init__(self, precision: Any, device_type: str) -> None:
        super().__init__(precision)
        self.device_type = device_type

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **more: Any) -> None:
        # Lightning has already divided the loss by the number of accumulated micro-batches. If
        # DeepSpeed divided it again, the gradients and their clipped norm would be too small.
        model.trainer.model.backward(tensor, *args, scale_wrt_gas=False, **more)

    def forward_context(self) -> AbstractContextManager[Any]:
        if self.precision not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=AUTOCAST[self.precision])


def engine_config(cfg: StrategyConfig, accelerator: str, precision: str) -> dict[str, Any]:
    """DeepSpeed's own configuration, to which Lightning adds accumulation and gradient clipping."""
    zero: dict[str, Any] = {
        "stage": int(cfg.name[-1]),
        "contiguous_gradients": True,
        "overlap_comm": accelerator == "gpu",
    }
    for what, asked in (
        ("offload_optimizer", cfg.offload_optimizer),
        ("offload_param", cfg.offload_parameters),
    ):
        if asked:
            zero[what] = {"device": "cpu", "pin_memory": accelerator == "gpu"}
    autocast: dict[str, Any] = {"enabled": precision in AUTOCAST}
    if precision in AUTOCAST:
        autocast |= {
            "dtype": str(AUTOCAST[precision]).removeprefix("torch."),
            "lower_precision_safe_modules": [],  # gradients are reduced in float32, as under DDP
        }
    return {
        "train_micro_batch_size_per_gpu": 1,  # only DeepSpeed's speed log reads it, and it is off
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's CPU Adam would need a compiler
        "torch_autocast": autocast,
        "bf16": {"enabled": False},  # Lightning would turn these two on for mixed precision
        "fp16": {"enabled": False},
    }


def advice(module: nn.Module) -> str | None:
    """Why ZeRO is not worth its communication for a model of this size, or None if it may be."""
    # Four float32 numbers a parameter: weight, gradient and AdamW's two moments
    bytes_ = sum(p.numel() for p in module.parameters()) * 16
    if bytes_ > 8e9:
        return None
    return (
        "strategy.name: ZeRO shards weights, gradients and optimizer state, which for this model "
        f"are {bytes_ / 1e6:,.0f} MB in all. A GPU holds that; strategy=ddp gives the same numbers "
        "faster"
    )
