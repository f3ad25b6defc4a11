"""The loaders of others, each as its own users build it, for the same task: an epoch of an
ImageFolder as training batches, with a random crop that is resized, and a flip."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from launch.benchmarks.comparison import BenchmarkError, Side
from launch.benchmarks.meter import Meter

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # torchvision's defaults of RandomResizedCrop
INSTALL = "pip install 'clf[bench]', in a checkout pip install -e '.[bench]'"


@dataclass(frozen=True)
class Peer:
    """A loader that ours is measured beside."""

    name: str  # as a row shows it; {} is the number of workers
    function: Callable[..., None]
    needs: tuple[str, ...]  # modules
    hint: str = ""  # what to do where it is installed and fails


def run_through(meter: Meter, loader: Iterable[Any], images: Callable[[Any], int]) -> None:
    """An epoch to warm up and an epoch that counts; `images` tells how many a batch has."""
    for _ in loader:
        pass
    meter.start()
    meter.stop(sum(images(batch) for batch in loader))


def torchvision(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """As torchvision's references/classification has it with PIL, its default backend; but the
    workers stay from the warm-up on, since a real epoch is too long for their start to count."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import transforms as v1
    from torchvision.datasets import ImageFolder

    from clf.config.weights import IMAGENET_MEAN, IMAGENET_STD

    transform = v1.Compose(
        [
            v1.RandomResizedCrop(crop, SCALE, RATIO),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    loader = DataLoader(
        ImageFolder(folder, transform),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
        drop_last=True,
    )
    run_through(meter, loader, lambda item: len(item[0]))


def timm(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """Its training loader without the prefetcher, which is for a GPU, and without colour jitter."""
    from timm.data import create_loader
    from timm.data.dataset import ImageDataset

    from clf.config.weights import IMAGENET_MEAN, IMAGENET_STD

    no_jitter: dict[str, Any] = {"color_jitter": None}
    loader = create_loader(
        ImageDataset(folder),
        input_size=(3, crop, crop),
        batch_size=batch,
        is_training=True,
        use_prefetcher=False,
        scale=SCALE,
        ratio=RATIO,
        interpolation="bilinear",
        num_workers=workers,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        **no_jitter,
    )
    run_through(meter, loader, lambda item: len(item[0]))


def dali(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """On the CPU, with the decoder that decodes no more than the crop, and the fast transform that
    ours uses too; without it 1 to 2 % more time."""
    from nvidia.dali import fn, pipeline_def, types
    from nvidia.dali.plugin.pytorch import DALIGenericIterator, LastBatchPolicy

    @pipeline_def(batch_size=batch, num_threads=workers, device_id=None, seed=0)
    def training() -> Any:
        files, labels = fn.readers.file(file_root=folder, random_shuffle=True, name="files")
        images = fn.decoders.image_random_crop(
            files,
            output_type=types.RGB,
            random_area=SCALE,
            random_aspect_ratio=RATIO,
            use_fast_idct=True,
        )
        images = fn.resize(images, size=(crop, crop), interp_type=types.INTERP_LINEAR)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    loader = DALIGenericIterator(
        training(),
        ["images", "labels"],
        reader_name="files",
        auto_reset=True,
        last_batch_policy=LastBatchPolicy.DROP,
    )
    run_through(meter, loader, lambda item: len(item[0]["images"]))


def spdl(meter: Meter, folder: str, batch: int, crop: int, workers: int) -> None:
    """A pipeline whose threads make a batch each: FFmpeg decodes, crops, resizes and flips."""
    run_through(meter, SpdlEpochs(folder, batch, crop, workers), len)


class SpdlEpochs:
    """An epoch each time that it is iterated over: uint8 batches, [batch, crop, crop, 3]."""

    def __init__(self, folder: str, batch: int, crop: int, workers: int) -> None:
        import numpy as np
        from torchvision.datasets import ImageFolder

        self.files = [path for path, _ in ImageFolder(folder).samples]
        self.batch, self.crop, self.workers = batch, crop, workers
        self.rng = np.random.default_rng(0)

    def __iter__(self) -> Iterator[Any]:
        from spdl.pipeline import PipelineBuilder

        self.rng.shuffle(self.files)
        builder = PipelineBuilder().add_source(self.files).aggregate(self.batch, drop_last=True)
        builder = builder.pipe(self._batch, concurrency=self.workers)
        pipeline = builder.add_sink(4).build(num_threads=self.workers)
        with pipeline.auto_stop():
            yield from pipeline

    def _batch(self, files: list[str]) -> Any:
        import numpy as np
        import spdl.io

        from clf.data.transforms import draw_crop

        rng = np.random.default_rng(zlib.crc32(files[0].encode()))
        frames = []
        for file in files:
            packets = spdl.io.demux_image(file)
            top, left, height, width = draw_crop(packets.height, packets.width, SCALE, RATIO, rng)
            flip = "hflip," if rng.random() < 0.5 else ""
            filters = (
                f"crop={width}:{height}:{left}:{top},scale={self.crop}:{self.crop}:flags=bilinear,"
                f"{flip}format=pix_fmts=rgb24"
            )
            frames.append(spdl.io.decode_packets(packets, filter_desc=filters))
        return spdl.io.to_torch(spdl.io.convert_frames(frames))


PEERS = {
    "torchvision": Peer(
        "torchvision's reference, {} worker processes, float32", torchvision, ("torchvision",)
    ),
    "dali": Peer("DALI, CPU, crop decoded alone, {} threads, uint8", dali, ("nvidia.dali",)),
    "spdl": Peer(
        "SPDL, FFmpeg, {} threads, uint8",
        spdl,
        ("spdl.pipeline", "spdl.io"),
        "SPDL needs FFmpeg's libraries; on Debian 12: apt-get install libavutil57 libavformat59 "
        "libavcodec59 libavfilter8 libavdevice59.",
    ),
    "timm": Peer("timm create_loader, {} worker processes, float32", timm, ("timm",)),
}


def installed(name: str) -> bool:
    """Whether all that a peer needs can be found; nothing of it is imported but its packages."""
    try:
        return all(find_spec(module) for module in PEERS[name].needs)
    except ModuleNotFoundError:  # the package around it
        return False


def chosen_peers(names: tuple[str, ...] | None) -> list[str]:
    """Those names, or all that are installed.

    Raises:
        BenchmarkError: one of them is unknown or not installed; with what to do
    """
    if names is None:
        return [name for name in PEERS if installed(name)]
    for name in names:
        if name not in PEERS:
            raise BenchmarkError(f"--vs {name}: no such peer; there are {', '.join(PEERS)}")
        if not installed(name):
            raise BenchmarkError(f"--vs {name}: it is not installed: {INSTALL}")
    return list(dict.fromkeys(names))


def peer_side(name: str, task: dict[str, Any]) -> Side:
    """A peer at a task: folder, batch, crop, workers."""
    peer = PEERS[name]
    return Side(peer.name.format(task["workers"]), peer.function, task, peer.hint)
