"""Training steps on a GPU, as `launch/benchmark.py step --gpu` measures them: on a batch that is
there already, and on JPEGs; and which of the two bounds a run, decoding or computing."""

import math
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import repeat
from pathlib import Path
from typing import Any

from launch.benchmarks.comparison import (
    BenchmarkError,
    Comparison,
    Measured,
    Side,
    Sizes,
    in_turns,
)
from launch.benchmarks.jpegs import write_jpegs
from launch.benchmarks.loader import loader_of
from launch.benchmarks.loader import ours as loader_alone
from launch.benchmarks.meter import Meter
from launch.benchmarks.step import CLASSES, Metered, batch_of, train

NETWORKS = ("resnet50", "resnet18")
WARM_UP = 12  # steps: cuDNN tries its algorithms, and code is compiled
NO_GPU = (
    "step --gpu: there is no CUDA device here, as torch sees it (nvidia-smi shows whether the "
    "driver does), so nothing was measured. python launch/benchmark.py step measures the step on "
    "one core"
)
ENOUGH = 0.95  # of the rate without a loader: a run that reaches it is bound by its steps


def step_on_gpu(sizes: Sizes) -> Iterator[Comparison]:
    """Each network on noise, in the ways in which it can be run, and then on JPEGs."""
    import torch

    from clf.cores import cores_per_rank

    if not torch.cuda.is_available():
        raise BenchmarkError(NO_GPU)
    gpu, cores = torch.cuda.get_device_name(), cores_per_rank(1)
    for network in NETWORKS:
        size = {
            "network": network,
            "images": sizes.gpu_images,
            "pixels": sizes.crop,
            "steps": sizes.gpu_steps,
        }
        what = f"{network} training step, {sizes.gpu_images} images of {sizes.crop} px, {gpu}"
        on_noise = in_turns(sizes, *sides(size))
        yield Comparison(f"{what}, batches that are there", "images/s", on_noise)
        with tempfile.TemporaryDirectory(prefix="clf-benchmark-") as folder:
            copies = math.ceil((WARM_UP + sizes.gpu_steps + 2) * sizes.gpu_images / sizes.jpegs)
            write_jpegs(Path(folder), sizes.jpegs, copies, 1, 97)
            read = {"folder": folder, "workers": cores}
            task = read | {"batch": sizes.gpu_images, "crop": sizes.crop}
            on_jpegs, there, loader = in_turns(
                sizes,
                Side(f"clf, JPEGs by {cores} threads", ours, size | read),
                Side("clf, data.cache=device", ours, size | read | {"cache": "device"}),
                Side("its loader alone", loader_alone, task),
            )
        yield Comparison(
            f"{what}, JPEGs of 500x375",
            "images/s",
            [on_jpegs, there, on_noise[0], loader],
            bound(median(on_noise[0]), median(on_jpegs), median(loader, "cpu"), cores),
        )


def sides(size: dict[str, Any]) -> list[Side]:
    """Ours and plain torch loops, in the ways in which a step can be run."""
    loop = "plain torch loop, AdamW"
    graphs = "reduce-overhead"
    return [
        Side("clf, fused AdamW", ours, size),
        Side("clf, fused SGD", ours, size | {"optimizer": "sgd"}),
        Side("clf, compiled", ours, size | {"compile_mode": "default"}),
        Side("clf, compiled, CUDA graphs", ours, size | {"compile_mode": graphs}),
        Side(loop, plain_loop, size),
        Side(f"{loop} fused", plain_loop, size | {"fused": True}),
        Side(f"{loop} fused, compiled", plain_loop, size | {"fused": True, "compiled": True}),
    ]


def bound(step: float, whole: float, of_a_core: float, cores: int) -> str:
    """Which of the two bounds a run, in a sentence.

    Args:
        step: images a second of the steps alone
        whole: of a run, steps and loader together
        of_a_core: that the loader makes in a second of one core
        cores: that the run has for a GPU
    """
    # The process that starts the device's kernels keeps a core busy.
    needed = math.ceil(step / of_a_core) + 1
    rates = (
        f"the steps alone take {step:,.0f} images/s, a core makes {of_a_core:,.0f}, and together, "
        f"on {cores} cores, they come to {whole:,.0f}, {whole / step:.0%} of the steps"
    )
    if whole >= ENOUGH * step:
        return f"The steps bound it: {rates}. {needed} cores would do"
    if cores < needed:
        return f"The loader bounds it: {rates}. {needed} cores a GPU would do"
    return (
        f"Neither alone bounds it: {rates}, although {needed} cores should do. Other work on the "
        "machine, or the disk, may be what it waits for"
    )


def median(measured: Measured, clock: str = "wall") -> float:
    """Images a second."""
    by_wall, by_cpu = measured.values("images/s")
    return statistics.median(by_cpu if clock == "cpu" else by_wall)


def ours(
    meter: Meter,
    network: str,
    images: int,
    pixels: int,
    steps: int,
    optimizer: str = "adamw",
    compile_mode: str | None = None,
    folder: str | None = None,
    workers: int = 0,
    cache: str = "none",
    device: str = "gpu",
) -> None:
    """The step of a run: its model, precision, optimizer, schedule and metrics, under Lightning.

    Args:
        compile_mode: None: not compiled
        folder: of JPEGs; None: one batch, which is on the device
        cache: "device" to decode them before, and have them there
        device: "cpu" only where a test looks whether this runs
    """
    import torch

    from clf.config import DataConfig
    from clf.models.build import build_model
    from clf.parallel.strategies import trainer_arguments
    from clf.plan import compose

    words = [f"model={network}", f"model.optimizer={optimizer}", "model.warmup_epochs=0"]
    words += [f"strategy.accelerator={device}", "gpus=1"]
    if compile_mode is not None:
        words += ["strategy.compile=true", f"strategy.compile_mode={compile_mode}"]
    cfg = compose(words)
    torch.manual_seed(0)
    place = torch.device("cuda" if device == "gpu" else "cpu")
    if folder is None:
        batch = {name: one.to(place) for name, one in batch_of(images, pixels).items()}
        batches: Any = repeat(batch)
    else:
        data = DataConfig(batch_size=images, image_size=pixels, cache=cache)
        batches = loader_of(folder, data, workers, place)
    model = build_model(cfg, CLASSES, pretrained=False)
    metered = Metered(meter, batches, steps, device == "gpu", WARM_UP)
    train(model, metered, trainer_arguments(cfg))


def plain_loop(
    meter: Meter,
    network: str,
    images: int,
    pixels: int,
    steps: int,
    fused: bool = False,
    compiled: bool = False,
    device: str = "gpu",
) -> None:
    """What one would write: bf16 by autocast, channels_last, no metrics."""
    import torch
    import torchvision
    from torch.nn import functional as F

    place = torch.device("cuda" if device == "gpu" else "cpu")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = getattr(torchvision.models, network)(num_classes=CLASSES)
    model = model.to(place, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05, fused=fused)
    if compiled:
        model.compile()
    batch = {name: one.to(place) for name, one in batch_of(images, pixels).items()}
    half = torch.autocast("cuda", torch.bfloat16) if device == "gpu" else nullcontext()
    for item in Metered(meter, repeat(batch), steps, device == "gpu", WARM_UP):
        with half:
            logits_BC = model((item["images"] - 118.0) / 58.0)
        loss = F.cross_entropy(logits_BC.float(), item["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
