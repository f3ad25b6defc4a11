"""What launch/benchmark.py measures: ours and a peer in turns. A function a section; each imports
what it measures, so that the command's --help stays quick.
"""

import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.jpegs import HEIGHT, WIDTH, write_jpegs

ROOT = Path(__file__).resolve().parents[1]
QUALITIES = (95, 97)  # files of about 80 and 100 kB; a heavier file is more decoding for both
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's defaults of RandomResizedCrop


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 7  # times that ours and the peer take turns
    warm_ups: int = 1  # rounds before these
    jpegs: int = 256  # different files
    passes: int = 4  # times that a round reads each
    batch: int = 64  # images
    crop: int = 224  # pixels a side
    workers: int = 2  # threads of ours, processes of the reference
    step_images: int = 32  # a training step
    step_side: int = 64  # pixels
    steps: int = 5  # a round
    rows: int = 256  # of a metric's update
    updates: int = 20  # a round


SMOKE = Sizes(
    rounds=1,
    warm_ups=0,
    jpegs=8,
    passes=1,
    batch=4,
    crop=32,
    step_images=2,
    step_side=32,
    steps=1,
    updates=2,
)


@dataclass(frozen=True)
class Side:
    """One of two that were measured."""

    name: str
    values: list[float]  # one a round

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def summary(self) -> dict[str, Any]:
        least, most = min(self.values), max(self.values)
        return {**asdict(self), "median": self.median, "min": least, "max": most}


@dataclass(frozen=True)
class Comparison:
    """Ours beside a peer, measured in turns."""

    what: str
    unit: str  # "images/s": more is better; "us", "s": less is
    ours: Side
    peer: Side

    @property
    def ratio(self) -> float:
        """How many times as fast ours is, of medians."""
        faster, slower = self.ours.median, self.peer.median
        return faster / slower if self.unit.endswith("/s") else slower / faster

    def summary(self) -> dict[str, Any]:
        sides = {"ours": self.ours.summary(), "peer": self.peer.summary()}
        return {"what": self.what, "unit": self.unit, "ratio": self.ratio, **sides}


Measure = Callable[[], float]


def in_turns(sizes: Sizes, *measures: Measure) -> list[list[float]]:
    """`sizes.rounds` values of each, A B A B, after warm-ups that do not count."""
    rounds = [[measure() for measure in measures] for _ in range(sizes.warm_ups + sizes.rounds)]
    return [list(values) for values in zip(*rounds[sizes.warm_ups :], strict=True)]


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """For torch on the CPU: on a busy machine, threads that wait for each other hide the work."""
    import torch

    here = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(here)


# --- loader ---


def loader(sizes: Sizes) -> Iterator[Comparison]:
    """An epoch of JPEGs to training batches: read, decode, crop, resize, flip."""
    for quality in QUALITIES:
        with tempfile.TemporaryDirectory(prefix="clf-benchmark-") as folder:
            kilobytes = write_jpegs(Path(folder), sizes.jpegs, quality) / 1000
            mine, count = our_loader(Path(folder), sizes)
            theirs = reference_loader(Path(folder), sizes)
            peer, ours = in_turns(sizes, _speed(theirs, count), _speed(mine, count))
        yield Comparison(
            f"{WIDTH}x{HEIGHT} JPEGs of {kilobytes:.0f} kB to {sizes.crop} px",
            "images/s",
            Side(f"ThreadedLoader, {sizes.workers} threads, uint8", ours),
            Side(f"torchvision reference, {sizes.workers} worker processes, float32", peer),
        )


def _speed(batches: Iterable[Any], count: int) -> Measure:
    def measure() -> float:
        start = time.perf_counter()
        for _ in batches:
            pass
        return count / (time.perf_counter() - start)

    return measure


