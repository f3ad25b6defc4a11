"""A model of a few thousand weights with BatchNorm and dropout, and runs of it in less than a
second."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from clf import run
from clf.config import DataConfig, ModelConfig, RunConfig, StrategyConfig, TrackingConfig
from clf.models.base import BaseClassificationModel
from clf.resilience.agreement import POLL_S
from clf.resilience.signals import Preempted, StopRequest


class TinyModel(BaseClassificationModel):
    def build_network(self) -> nn.Module:
        def block(channels: int, out: int) -> nn.Module:
            conv = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
            # Smooth: a ReLU turns a rounding error into a jump where a background lies at 0.
            return nn.Sequential(conv, nn.BatchNorm2d(out), nn.SiLU())

        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1))
        head = (*pool, nn.Linear(16, self.num_classes))
        return nn.Sequential(block(3, 8), block(8, 16), *head)

    def recomputed_blocks(self) -> list[nn.Module]:
        return list(self.network.children())[:2]


class Wider(TinyModel):
    """Of other shapes."""

    def build_network(self) -> nn.Module:
        network = super().build_network()
        network[1] = nn.Sequential(nn.Conv2d(8, 16, 5, stride=2, padding=2, bias=False))
        return network


class WithoutDropout(TinyModel):
    """Which a bare loop trains to the same numbers."""

    def build_network(self) -> nn.Module:
        return nn.Sequential(*(m for m in super().build_network() if not isinstance(m, nn.Dropout)))


def config(
    root: str,
    strategy: str = "auto",
    gpus: int = 1,
    resnet: bool = False,
    data: dict[str, Any] | None = None,
    strategy_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> RunConfig:
    """A run on digits in `root`: 32 images a step in micro-batches of 8, on the CPU in float32."""
    target = "clf.models.resnet.ResNet18Model" if resnet else "tests.tiny.TinyModel"
    images: dict[str, Any] = {
        "batch_size": 32,
        "micro_batch_size": 8,
        "image_size": 32,
        "eval_resize": 32,
    }
    images |= {"name": "digits", "root": root, "threads": 1} | (data or {})
    model = ModelConfig(_target_=target, learning_rate=1e-3, warmup_epochs=1)
    model.__dict__.update(settings.pop("model", {}))
    return RunConfig(
        gpus=gpus,
        trusted_packages=["tests"],
        model=model,
        data=DataConfig(**images),
        strategy=StrategyConfig(
            name=strategy,
            **{"accelerator": "cpu", "precision": "32-true"} | (strategy_settings or {}),
        ),
        tracking=TrackingConfig(mode="disabled", log_every=1),
        **{"epochs": 2, "report": False, **settings},
    )


class Stopped(Exception):
    """The run's end before its end."""


class StopAfter(Callback):
    def __init__(self, epoch: int | None, step: int | None) -> None:
        self.epoch, self.step = epoch, step

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epoch is not None and trainer.current_epoch > self.epoch:
            raise Stopped

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            raise Stopped


class AskToLeave(Callback):
    """Sends the run the request that a signal would send, after a step."""

    def __init__(self, request: StopRequest, step: int | None) -> None:
        self.request, self.step = request, step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.request.signal = "SIGUSR2"
            if trainer.world_size > 1:  # the others take fewer than all steps before they hear it
                time.sleep(3 * POLL_S)


def fit(
    cfg: RunConfig,
    folder: str,
    stop_after: int | None = None,
    stop_after_step: int | None = None,
    double: bool = False,
    leave_after_step: int | None = None,
) -> dict[str, Any]:
    """`clf.run.fit`, and what this rank saw: the loss, the images' places in the split and their
    bytes of each training micro-batch.

    Args:
        stop_after, stop_after_step: the last epoch (from 0), or the step, before an error ends the
            run; None: it runs to its end
        double: compute in float64
        leave_after_step: the step after which the run is asked to leave, and saves; None: never
    """
    seen: dict[str, Any] = {"losses": [], "indices": [], "pixels": []}
    build = run.build_model

    def recording(*args: Any, **kwargs: Any) -> BaseClassificationModel:
        model = build(*args, **kwargs)
        if double:
            model = model.double()
        step = model._step

        def recorded(stage: str, batch: Any, *mixed: Any) -> Any:
            logits, (loss_sum, weight_sum) = step(stage, batch, *mixed)
            if stage == "train":
                seen["losses"].append(float(loss_sum.detach() / weight_sum))
                seen["indices"].append(batch["indices"].tolist())
                seen["pixels"].append(batch["images"].numpy().tobytes())
            return logits, (loss_sum, weight_sum)

        model._step = recorded  # type: ignore[method-assign]
        return model

    callbacks = run.callbacks
    request = StopRequest()

    def stopping(*args: Any) -> list[Callback]:
        *others, midway, preemption = callbacks(*args)
        stop, leave = StopAfter(stop_after, stop_after_step), AskToLeave(request, leave_after_step)
        return [*others, stop, leave, midway, preemption]

    torch.set_num_threads(1)  # many small runs on few cores: more threads wait for each other
    with (
        patch.object(torch, "set_num_threads"),
        patch.object(os, "fsync"),  # no test cuts the power, and a run syncs some fifty times
        patch.object(run, "build_model", recording),
        patch.object(run, "callbacks", stopping),
        contextlib.suppress(Stopped, Preempted),
    ):
        seen["scalars"] = run.fit(cfg, Path(folder), progress=False, request=request)
    return seen
