"""Which devices, strategies and batches go together: a part of `clf.config.rules`."""

from collections.abc import Iterator
from importlib.util import find_spec

from clf.config.batch_rules import batches
from clf.config.node_range import most_nodes, node_faults
from clf.config.schema import RunConfig

NO_SYNC_BATCHNORM = (
    "strategy.sync_batchnorm=true: torch's SyncBatchNorm computes on GPUs only; set "
    "strategy.sync_batchnorm=false"
)


def devices(cfg: RunConfig) -> Iterator[str]:
    strategy, devices = cfg.strategy, most_nodes(cfg) * (cfg.gpus or 1)
    if strategy.name == "single" and devices > 1:
        where = f"nodes={cfg.nodes}" if most_nodes(cfg) > 1 else f"gpus={cfg.gpus}"
        yield (
            f"strategy.name=single: takes one device, not the {devices} of {where}; set "
            "strategy=ddp or strategy=auto"
        )
    if strategy.sync_batchnorm and strategy.name == "single":
        yield (
            "strategy.sync_batchnorm=true: there is nothing to synchronise on one device; "
            "set strategy.sync_batchnorm=false, or strategy=ddp with several devices"
        )
    if strategy.precision == "16-mixed" and strategy.accelerator == "cpu":
        yield (
            "strategy.precision=16-mixed: needs a GPU; on a CPU set strategy.precision=32-true "
            "(or bf16-mixed)"
        )


def strategy(cfg: RunConfig) -> Iterator[str]:
    asked = cfg.strategy
    if asked.name.startswith("deepspeed") and find_spec("deepspeed") is None:
        yield (
            f"strategy.name={asked.name}: the package deepspeed is not installed; "
            "DS_BUILD_OPS=0 pip install deepspeed, or set strategy=ddp"
        )
    yield from _offload(cfg)
    if asked.sync_batchnorm and asked.accelerator == "cpu":
        yield NO_SYNC_BATCHNORM
    if asked.find_unused_parameters and asked.name == "deepspeed_zero3":
        yield (
            "strategy.find_unused_parameters=true: under deepspeed_zero3 all ranks fetch a layer's "
            "weights together, so a step must use the same layers on each of them; set "
            "strategy=deepspeed_zero2, or strategy.find_unused_parameters=false"
        )
    if asked.compile and asked.gradient_checkpointing:
        yield (
            "strategy.compile=true: compiled, the blocks that strategy.gradient_checkpointing "
            "computes again would count their images twice in BatchNorm's statistics; set "
            "strategy.compile=false, or strategy.gradient_checkpointing=false"
        )
    if asked.compile and asked.name == "deepspeed_zero3":
        yield (
            "strategy.compile=true: deepspeed_zero3 fetches each layer's weights when it is "
            "reached, which breaks a compiled network into pieces; set strategy.compile=false, or "
            "strategy=deepspeed_zero2"
        )
    yield from _compile_mode(cfg)


def _compile_mode(cfg: RunConfig) -> Iterator[str]:
    asked = cfg.strategy
    if asked.compile_mode == "default":
        return
    given = f"strategy.compile_mode={asked.compile_mode}"
    if not asked.compile:
        yield f"{given}: nothing is compiled; set strategy.compile=true, or leave the mode out"
    elif asked.accelerator == "cpu":
        yield f"{given}: CUDA graphs need a GPU; on a CPU set strategy.compile_mode=default"
    elif asked.name.startswith("deepspeed"):
        yield (
            f"{given}: DeepSpeed takes each gradient out of the backward pass as it comes, from "
            "memory that a CUDA graph would write to again; set strategy.compile_mode=default, or "
            "strategy=ddp"
        )


def _offload(cfg: RunConfig) -> Iterator[str]:
    asked = cfg.strategy
    zero = asked.name.startswith("deepspeed")
    for name, needed, right in (
        ("offload_optimizer", "a deepspeed strategy; set strategy=deepspeed_zero2", zero),
        (
            "offload_parameters",
            "sharded weights; set strategy=deepspeed_zero3",
            asked.name == "deepspeed_zero3",
        ),
    ):
        if not getattr(asked, name):
            continue
        if not right:
            yield f"strategy.{name}=true: needs {needed}, or strategy.{name}=false"
        elif asked.accelerator == "cpu":
            yield (
                f"strategy.{name}=true: moves memory from a GPU to the CPU, and with "
                f"strategy.accelerator=cpu everything is there already; set strategy.{name}=false"
            )


def gpu_fault(accelerator: str, gpus: int, available: int) -> str | None:
    """Why a machine with `available` GPUs cannot give a run `gpus` of them; None if it can. The
    submitting side and the job both use this."""
    if accelerator == "gpu" and available == 0:
        return (
            "strategy.accelerator=gpu: no GPU was found on this machine; "
            "set strategy.accelerator=auto to use the CPU"
        )
    if accelerator != "cpu" and 0 < available < gpus:
        return (
            f"gpus={gpus}: this machine has {available}; set gpus={available} or less "
            "(or strategy.accelerator=cpu for CPU processes)"
        )
    return None


DEVICE_RULES = [node_faults, devices, strategy, batches]
