"""A training step under Lightning beside a plain torch loop."""

import time
import warnings
from collections.abc import Iterator
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns, one_core


def step(sizes: Sizes) -> Iterator[Comparison]:
    """Training steps on a batch that is there already: what Lightning and our metrics cost."""
    import torch
    from torch.nn import functional as F
    from torchvision.models import resnet18

    from clf.config import RunConfig
    from clf.models.resnet import ResNet18Model
    from clf.parallel.lightning_internals import quiet_lightning
    from clf.parallel.strategies import resolve_accelerator, trainer_arguments
    from clf.run import Trainer

    quiet_lightning()
    torch.manual_seed(0)
    cfg, classes = RunConfig(gpus=1), 43
    shape = (sizes.step_images, 3, sizes.step_side, sizes.step_side)
    images = torch.randint(256, shape, dtype=torch.uint8)
    batch = {
        "images": images.contiguous(memory_format=torch.channels_last),
        "labels": torch.randint(classes, shape[:1]),
        "indices": torch.arange(sizes.step_images),
    }
    on_gpu = resolve_accelerator(cfg.strategy) == "gpu"
    arguments = trainer_arguments(cfg)
    half = arguments["precision"] == "bf16-mixed"
    model = ResNet18Model(classes, warmup_epochs=0).to(memory_format=torch.channels_last)
    network = resnet18(num_classes=classes).to(memory_format=torch.channels_last)
    network = network.to("cuda" if on_gpu else "cpu")
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.05)
    mean, std = model.mean.to(network.fc.bias), model.std.to(network.fc.bias)

    def ours() -> float:
        trainer = Trainer(
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
        batches = Timed(batch, sizes.steps, on_gpu)
        trainer.fit(model, batches)
        return sizes.step_images / batches.seconds_a_step

    def peer() -> float:
        batches = Timed(batch, sizes.steps, on_gpu)
        for item in batches:
            images_BCHW = item["images"].to(mean.device, non_blocking=True)
            with torch.autocast(mean.device.type, torch.bfloat16, enabled=half):
                logits_BC = network((images_BCHW - mean) / std)
            loss = F.cross_entropy(logits_BC.float(), item["labels"].to(mean.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return sizes.step_images / batches.seconds_a_step

    with warnings.catch_warnings(), one_core():
        warnings.simplefilter("ignore")  # Lightning's about a fit without validation
        values = in_turns(sizes, ours, peer)
    yield Comparison(
        f"ResNet18 training step, {sizes.step_images} images of {sizes.step_side} px, "
        f"{'one GPU' if on_gpu else 'one core'}, {arguments['precision']}",
        "images/s",
        Side("ResNet18Model under Lightning, with metrics and schedule", values[0]),
        Side("plain torch loop, the same network and optimizer", values[1]),
    )


class Timed:
    """A batch, given out for two steps to warm up, `steps` that count, and one that ends them."""

    WARM_UP = 2

    def __init__(self, batch: Any, steps: int, on_gpu: bool) -> None:
        self.batch, self.steps, self.on_gpu = batch, steps, on_gpu
        self.seconds_a_step = float("nan")

    def __len__(self) -> int:
        return self.WARM_UP + self.steps + 1

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.WARM_UP):
            yield self.batch
        start = self._now()
        for _ in range(self.steps):
            yield self.batch
        self.seconds_a_step = (self._now() - start) / self.steps
        yield self.batch  # whoever knows the length asks for no more than that

    def _now(self) -> float:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()
