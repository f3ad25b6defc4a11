"""A training step under Lightning beside a plain torch loop."""

import warnings
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns
from launch.benchmarks.meter import Meter

CLASSES = 43


def step(sizes: Sizes) -> Iterator[Comparison]:
    """Training steps on a batch that is there already: what Lightning and our metrics cost."""
    from clf.config import RunConfig
    from clf.parallel.strategies import resolve_accelerator, trainer_arguments

    cfg = RunConfig(gpus=1)
    device = "one GPU" if resolve_accelerator(cfg.strategy) == "gpu" else "CPU"
    size = {"images": sizes.step_images, "pixels": sizes.step_side, "steps": sizes.steps}
    yield Comparison(
        f"ResNet18 training step, {sizes.step_images} images of {sizes.step_side} px, "
        f"{device}, {trainer_arguments(cfg)['precision']}",
        "images/s",
        in_turns(
            sizes,
            Side("ResNet18Model under Lightning, with metrics and schedule", ours, size),
            Side("plain torch loop, the same network and optimizer", plain_torch, size),
        ),
    )


def ours(meter: Meter, images: int, pixels: int, steps: int) -> None:
    import torch

    from clf.models.resnet import ResNet18Model

    on_gpu, arguments = _setting()
    model = ResNet18Model(CLASSES, warmup_epochs=0).to(memory_format=torch.channels_last)
    train(model, Metered(meter, repeat(batch_of(images, pixels)), steps, on_gpu), arguments)


def train(model: Any, batches: Any, arguments: dict[str, Any]) -> None:
    """An epoch under Lightning, which leaves nothing behind.

    Args:
        arguments: of the Trainer: devices, strategy, precision
    """
    from clf.parallel.lightning_internals import quiet_lightning
    from clf.run import Trainer

    quiet_lightning()
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's about a fit without validation
        trainer.fit(model, batches)


def plain_torch(meter: Meter, images: int, pixels: int, steps: int) -> None:
    import torch
    from torch.nn import functional as F
    from torchvision.models import resnet18

    from clf.config.weights import IMAGENET_MEAN, IMAGENET_STD

    on_gpu, arguments = _setting()
    half = arguments["precision"] == "bf16-mixed"
    device = torch.device("cuda" if on_gpu else "cpu")
    network = resnet18(num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-4, weight_decay=0.05)
    rgb = (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (255 * torch.tensor(of, device=device).view(3, 1, 1) for of in rgb)
    for item in Metered(meter, repeat(batch_of(images, pixels)), steps, on_gpu):
        images_BCHW = item["images"].to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits_BC = network((images_BCHW - mean) / std)
        loss = F.cross_entropy(logits_BC.float(), item["labels"].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _setting() -> tuple[bool, dict[str, Any]]:
    """Whether there is a GPU, and what the Trainer of a run on one device gets."""
    import torch

    from clf.config import RunConfig
    from clf.parallel.strategies import resolve_accelerator, trainer_arguments

    torch.set_num_threads(1)  # on a busy machine threads that wait for each other hide the work
    torch.manual_seed(0)
    cfg = RunConfig(gpus=1)
    return resolve_accelerator(cfg.strategy) == "gpu", trainer_arguments(cfg)


def batch_of(images: int, pixels: int) -> dict[str, Any]:
    """A batch as a loader gives it out, of noise."""
    import torch

    shape = (images, 3, pixels, pixels)
    images_BCHW = torch.randint(256, shape, dtype=torch.uint8)
    return {
        "images": images_BCHW.contiguous(memory_format=torch.channels_last),
        "labels": torch.randint(CLASSES, shape[:1]),
        "indices": torch.arange(images),
    }


class Metered:
    """Gives batches out: some for steps to warm up, `steps` that count, and one that ends them."""

    def __init__(
        self, meter: Meter, batches: Iterable[Any], steps: int, on_gpu: bool, warm_up: int = 2
    ) -> None:
        self.meter, self.batches, self.steps, self.on_gpu = meter, batches, steps, on_gpu
        self.warm_up = warm_up

    def __len__(self) -> int:
        return self.warm_up + self.steps + 1

    def __iter__(self) -> Iterator[Any]:
        batches, images = iter(self.batches), 0
        for _ in range(self.warm_up):
            yield next(batches)
        self._wait()
        self.meter.start()
        for _ in range(self.steps):
            batch = next(batches)
            images += len(batch["labels"])
            yield batch
        self._wait()
        self.meter.stop(images)
        yield batch  # whoever knows the length asks for no more than that

    def _wait(self) -> None:
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()
