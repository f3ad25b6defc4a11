"""The internal parts of DeepSpeed that this project uses although they may change in any release.

`check_deepspeed` runs before an engine is built, and `check_optimizer` once it is there: if another
version has renamed one of these parts, the run ends at its start with the name of that part.
deepspeed takes seconds to import, so it is imported inside functions.
"""

import importlib
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

SUPPORTED = ">=0.17.2,<0.20"  # versions of DeepSpeed; pyproject.toml states the same range

OF_MODULES = (  # (module, path)
    ("deepspeed.comm.torch", "build_shm_op"),
    # Older versions take the "torch_autocast" section of the config and ignore it.
    ("deepspeed.runtime.torch_autocast", "init_autocast_params"),
    (
        "deepspeed.runtime.zero.stage_1_and_2",
        "DeepSpeedZeroOptimizer._lazy_init_hp_params_optimizer_state",
    ),
)
OF_OPTIMIZERS = {  # by whether it is stage 3
    False: ("optimizer", "single_partition_of_fp32_groups", "_hp_optimizer_states_linked"),
    True: ("optimizer", "fp32_partitioned_groups_flat", "empty_partition_cache"),
}


def check_deepspeed() -> None:
    """Make sure that the installed DeepSpeed has every module-level part that this file uses.

    Raises:
        RuntimeError: names the missing parts, the installed version and the supported ones
    """
    _refuse(list(_missing_of_modules()))


def check_optimizer(zero_optimizer: Any, stage_3: bool) -> None:
    """The same for what a ZeRO optimizer holds, which exists only once the engine is built."""
    kind = type(zero_optimizer).__name__
    names = OF_OPTIMIZERS[stage_3]
    _refuse([f"{kind}.{name}" for name in names if not hasattr(zero_optimizer, name)])


def own_parts(parameters: Iterable[Tensor]) -> list[Tensor]:
    """This rank's shard of each parameter under ZeRO-3, a flat tensor that is there all the time.

    Where the weights are float32 it may be the memory of the optimizer's own weights.
    """
    try:
        return [parameter.ds_tensor for parameter in parameters]  # type: ignore[attr-defined]
    except AttributeError:
        _refuse(["Parameter.ds_tensor"])
        raise


def forget_whole_parameters(zero_optimizer: Any) -> None:
    """Under ZeRO-3: let the next forward pass gather every parameter from the shards again. Small
    ones would otherwise stay gathered from one step to the next."""
    zero_optimizer.empty_partition_cache()


def _missing_of_modules() -> Iterator[str]:
    for module, path in OF_MODULES:
        try:
            attrgetter(path)(importlib.import_module(module))
        except (AttributeError, ModuleNotFoundError):
            yield f"{module}.{path}"


def _refuse(missing: list[str]) -> None:
    if missing:
        import deepspeed

        raise RuntimeError(
            f"clf uses internal parts of DeepSpeed {SUPPORTED}, and the installed version, "
            f"{deepspeed.__version__}, lacks {', '.join(missing)}. Install a supported version "
            f"(DS_BUILD_OPS=0 pip install 'deepspeed{SUPPORTED}'), or set strategy=ddp"
        )


def talk_through_gloo() -> None:
    """Keep DeepSpeed from compiling, at run time, a communication library of its own for ranks that
    are CPU processes."""
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None


def torch_optimizer(zero_optimizer: Any) -> Optimizer:
    """The torch optimizer inside, whose parameters are flat shards of float32 weights."""
    return zero_optimizer.optimizer


def shards(zero_optimizer: Any, stage_3: bool) -> list[Tensor]:
    """This rank's flat shard of the float32 weights, one for each parameter group."""
    if stage_3:
        return zero_optimizer.fp32_partitioned_groups_flat
    return zero_optimizer.single_partition_of_fp32_groups


def link_states(zero_optimizer: Any, stage_3: bool) -> None:
    """Let each parameter find its part of the optimizer state.

    DeepSpeed does this after the first group's first step, when the other groups have no state yet.
    Stage 3 looks the parts up each time.
    """
    if not stage_3:
        zero_optimizer._hp_optimizer_states_linked = False
        zero_optimizer._lazy_init_hp_params_optimizer_state()
