"""JPEGs to training batches: our loader beside its peers."""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

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
    import numpy as np
    from torchvision.datasets import ImageFolder

    from clf.config import AugmentConfig, DataConfig
    from clf.data.cache import open_caches
    from clf.data.index import Split
    from clf.data.loader import ThreadedLoader
    from clf.data.sampler import TrainSampler
    from clf.data.transforms import TrainTransform

    augment = AugmentConfig(crop_scale=list(SCALE), crop_ratio=list(RATIO))
    cfg = DataConfig(batch_size=batch, image_size=crop, cache=cache, augment=augment)
    rows = ImageFolder(folder).samples
    split = Split([path for path, _ in rows], np.array([label for _, label in rows]))
    order = TrainSampler(split.labels, cfg, seed=0)
    kept = open_caches([split], cfg)["train"] if cache != "none" else None
    loader = ThreadedLoader(split, order, TrainTransform(cfg), 0, workers, cache=kept)
    run_through(meter, loader, lambda item: len(item["images"]))
