"""DeepSpeed's ZeRO 1, 2 and 3 with the mathematics and the checkpoints of every other strategy.

The one module that imports deepspeed. Differences from Lightning's own `DeepSpeedStrategy`:

- Weights stay float32 and the forward pass runs under `torch.autocast`, as under DDP; Lightning's
  turns the module, BatchNorm's statistics included, into bfloat16.
- A checkpoint is the one file that other strategies write, optimizer included, gathered from the
  shards: it can be read under any strategy and by any number of ranks, and is written aside and
  renamed. Lightning's is a folder of shards, overwritten in place.
- `sync_batchnorm` is applied; an evaluation runs without an engine; ranks may be CPU processes.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, cast

import torch
from lightning import Trainer
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.plugins.precision import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.strategy import Strategy
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from clf.config import StrategyConfig

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class ZeroStrategy(DeepSpeedStrategy):
    """ZeRO of the stage in `cfg.name`; Lightning runs the loops, DeepSpeed the step.

    Args:
        cfg: name, offloading
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
        if accelerator == "cpu":
            # Ranks talk through gloo; what it would take instead is compiled at run time.
            backend = importlib.import_module("deepspeed.comm.torch")
            backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
        self._groups: list[list[nn.Parameter]] = []  # the optimizer's, before they are sharded

    # --- set-up: as Lightning's, but for the demand of a GPU ---

    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def setup(self, trainer: Trainer) -> None:
        if self._layer_sync is not None and self.model is not None:
            self.model = self._layer_sync.apply(self.model)  # before the engine takes the weights
        if trainer.training and self.model is not None:
            # It flattens weights into shards, and cannot broadcast channels_last ones. Images that
            # are channels_last make the convolutions so all the same.
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            if words := advice(self.model):
                rank_zero_warn(words)
        super().setup(trainer)

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: Any = None
    ) -> Any:
        import deepspeed

        assert optimizer is not None
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        engine, zero_optimizer, _, _ = deepspeed.initialize(
            args=SimpleNamespace(device_rank=self.local_rank),  # a CPU has no index to give
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, zero_optimizer

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """An evaluation shards nothing: the plain module on each rank."""
        self.model = model
        self.model_to_device()

    def teardown(self) -> None:
        super().teardown()
        self.optimizers = []  # they keep the sharded weights and states alive

    # --- checkpoints: one whole file ---

    # Into the plain module, which the engine then shards.
    restore_checkpoint_after_setup = False  # type: ignore[assignment]
    lightning_restore_optimizer = True  # type: ignore[assignment]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole float32 tensors; all ranks must call it, rank 0's counts."""
        import deepspeed

        assert self.lightning_module is not None
        if not self.zero_stage_3:
            return self.lightning_module.state_dict()
        state = dict(self.lightning_module.named_buffers())
        kept = self.lightning_module.state_dict().keys()
        for name, parameter in self.lightning_module.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                state[name] = parameter.detach().to("cpu", copy=True)
        return {name: state[name] for name in kept}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What the unsharded torch optimizer's `state_dict` would be; all ranks must call it."""
        from deepspeed.utils import safe_get_full_optimizer_state

        inner, shard = self._inner(), self._shards()[0]
        held = inner.state.get(shard, {})  # empty before the first step
        self._link_states()
        sharded = [key for key, value in held.items() if isinstance(value, Tensor) and value.ndim]
        whole = {key: value for key, value in held.items() if key not in sharded}
        state = {}
        for index, parameter in enumerate(self._parameters()) if held else ():
            full = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in sharded}
            if self.is_global_zero:
                state[index] = {key: _copy(value) for key, value in whole.items()} | full
        return {"state": state, "param_groups": self._param_groups()}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Shard the whole state that any strategy saved."""
        from deepspeed.utils import safe_set_full_optimizer_state

        (saved,) = checkpoint["optimizer_states"]
        inner, parameters = self._inner(), list(self._parameters())
        for group, values in zip(inner.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in values.items() if key != "params"})
        if not saved["state"]:
            return
        first = saved["state"][0]
        sharded = [key for key, value in first.items() if isinstance(value, Tensor) and value.ndim]
        for shard in self._shards():
            inner.state[shard] = {
                key: torch.zeros_like(shard) if key in sharded else _copy(value)
                for key, value in first.items()
            }
        self._link_states()
        for index, parameter in enumerate(parameters):
            for key in sharded:
                value = saved["state"][index][key].to(self.root_device, torch.float32)
                safe_set_full_optimizer_state(parameter, value.contiguous(), key)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        Strategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> Any:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        DDPStrategy.load_model_state_dict(self, checkpoint, strict)

    # --- what DeepSpeed holds ---

    def _inner(self) -> Optimizer:
        """The torch optimizer, whose parameters are flat shards."""
        return cast(Any, self.optimizers[0]).optimizer

    def _shards(self) -> list[Tensor]:
        zero = cast(Any, self.optimizers[0])
        return (
            zero.fp32_partitioned_groups_flat
            if self.zero_stage_3
            else zero.single_partition_of_fp32_groups
        )

    def _link_states(self) -> None:
        """Let each parameter find its part of the state. DeepSpeed does it after the first group's
        first step, when the other groups have no state yet."""
        if not self.zero_stage_3:
            zero = cast(Any, self.optimizers[0])
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()

    def _parameters(self) -> Iterator[nn.Parameter]:
        return (parameter for group in self._groups for parameter in group)

    def _param_groups(self) -> list[dict[str, Any]]:
        """The settings of each group, with the numbers that stand for its parameters."""
        made, start = [], 0
        for group, parameters in zip(self._inner().param_groups, self._groups, strict=True):
            settings = {key: value for key, value in group.items() if key != "params"}
            made.append({**settings, "params": list(range(start, start + len(parameters)))})
            start += len(parameters)
        return made


class ZeroPrecision(DeepSpeedPrecision):
    """Float32 weights; mixed precision is autocast alone, in training and in evaluation."""

    def __init__(self, precision: Any, device_type: str) -> None:
        super().__init__(precision)
        self.device_type = device_type

    def convert_module(self, module: nn.Module) -> nn.Module:
        return module

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **more: Any) -> None:
        # Lightning has divided the loss by the accumulation, and DeepSpeed would do it once more:
        # gradients, and the norm by which they are clipped, would be too small by that factor.
        model.trainer.model.backward(tensor, *args, scale_wrt_gas=False, **more)

    def forward_context(self) -> AbstractContextManager[Any]:
        if self.precision not in AUTOCAST:
            return nullcontext()
        return torch.autocast(self.device_type, dtype=AUTOCAST[self.precision])


def engine_config(cfg: StrategyConfig, accelerator: str, precision: str) -> dict[str, Any]:
    """DeepSpeed's own configuration; Lightning adds accumulation and gradient clipping."""
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
            "lower_precision_safe_modules": [],  # gradients travel in float32, as under DDP
        }
    return {
        "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own log of speed, which is off
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's CPU Adam needs a compiler at run time
        "torch_autocast": autocast,
        "bf16": {"enabled": False},  # Lightning would turn them on for mixed precision
        "fp16": {"enabled": False},
    }


def _copy(value: Any) -> Any:
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


def advice(module: nn.Module) -> str | None:
    """Why ZeRO is not worth its communication for a model of this size; None if it may be."""
    bytes_ = sum(p.numel() for p in module.parameters()) * 16  # weight, gradient, AdamW's two
    if bytes_ > 8e9:
        return None
    return (
        "strategy.name: ZeRO shards weights, gradients and optimizer state, which for this model "
        f"are {bytes_ / 1e6:,.0f} MB in all. A GPU holds that; strategy=ddp gives the same numbers "
        "faster"
    )
