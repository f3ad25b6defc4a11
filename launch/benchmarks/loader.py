"""JPEGs to training batches: our loader beside its peers."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from launch.benchmarks.comparison import Comparison, Side, Sizes, in_turns
from launch.benchmarks.jpegs import TILE, write_jpegs
from launch.benchmarks.meter import Meter
from launch.benchmarks.peers import RATIO, SCALE, chosen_peers, peer_side, run_through


@dataclass(frozen=True)
class Files:
    """JPEGs of tiles x tiles windows."""

    count: int
    tiles: int
    quality: int


def loader(sizes: Sizes) -> Iterator[Comparison]:
    """An epoch of JPEGs to training batches: read, decode, crop, resize, flip."""
    chosen = chosen_peers(sizes.vs)
    for files in (Files(sizes.jpegs, 1, 97), Files(sizes.big_jpegs, 4, 90)):
        with tempfile.TemporaryDirectory(prefix="clf-benchmark-") as folder:
            written = asdict(files) | {"copies": sizes.passes}
            kilobytes = write_jpegs(Path(folder), **written) / 1000
            task = {"folder": folder, "batch": sizes.batch, "crop": sizes.crop}
            task |= {"workers": sizes.workers}
            name = f"ThreadedLoader, {sizes.workers} threads, uint8"
            mine = [Side(name, ours, task)]
            if files.tiles == 1:
                mine.append(Side(f"{name}, data.cache=ram", cached, task))
            measured = in_turns(sizes, *mine, *(peer_side(name, task) for name in chosen))
            (from_files, *from_cache), peers = measured[: len(mine)], measured[len(mine) :]
        height, width = (side * files.tiles for side in TILE)
        what = f"{width}x{height} JPEGs of {kilobytes:.0f} kB to {sizes.crop} px"
        yield Comparison(what, "images/s", [from_files, *peers])
        if from_cache:
            yield Comparison(f"{what}, ours decoded before", "images/s", [*from_cache, *peers])


def ours(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """The loader of a training run, from the files."""
    _run(meter, folder, batch, crop, workers, "none")


def cached(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """The same from the pixels that data.cache=ram keeps in memory."""
    _run(meter, folder, batch, crop, workers, "ram")


def _run(meter: Meter, folder: str, batch: int, crop: int, workers: int, cache: str) -> None:
    from clf.config import AugmentConfig, DataConfig

    augment = AugmentConfig(crop_scale=list(SCALE), crop_ratio=list(RATIO))
    cfg = DataConfig(batch_size=batch, image_size=crop, cache=cache, augment=augment)
    run_through(meter, loader_of(folder, cfg, workers), lambda item: len(item["images"]))


def loader_of(folder: str, cfg: Any, workers: int, device: Any = None) -> Any:
    """The loader of a training run, of the images of an ImageFolder.

    Args:
        cfg: DataConfig
        device: of its batches; None: they stay in the host's memory
    """
    import numpy as np
    from torchvision.datasets import ImageFolder

    from clf.data.ahead import Courier
    from clf.data.cache import open_caches
    from clf.data.index import Split
    from clf.data.loader import ThreadedLoader
    from clf.data.on_device import OnDevice
    from clf.data.sampler import TrainSampler
    from clf.data.transforms import TrainTransform

    rows = ImageFolder(folder).samples
    split = Split([path for path, _ in rows], np.array([label for _, label in rows]))
    order, transform = TrainSampler(split.labels, cfg, seed=0), TrainTransform(cfg)
    kept = open_caches([split], cfg)["train"] if cfg.cache != "none" else None
    there: dict[str, Any] = {"cache": kept}
    if kept is not None and cfg.cache == "device":
        there = {"store": OnDevice(kept, device)}
    return ThreadedLoader(split, order, transform, 0, workers, courier=Courier(device), **there)
