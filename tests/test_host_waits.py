"""No training step makes the host wait for the device: with a GPU, each wait would leave it idle.

Two looks, since there may be no GPU here: a whole run on the CPU, in which any operation whose
result the host must read is noted; and a step on torch's fake GPU tensors, which shows every copy
from one device to the other.
"""

import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from clf import run
from clf.config import MixConfig
from clf.models.mix import Mix
from clf.models.resnet import ResNet18Model
from clf.optim.optimizers import adamw
from tests import tiny

# The host reads a number, or needs to know how many there are.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "equal.default")
COPIES = ("aten._to_copy.default", "aten.copy_.default")


class Noting(TorchDispatchMode):
    """Notes what would make the host wait, and from where it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.step: int | None = 0  # None: not in a training step
        self.waits: list[tuple[int, str]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.step is not None and _waits(str(func), (args, kwargs), result):
            ours = [line for line in traceback.format_stack() if "/clf/" in line]
            self.waits.append((self.step, f"{func}:\n{''.join(ours[-2:])}"))
        return result


def _waits(name: str, given: Any, result: Any) -> bool:
    if any(f"aten.{word}" in name for word in READS):
        return True
    if name not in COPIES:
        return False
    tensors = [one for one in tree_flatten((given, result))[0] if isinstance(one, torch.Tensor)]
    devices = {tensor.device.type for tensor in tensors}
    pinned = (given[1] or {}).get("non_blocking") and result.device.type == "cuda"
    return len(devices) > 1 and not pinned


class Watching(Callback):
    """Looks at all training steps, their callbacks included."""

    def __init__(self, noting: Noting) -> None:
        self.noting = noting

    def on_train_start(self, *args: Any) -> None:
        self.noting.__enter__()

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.noting.step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.is_last_batch:  # the validation follows
            self.noting.step = None

    def on_train_end(self, *args: Any) -> None:
        self.noting.__exit__(None, None, None)


def test_only_the_steps_whose_numbers_are_logged_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noting, usual = Noting(), run.callbacks
    monkeypatch.setattr(run, "callbacks", lambda *given: [*usual(*given), Watching(noting)])
    cfg = tiny.config(
        str(tmp_path / "digits"),
        epochs=1,
        limit_batches=24,
        on_bad_loss="skip",
        data={"micro_batch_size": 16},
        strategy_settings={"gradient_clip": 1.0},
    )
    cfg.mix.mixup, cfg.mix.cutmix, cfg.ema.decay = 0.2, 1.0, 0.9
    cfg.tracking.log_every = 5
    run.fit(cfg, tmp_path / "run", progress=False)
    # Steps count from 0: the fifth, the tenth, and the epoch's last one.
    assert {step for step, _ in noting.waits} == {4, 9, 11}, noting.waits


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_step_on_a_gpu_copies_nothing_to_the_host_and_from_it_pinned_memory_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    B, noting = 8, Noting()
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model: Any = ResNet18Model(num_classes=1000)
            images = torch.zeros(B, 3, 64, 64, dtype=torch.uint8)
            labels = torch.zeros(B, dtype=torch.int64)
        model.log = lambda *args: None
        model._trainer = SimpleNamespace(world_size=1, current_epoch=0, global_rank=0)
        model.mix = Mix(MixConfig(mixup=0.2, cutmix=1.0), seed=0, epochs=2, batch_size=B)
        optimizer = adamw([{"params": list(model.parameters())}], 0.1)
        with noting:
            # The backward pass needs a driver: its gradients are made here.
            model.training_step({"images": images, "labels": labels, "indices": labels}, 0)
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            assert not noting.waits, noting.waits
            labels.cpu()
            torch.ones(1).to("cuda")
    assert len(noting.waits) == 2
