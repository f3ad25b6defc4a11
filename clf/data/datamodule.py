"""The data of a run in the form that Lightning asks for: loaders of this rank, class weights."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lightning import LightningDataModule

from clf.atomic import PatientWriter
from clf.config import DataConfig
from clf.config.faults import show
from clf.cores import cores_per_rank
from clf.data import cache_place, index, sampler
from clf.data.ahead import Courier
from clf.data.bad_images import BadImages
from clf.data.cache import Cache, find_cache, open_caches
from clf.data.decode import Look, decode
from clf.data.given import compare_classes
from clf.data.index import ImageSplits, Split
from clf.data.kept_index import splits_of_run
from clf.data.loader import ThreadedLoader
from clf.data.on_device import OnDevice, store_on
from clf.data.reader import SPLITS, DataError
from clf.data.sampler import EvalSampler, TrainSampler
from clf.data.thumbnails import write_thumbnails
from clf.data.transforms import EvalTransform, TrainTransform


class ClassificationDataModule(LightningDataModule):
    """Loaders for training and exact evaluation, on any number of ranks.

    Without a trainer it serves a single process.

    Args:
        cfg: which images, and how they become batches
        seed: of the order and the augmentation
        trusted_packages: packages besides clf and torchvision that `cfg` may name transforms of
        bad_images: file that lists the images that are left out; None: no list
        writer: of that list, where a disk takes nothing
        kept_index: file of the run that keeps its images and labels (`clf.data.kept_index`); None:
            they are read anew
        keep: write that file if it is not there; False: only read it
    """

    def __init__(
        self,
        cfg: DataConfig,
        seed: int,
        trusted_packages: Sequence[str] = (),
        bad_images: Path | None = None,
        writer: PatientWriter | None = None,
        kept_index: Path | None = None,
        keep: bool = True,
    ) -> None:
        super().__init__()
        skips = cfg.on_bad_image == "skip"
        self._bad = BadImages(cfg, bad_images, writer) if skips else None
        self.cfg, self.seed, self.trusted_packages = cfg, seed, trusted_packages
        self._kept_index, self._keep = kept_index, keep
        self._splits: ImageSplits | None = None
        self._order: Sequence[str] | None = None  # of the classes
        self._caches: dict[str, Cache] | None = None  # by split; None: before and after a fit
        self._store: OnDevice | None = None  # of the training images

    def prepare_data(self) -> None:
        """Write generated images to disk, and list the images, unless that is done: Lightning asks
        again before each loop. DataError lists what is wrong with the data."""
        if self._splits is None:
            self._splits = self._read()

    def setup(self, stage: str) -> None:
        """Before a fit, decode what data.cache keeps, unless that is done. DataError: there is no
        room for it, or an image cannot be read."""
        if stage != "fit" or self._caches is not None:
            return
        cache_place.sweep_memory()
        self._caches = {}
        if self.cfg.cache != "none":
            self._caches = open_caches([self.splits.train, self.splits.val], self.cfg)

    def teardown(self, stage: str) -> None:
        """After the last evaluation of a run, which follows its fit, give back what was kept; what
        a device has, after the fit."""
        self._empty_store()
        if stage != "fit":
            for cache in (self._caches or {}).values():
                cache.close()
            self._caches = None

    def on_exception(self, exception: BaseException) -> None:
        """A run that goes back to a checkpoint prepares itself anew while this is still there."""
        self._empty_store()

    def _empty_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    @property
    def splits(self) -> ImageSplits:
        """Images and labels, read once."""
        if self._splits is None:
            self._splits = self._read()
        return self._splits

    def number_like(
        self, trained: Mapping[str, int], checkpoint: Path, may_lack: bool = False
    ) -> list[str]:
        """Give the classes the numbers that a checkpoint has for their names.

        Args:
            trained: the checkpoint's number of each class
            may_lack: the data may have no image of some of them

        Returns:
            notes for the user

        Raises:
            ValueError: the data has other classes
        """
        place = self.cfg.root or self.cfg.name
        notes = compare_classes(self.classes, trained, checkpoint, place, may_lack)
        self._order = sorted(trained, key=trained.__getitem__)
        self._splits = self.splits.numbered(self._order)
        return notes

    def check_weighted(self, weights: Sequence[float]) -> None:
        """ValueError if no image of a split has a weight in the loss, which would be 0 / 0."""
        for name in SPLITS:
            split = getattr(self.splits, name)
            if len(split) and not any(weights[label] for label in set(split.labels.tolist())):
                raise ValueError(
                    f"model.class_weights={show(weights)}: the classes of all images of the {name} "
                    f"split weigh 0, so that {name}/loss would be 0 / 0; give one of them a weight"
                )

    def _read(self) -> ImageSplits:
        if self._kept_index is None:
            splits = index.load_splits(self.cfg)
        else:
            splits = splits_of_run(self._kept_index, self.cfg, self._keep)
        return splits if self._order is None else splits.numbered(self._order)

    @property
    def classes(self) -> list[str]:
        """Names in label order."""
        return self.splits.classes

    @property
    def class_to_idx(self) -> dict[str, int]:
        return self.splits.class_to_idx

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def class_weights(self) -> list[float] | None:
        """A weight a class from the n_c training images of each, by `cfg.class_weights`; None for
        "none".

        "inverse_frequency": n / (C * n_c), as scikit-learn's "balanced", so that the mean over the
        images is 1. "effective_number": 1 / (1 - beta ** n_c), times what makes the mean over the
        classes 1 (Cui et al. 2019, arXiv 1901.05555).
        """
        counts_C = self._class_counts()
        if self.cfg.class_weights == "inverse_frequency":
            return (counts_C.sum() / (len(counts_C) * counts_C)).tolist()
        if self.cfg.class_weights == "effective_number":
            weights_C = 1 / (1 - self.cfg.effective_number_beta**counts_C)
            return (weights_C / weights_C.mean()).tolist()
        return None

    def class_shares(self) -> list[float]:
        """The share of each class among the training images."""
        counts_C = self._class_counts()
        return (counts_C / counts_C.sum()).tolist()

    def _class_counts(self) -> np.ndarray:
        """Training images of each class, at least 1; DataError if a class has none."""
        counts_C = np.bincount(self.splits.train.labels, minlength=self.num_classes)
        if not counts_C.all():
            lacking = [self.classes[label] for label in np.flatnonzero(counts_C == 0)]
            raise DataError(
                f"data.root: {len(lacking)} classes have no training image "
                f"({', '.join(lacking[:10])}); add some, or take the classes out"
            )
        return counts_C

    def class_counts(self) -> dict[str, dict[str, int]]:
        """The number of images by split and class."""
        return {
            name: dict(zip(self.classes, counts_C.tolist(), strict=True))
            for name in SPLITS
            for counts_C in [
                np.bincount(getattr(self.splits, name).labels, minlength=self.num_classes)
            ]
        }

    def write_thumbnails(self, split: str, indices: Iterable[int], folder: Path) -> None:
        """Small pictures <index>.jpg of images of a split."""
        write_thumbnails(getattr(self.splits, split), indices, folder, Look.of(self.cfg))

    def accumulation(self, world_size: int) -> int:
        """Micro-batches of a rank per optimizer step; ValueError if the batch cannot be cut so."""
        return sampler.accumulation(self.cfg, world_size)

    def train_dataloader(self) -> ThreadedLoader:
        rank, world_size = self._place()
        train = self.splits.train
        order = TrainSampler(train.labels, self.cfg, self.seed, rank, world_size)
        epochs = self.trainer.max_epochs if self.trainer is not None else None
        transform = TrainTransform(self.cfg, self.trusted_packages, epochs)
        cache = self._cache_of(train, trains=True)
        if self.cfg.cache == "device" and cache is not None:
            self._store = store_on(self._device, cache, self.cfg)
            if self._store is not None and self._caches is not None:
                self._caches.pop("train").close()  # the node's memory need not have them too
        return self._loader(train, order, transform, cache, self._store)

    def val_dataloader(self) -> ThreadedLoader:
        return self.eval_loader("val", *self._place())

    def test_dataloader(self) -> ThreadedLoader:
        return self.eval_loader("test", *self._place())

    def eval_loader(self, split: str, rank: int = 0, world_size: int = 1) -> ThreadedLoader:
        """Every image of "train", "val" or "test" once over all ranks, without augmentation."""
        return self.loader_of(getattr(self.splits, split), rank, world_size)

    def loader_of(self, images: Split, rank: int = 0, world_size: int = 1) -> ThreadedLoader:
        """Each of some images once over all ranks, as in an evaluation."""
        size = self.cfg.eval_batch_size or sampler.micro_batch_size(self.cfg, world_size)
        order = EvalSampler(len(images), size, rank, world_size)
        cache = self._cache_of(images, trains=False)
        return self._loader(images, order, EvalTransform(self.cfg), cache)

    def as_evaluated(self, images: Split) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, 3, S, S] uint8 and labels [N] as an evaluation sees them, all in memory."""
        order = EvalSampler(len(images), min(len(images), 64))
        batches = list(self._loader(images, order, EvalTransform(self.cfg)))
        columns = ("images", "labels")
        pixels, labels = (np.concatenate([one[key].numpy() for one in batches]) for key in columns)  # type: ignore[literal-required]
        return pixels, labels

    def decoded(self, images: Split, index: int) -> np.ndarray:
        """An image [3, H, W] uint8 as it is in its file, upright and in sRGB."""
        name, look = images.path(index), Look.of(self.cfg)
        return decode(images.images[index], 0, name, look).transpose(2, 0, 1)

    def _loader(
        self,
        split: Split,
        order: TrainSampler | EvalSampler,
        transform: TrainTransform | EvalTransform,
        cache: Cache | None = None,
        store: OnDevice | None = None,
    ) -> ThreadedLoader:
        return ThreadedLoader(
            split,
            order,
            transform,
            self.seed,
            self._threads(),
            self.cfg.prefetch,
            Look.of(self.cfg),
            self._bad,
            Courier(self._device),
            cache,
            store,
        )

    def _cache_of(self, split: Split, trains: bool) -> Cache | None:
        """What the fit keeps of these images, or an evaluation finds on the disk from a run."""
        if self._caches is None:
            return find_cache(split, self.cfg) if self.cfg.cache == "disk" and not trains else None
        if split is not getattr(self.splits, split.name, None) or trains != (split.name == "train"):
            return None
        return self._caches.get(split.name)

    @property
    def _device(self) -> torch.device | None:
        """Of this rank; None outside of a run."""
        return None if self.trainer is None else self.trainer.strategy.root_device

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        return self.trainer.global_rank, self.trainer.world_size

    def _threads(self) -> int:
        if self.cfg.threads is not None:
            return self.cfg.threads
        return cores_per_rank(self.trainer.num_devices if self.trainer is not None else 1)
