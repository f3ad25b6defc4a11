"""The internal parts of DeepSpeed that this project uses although they may change in any release.

`check_deepspeed` runs before an engine is built, and `check_optimizer` once it is there: if another
version has renamed one of these parts, the run ends at its start with the name of that part.
deepspeed takes seconds to import, so it is imported inside functions.
"""

import importlib
from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from clf.parallel.sharded_optimizer import Fragment

LOWEST = (0, 18, 4)  # 0.18.3 has every part, but its gradients are too small
# Versions of DeepSpeed; pyproject.toml states the same range.
SUPPORTED = f">={'.'.join(map(str, LOWEST))},<0.20"

OF_MODULES = (  # (module, path)
    ("deepspeed.comm.torch", "build_shm_op"),
    ("deepspeed.utils.tensor_fragment", "tensor_fragment.get_hp_fragment_address"),
)
OF_BOTH = (  # `clf.parallel.left_out` replaces the methods
    "reduce_ready_partitions_and_remove_grads",
    "overlapping_partition_gradients_reduce_epilogue",
    "step",
    "_global_grad_norm",
    "get_grad_norm_direct",
)
OF_OPTIMIZERS = {  # by whether it is stage 3
    False: (
        *OF_BOTH,
        "bit16_groups",
        "single_partition_of_fp32_groups",
        "setup_buckets",
        "partition_gradients",
        "is_gradient_accumulation_boundary",
    ),
    True: (
        *OF_BOTH,
        "fp16_groups",
        "fp32_partitioned_groups_flat",
        "grad_position",
        "empty_partition_cache",
    ),
}


def check_deepspeed() -> None:
    """Make sure that the installed DeepSpeed is not too old and has every module-level part that
    this file uses.

    Raises:
        RuntimeError: names what is missing, the installed version and the supported ones
    """
    _refuse(list(_missing_of_modules()))


def check_optimizer(zero_optimizer: Any, stage_3: bool) -> None:
    """The same for what a ZeRO optimizer holds, which exists only once the engine is built."""
    kind = type(zero_optimizer).__name__
    names = OF_OPTIMIZERS[stage_3]
    _refuse([f"{kind}.{name}" for name in names if not hasattr(zero_optimizer, name)])


def gradient_norm(zero_optimizer: Any) -> Any:
    """The norm of the latest gradient, also while that is being stepped with; the engine's own
    number changes only after the step."""
    return zero_optimizer._global_grad_norm


def keep_bad_norms(zero_optimizer: Any) -> None:
    """Let the norm of a gradient that is not finite be NaN. DeepSpeed's word for that of a group is
    -1, which before 0.19.8 vanishes in the norm of all groups."""
    given = zero_optimizer.get_grad_norm_direct

    def norm(*arguments: Any, **named: Any) -> Tensor:
        found = given(*arguments, **named)
        return torch.where(found < 0, torch.nan, found)

    zero_optimizer.get_grad_norm_direct = norm


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
    import deepspeed

    version = (
        deepspeed.__version_major__,
        deepspeed.__version_minor__,
        deepspeed.__version_patch__,
    )
    if version < LOWEST:
        # `clf.parallel.zero.ZeroPrecision.backward` asks for it, and 0.18.3 takes no notice
        yield "the backward() of 0.18.4, which can leave gradients undivided (scale_wrt_gas=False)"
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


def groups_of(zero_optimizer: Any, stage_3: bool) -> list[list[nn.Parameter]]:
    """The parameters that DeepSpeed trains, by group, in the order that all ranks have."""
    return zero_optimizer.fp16_groups if stage_3 else zero_optimizer.bit16_groups


def fragments(zero_optimizer: Any, stage_3: bool) -> Iterator[Fragment]:
    """What this rank's flat shards of the float32 weights hold of each parameter, without the
    numbers that fill a shard up."""
    for group_number, group in enumerate(groups_of(zero_optimizer, stage_3)):
        for parameter in group:
            held: Any = parameter
            if stage_3:
                number, place, length = zero_optimizer.grad_position[
                    zero_optimizer.get_param_id(held)
                ]
                shard = zero_optimizer.fp32_partitioned_groups_flat[number]
                start = dist.get_rank() * length
                length = min(length, held.ds_numel - start)
                if length > 0:
                    yield Fragment(parameter, shard, place, start, length)
            elif held._hp_mapping is not None:
                shard = zero_optimizer.single_partition_of_fp32_groups[group_number]
                in_shard = held._hp_mapping.get_hp_fragment_address()
                start = held._hp_mapping.lp_fragment_address.start
                yield Fragment(parameter, shard, in_shard.start, start, in_shard.numel)


def ends_a_step(zero_optimizer: Any) -> bool:
    """Whether the gradients of this micro-batch are the step's last ones."""
    boundary = zero_optimizer.is_gradient_accumulation_boundary
    return boundary() if callable(boundary) else boundary  # an attribute in older versions


def give_zero_gradient(parameter: Any) -> None:
    """A gradient for a parameter that has none, also where stage 3 holds only a part of it."""
    kept = parameter.data
    shape = getattr(parameter, "ds_shape", parameter.shape)
    parameter.data = kept.new_zeros(()).expand(shape)  # torch compares the shapes
    parameter.grad = torch.zeros(shape, dtype=kept.dtype, device=kept.device)
    parameter.data = kept