def our_loader(folder: Path, sizes: Sizes) -> tuple[Any, int]:
    """The loader of a training run, and the images that it reads in an epoch."""
    import numpy as np
    from torchvision.datasets import ImageFolder

    from clf.config import AugmentConfig, DataConfig
    from clf.data.datasets import Split
    from clf.data.loader import ThreadedLoader
    from clf.data.sampler import TrainSampler
    from clf.data.transforms import TrainTransform

    augment = AugmentConfig(crop_scale=list(SCALE), crop_ratio=list(RATIO))
    cfg = DataConfig(batch_size=sizes.batch, image_size=sizes.crop, augment=augment)
    rows = ImageFolder(folder).samples * sizes.passes
    split = Split([path for path, _ in rows], np.array([label for _, label in rows]))
    order = TrainSampler(split.labels, cfg, seed=0)
    return ThreadedLoader(split, order, TrainTransform(cfg), 0, sizes.workers), order.size


def reference_loader(folder: Path, sizes: Sizes) -> Any:
    """As torchvision's references/classification builds it with PIL, its default backend."""
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    transform = v1.Compose(
        [
            v1.RandomResizedCrop(sizes.crop, SCALE, RATIO),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = ImageFolder(folder, transform)
    return DataLoader(
        Subset(images, list(range(len(images))) * sizes.passes),
        batch_size=sizes.batch,
        shuffle=True,
        num_workers=sizes.workers,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )


# --- step ---


def step(sizes: Sizes) -> Iterator[Comparison]:
    """Training steps on a batch that is there already: what Lightning and our metrics cost."""
    import torch
    from torch.nn import functional as F
    from torchvision.models import resnet18

    from clf.config import RunConfig
    from clf.models.resnet import ResNet18Model
    from clf.parallel import resolve_accelerator, trainer_arguments
    from clf.run import Trainer, quiet_lightning

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


# --- metrics ---


def metrics(sizes: Sizes) -> Iterator[Comparison]:
    """An update of all that an epoch logs, per-class accuracy included, on one core."""
    import torch
    from torchmetrics.classification import MulticlassAccuracy

    from clf.metrics import ClassificationMetrics

    for classes in (43, 1000):
        generator = torch.Generator().manual_seed(classes)
        logits = torch.randn(sizes.rows, classes, generator=generator)
        labels = torch.randint(classes, (sizes.rows,), generator=generator)
        sums = torch.tensor(1.0), torch.tensor(float(sizes.rows))
        mine = ClassificationMetrics(classes, top_k=5)
        theirs = [
            MulticlassAccuracy(classes, average=None, validate_args=False),
            MulticlassAccuracy(classes, top_k=5, average="micro", validate_args=False),
        ]

        def ours(mine: Any = mine, args: Any = (logits, labels, *sums)) -> float:
            start = time.perf_counter()
            for _ in range(sizes.updates):
                mine.update(*args)
            return (time.perf_counter() - start) / sizes.updates * 1e6

        def peer(theirs: Any = theirs, args: Any = (logits, labels)) -> float:
            start = time.perf_counter()
            for _ in range(sizes.updates):
                for metric in theirs:
                    metric.update(*args)
            return (time.perf_counter() - start) / sizes.updates * 1e6

        with one_core():
            values = in_turns(sizes, ours, peer)
        yield Comparison(
            f"update of the metrics, {sizes.rows} rows, {classes} classes, one core",
            "us",
            Side("ClassificationMetrics", values[0]),
            Side("torchmetrics MulticlassAccuracy, per class and top-5", values[1]),
        )


# --- start-up ---


def startup(sizes: Sizes) -> Iterator[Comparison]:
    """From Enter to the shell's prompt, beside what a command that imports Lightning would take."""

    def seconds(*words: str) -> Measure:
        def measure() -> float:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
            )
            return time.perf_counter() - start

        return measure

    flags = ("--help", "--dry-run")
    commands = [seconds("launch/submit.py", flag) for flag in flags]
    *ours, peer = in_turns(sizes, *commands, seconds("-c", "import lightning"))
    for flag, values in zip(flags, ours, strict=True):
        mine, theirs = Side(f"python launch/submit.py {flag}", values), "import lightning"
        yield Comparison("a command, as a process", "s", mine, Side(f'python -c "{theirs}"', peer))


SECTIONS: dict[str, Callable[[Sizes], Iterator[Comparison]]] = {
    "loader": loader,
    "step": step,
    "metrics": metrics,
    "startup": startup,
}
