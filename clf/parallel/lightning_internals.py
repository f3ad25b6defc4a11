"""The internal parts of Lightning, and of torch, that this project uses although they may
change in any release.

No other file of clf names a private attribute of these libraries. `check_lightning` runs once, at
the start of a fit: if another version has renamed one of these parts, the run ends there with the
name of that part. Without the check, replacing a method would only create an attribute that
nobody reads.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.utilities import seed
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

SUPPORTED = ">=2.6.4,<2.7"  # versions of Lightning; pyproject.toml states the same range

OF_A_TRAINER = (
    "fit_loop.epoch_loop._broadcast_sigterm_tensor",
    "fit_loop.epoch_loop._should_accumulate",
    "fit_loop.epoch_loop._num_ready_batches_reached",
    "fit_loop._load_combined_loader_states",
    "_logger_connector.update_train_step_metrics",
    "_signal_connector.register_signal_handlers",
)
OF_DEEPSPEED_STRATEGY = (  # `ZeroStrategy` calls or overrides them
    "_init_deepspeed_distributed",
    "_setup_model_and_optimizer",
    "_initialize_deepspeed_inference",
    "restore_checkpoint_after_setup",
    "lightning_restore_optimizer",
)
# Entries of a checkpoint's ["loops"]["fit_loop"]
TRAIN_PROGRESS = "epoch_loop.batch_progress"
VALIDATION_PROGRESS = "epoch_loop.val_loop.batch_progress"
COUNTS = ("ready", "started", "processed", "completed")


def check_lightning(trainer: Trainer) -> None:
    """Make sure that the installed Lightning and torch have every part that this file uses.

    Raises:
        RuntimeError: names the missing parts, the installed version and the supported ones
    """
    if missing := list(_missing(trainer)):
        raise RuntimeError(
            f"clf uses internal parts of Lightning {SUPPORTED}, and the installed version, "
            f"{lightning.__version__}, lacks {', '.join(missing)}. Install a supported version: "
            f"pip install 'lightning{SUPPORTED}'"
        )


def _missing(trainer: Trainer) -> Iterator[str]:
    yield from (f"Trainer.{path}" for path in OF_A_TRAINER if not _has(trainer, path))
    for name in OF_DEEPSPEED_STRATEGY:
        if not _has(DeepSpeedStrategy, name):
            yield f"DeepSpeedStrategy.{name}"
    strategy = trainer.strategy
    if isinstance(strategy, DeepSpeedStrategy) and not _has(strategy, "_layer_sync"):
        yield "DeepSpeedStrategy._layer_sync"
    if not _has(RichProgressBar, "_get_train_description"):  # clf.tracking.epochs overrides it
        yield "RichProgressBar._get_train_description"
    if not _has(seed, "reset_seed"):
        yield "lightning.fabric.utilities.seed.reset_seed"
    for name in ("_rebuild_buckets", "prepare_for_backward"):
        if dist.is_available() and not _has(dist, f"Reducer.{name}"):
            yield f"torch.distributed.Reducer.{name}"
    if not _has(torch, "_foreach_copy_"):
        yield "torch._foreach_copy_"
    if dist.is_available() and not _has(dist, "distributed_c10d._get_default_store"):
        yield "torch.distributed.distributed_c10d._get_default_store"
    state = trainer.fit_loop.state_dict()
    for entry in (TRAIN_PROGRESS, VALIDATION_PROGRESS):
        counts = state.get(entry, {})
        for part in ("total", "current"):
            if set(counts.get(part, ())) != set(COUNTS):
                yield f"checkpoint['loops']['fit_loop']['{entry}']['{part}'] with {COUNTS}"


def _has(owner: Any, path: str) -> bool:
    try:
        attrgetter(path)(owner)
    except AttributeError:
        return False
    return True


# --- notices ---


def quiet_lightning() -> None:
    """Keep Lightning's notices that are not about the user's run off the screen."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Our numbers are sums over all ranks before they are logged: syncing them again would be wrong.
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")
    # A run that goes on writes into the folder that it wrote into before.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # A run may be moved: `last.ckpt` is written anew, and `BestCheckpoint` keeps its best value.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # With few steps in an epoch, the last one is still logged.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # An evaluation needs the weights alone.
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`")
    # Under SLURM too, the ranks and addresses are those that the job has set.
    warnings.filterwarnings("ignore", message="The `srun` command is available")
    # Names that torch has changed since the oldest version that we support.
    warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated")
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")


# --- the training loop ---


def remove_sigterm_broadcast(trainer: Trainer) -> None:
    """Take Lightning's SIGTERM broadcast out of the training step.

    On several ranks Lightning 2.5.2 and later sends a flag from rank 0 to all ranks before every
    batch and waits for it on the host (Lightning issue 21487): one collective, and one stop of the
    device, in every step.
    """
    loop = trainer.fit_loop.epoch_loop
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def keep_own_signal_handlers(trainer: Trainer) -> None:
    """Keep Lightning from installing its signal handlers over those of the process.

    Its SIGTERM handler runs a collective wherever the signal finds the rank: of 15 runs on two
    ranks, 9 hung.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]


def restore_loader_position(trainer: Trainer) -> None:
    """Give the training loader the position that the checkpoint recorded, if it has not got it.

    Lightning skips this where the optimizer has asked for the length of the run before.
    """
    trainer.fit_loop._load_combined_loader_states()


def ends_a_step(trainer: Trainer) -> bool:
    """Whether the optimizer has just stepped: no gradient is accumulated, waiting for more."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def ends_an_epoch(trainer: Trainer) -> bool:
    """Whether the current training batch is the epoch's last one."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def log_step_now(trainer: Trainer) -> None:
    """Write the step's scalars, which Lightning would do only after `on_train_batch_end`."""
    trainer._logger_connector.update_train_step_metrics()


# --- the loops' state in a checkpoint ---


def convert_micro_batch_counts(checkpoint: dict[str, Any], convert: Callable[[int], int]) -> None:
    """Change, in place, every number of micro-batches that the fit loop and its loaders counted.

    Args:
        convert: from a number of micro-batches as they were to the number of micro-batches that
            hold the same images now
    """
    fit_loop = checkpoint["loops"]["fit_loop"]
    progress = fit_loop[TRAIN_PROGRESS]
    for counts in (progress["total"], progress["current"]):
        # A checkpoint that is written in `on_train_batch_end` has its last batch processed and not
        # completed. Lightning recognises that state by the difference of one.
        unfinished = counts["processed"] - counts["completed"]
        for name in ("ready", "started", "processed"):
            counts[name] = convert(counts[name])
        counts["completed"] = counts["processed"] - unfinished
    for loader in fit_loop["state_dict"].get("combined_loader", []):
        if "batches" in loader:
            loader["batches"] = convert(loader["batches"])


def let_validation_start_over(checkpoint: dict[str, Any]) -> None:
    """Record, in place, that the validation has begun and has seen no batch: the run that goes on
    repeats the whole validation, and nothing that came before it."""
    begun = dict(zip(COUNTS, (1, 1, 0, 0), strict=True))
    checkpoint["loops"]["fit_loop"][VALIDATION_PROGRESS] = {
        "total": begun,
        "current": dict(begun),
        "is_last_batch": False,
    }


# --- ranks and strategies ---


def settle_buckets(ddp: DistributedDataParallel) -> None:
    """Lay DDP's gradient buckets as they stay, before the first step.

    DDP adds gradients up in buckets, and lays them anew after the first backward pass, in the order
    in which the gradients came. A gradient's place in its bucket decides in which order the ranks'
    parts are added, and so its last bit: a run that goes on would not add as it did before. Here
    gradients of zero come in the reverse order of the parameters, which is about that of a real
    backward pass; on all ranks together.
    """
    if ddp.find_unused_parameters:  # DDP keeps its first buckets
        return
    parameters = [p for p in ddp.module.parameters() if p.requires_grad]
    zeros = [torch.zeros((), dtype=p.dtype, device=p.device).expand_as(p) for p in parameters]
    ddp.reducer.prepare_for_backward([])
    torch.autograd.backward([p.view_as(p) for p in parameters], zeros)
    for p in parameters:
        p.grad = None
    ddp.reducer._rebuild_buckets()


def process_group_store() -> Any:
    """A new connection to the key-value store through which the ranks of the process group met."""
    return dist.distributed_c10d._get_default_store().clone()


def init_deepspeed_ranks(strategy: DeepSpeedStrategy) -> None:
    """What `DeepSpeedStrategy.setup_distributed` does, except that ranks need no GPU."""
    seed.reset_seed()
    strategy.set_world_ranks()
    strategy._init_deepspeed_distributed()


def with_synchronised_batchnorm(strategy: DeepSpeedStrategy, model: Any) -> Any:
    """The model with its BatchNorm layers replaced, if `sync_batchnorm` is set.

    `DeepSpeedStrategy` ignores the setting. The attribute exists on every parallel strategy and is
    None where the setting is off.
    """
    layer_sync = strategy._layer_sync
    return model if layer_sync is None else layer_sync.apply(model)


@torch.no_grad()
def exchange(ones: list[Tensor], others: list[Tensor]) -> None:
    """Exchange the contents of tensors, pair by pair; each keeps its memory."""
    kept = [one.clone() for one in ones]
    torch._foreach_copy_(ones, others)
    torch._foreach_copy_(others, kept)


def allow_recompiling() -> None:
    """Let torch.compile make code for as many sizes of images as a run can have. By default it
    makes 8 of a network, and runs it as it is from then on."""
    from torch._dynamo import config  # takes seconds to import

    config.recompile_limit = 64


def is_batchnorm(module: nn.Module) -> bool:
    """Whether the module is a BatchNorm of any kind."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
