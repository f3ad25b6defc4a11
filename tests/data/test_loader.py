"""Batches do not depend on the number of threads, can be resumed, and leave no thread behind."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from clf.batch import PADDING, ClassificationBatch
from clf.config import DataConfig
from clf.data.datamodule import ClassificationDataModule
from clf.data.decode import open_picture
from clf.data.decoding_threads import start_threads
from clf.data.index import ImageSplits, Split, load_splits
from clf.data.loader import ThreadedLoader
from clf.data.picture import Picture
from clf.data.reader import DataError
from clf.data.sampler import EvalSampler, TrainSampler
from clf.data.transforms import EvalTransform, TrainTransform, size_in_epoch


@pytest.fixture
def splits(folder, config) -> ImageSplits:
    return load_splits(config(folder))


@pytest.fixture
def loader(splits, config):
    """Makes a loader of the 30 training images in 7 batches of 4."""

    def make(threads: int = 2, epoch: int = 0, prefetch: int = 4, **changes) -> ThreadedLoader:
        cfg = config(None, **changes)
        order = TrainSampler(splits.train.labels, cfg, 5)
        order.set_epoch(epoch)
        return ThreadedLoader(splits.train, order, TrainTransform(cfg), 5, threads, prefetch)

    return make


def copies(batches) -> list[dict]:
    return [{key: value.clone() for key, value in batch.items()} for batch in batches]


def assert_equal(ours: list, theirs: list) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in ("images", "labels", "indices"))


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "clf-loader" in thread.name]


# --- what a batch is ---


def test_a_batch_is_channels_last_bytes_with_labels_and_places_in_the_split(loader, splits):
    batches = list(loader())
    assert len(batches) == len(loader()) == 7
    for batch in batches:
        assert batch["images"].shape == (4, 3, 16, 16)
        assert batch["images"].dtype == torch.uint8
        assert batch["images"].is_contiguous(memory_format=torch.channels_last)
        assert batch["labels"].dtype == batch["indices"].dtype == torch.int64
        np.testing.assert_array_equal(batch["labels"], splits.train.labels[batch["indices"]])


def test_each_row_holds_its_own_image(splits, config):
    transform = EvalTransform(config(None))
    loader = ThreadedLoader(splits.train, EvalSampler(30, 7), transform, 0, threads=3)
    rows = [row for batch in loader for row in zip(batch["images"], batch["indices"], strict=True)]
    assert len(rows) == 30
    for image, index in rows:
        assert torch.equal(image, transform(open_picture(splits.train.paths[index])))


def test_padding_rows_are_black_and_count_for_nothing(splits, config):
    images = len(splits.test)
    order = EvalSampler(images, 4, rank=images, world_size=images + 1)
    (batch,) = ThreadedLoader(splits.test, order, EvalTransform(config(None)), 0, threads=2)
    assert batch["indices"].tolist() == [PADDING]
    assert batch["labels"].tolist() == [PADDING]
    assert not batch["images"].any()


# --- the same whatever the threads ---


@pytest.mark.parametrize("kind", ["shuffle", "class_balanced"])
def test_batches_do_not_depend_on_threads_or_prefetch(loader, kind):
    expected = copies(loader(threads=0, sampler=kind))
    for threads, prefetch in ((1, 1), (4, 1), (4, 50)):
        assert_equal(copies(loader(threads, prefetch=prefetch, sampler=kind)), expected)


GROWING = {"image_size": 32, "start_size": 16, "repeats": 2}


def seen_by(ranks: int, splits: ImageSplits, cfg: DataConfig, epoch: int) -> dict[int, tuple]:
    """Place in the epoch's order -> (image, pixels), over all ranks."""
    found: dict[int, tuple] = {}
    for rank in range(ranks):
        order = TrainSampler(splits.train.labels, cfg, 5, rank, ranks)
        order.set_epoch(epoch)
        loader = ThreadedLoader(splits.train, order, TrainTransform(cfg, epochs=5), 5, threads=2)
        for micro, batch in zip(order, loader, strict=True):
            rows = zip(micro.indices_m.tolist(), batch["images"], strict=True)
            found |= dict(zip(micro.positions_m.tolist(), rows, strict=True))
    return found


@pytest.mark.parametrize("changes", [{}, GROWING])
def test_ranks_together_see_what_one_process_sees(splits, config, changes):
    cfg = config(None, **changes)
    alone = seen_by(1, splits, cfg, epoch=2)
    assert sorted(alone) == list(range(28))
    for ranks in (2, 4):
        shared = seen_by(ranks, splits, cfg, epoch=2)
        assert alone.keys() == shared.keys()
        for place, (index, image) in alone.items():
            assert shared[place][0] == index
            assert torch.equal(shared[place][1], image)


def test_a_repeated_image_is_augmented_anew_each_time(splits, config):
    by_image: dict[int, list[bytes]] = {}
    for index, image in seen_by(1, splits, config(None, **GROWING), epoch=0).values():
        by_image.setdefault(index, []).append(image.numpy().tobytes())
    assert {len(versions) for versions in by_image.values()} == {2}
    assert all(first != second for first, second in by_image.values())


# --- images that grow from epoch to epoch ---


@pytest.mark.parametrize(
    ("full", "start", "epochs", "until", "expected"),
    [
        (224, 128, 16, 0.8, [128] * 4 + [160] * 4 + [192] * 4 + [224] * 4),
        (224, 160, 5, 0.6, [160, 160, 192, 224, 224]),
        (32, 16, 5, 0.8, [16, 20, 24, 28, 32]),
        (32, 16, 10, 0.7, [16, 16, 20, 20, 24, 24, 28, 32, 32, 32]),  # 0.7 x 10 is above 7
        (28, 14, 4, 0.5, [14, 20, 28, 28]),
        (224, 128, 1, 0.8, [224]),
        (224, 128, 2, 0.0, [224, 224]),
        (224, None, 2, 0.8, [224, 224]),
    ],
)
def test_images_grow_along_a_straight_line(full, start, epochs, until, expected):
    cfg = DataConfig(image_size=full, start_size=start, grow_until=until)
    assert [size_in_epoch(cfg, epoch, epochs) for epoch in range(epochs)] == expected


def test_training_images_grow_by_epoch_and_those_of_an_evaluation_do_not(splits, config):
    cfg = config(None, image_size=32, start_size=16)
    order = TrainSampler(splits.train.labels, cfg, 5)
    loader = ThreadedLoader(splits.train, order, TrainTransform(cfg, epochs=5), 5, threads=2)
    sizes = []
    for epoch in range(5):
        order.set_epoch(epoch)
        sizes.append({batch["images"].shape[2:] for batch in loader})
    assert sizes == [{(size, size)} for size in (16, 20, 24, 28, 32)]
    evaluated = ThreadedLoader(splits.val, EvalSampler(9, 3), EvalTransform(cfg), 5, threads=2)
    assert {batch["images"].shape[2:] for batch in evaluated} == {(32, 32)}


def test_images_grow_from_the_first_epoch_on(config):
    transform = TrainTransform(config(None, image_size=64, start_size=32), epochs=5)
    assert (transform.in_epoch(0).size, transform.in_epoch(4).size) == (32, 64)


def test_an_image_looks_different_in_each_epoch_and_each_time_in_one(loader):
    first, second = (
        {
            int(index): image
            for b in loader(epoch=epoch)
            for index, image in zip(b["indices"], b["images"], strict=True)
        }
        for epoch in (0, 1)
    )
    both = first.keys() & second.keys()
    assert both
    assert not any(torch.equal(first[index], second[index]) for index in both)
    shown = [
        (int(index), image.numpy().tobytes())
        for b in loader(sampler="class_balanced")
        for index, image in zip(b["indices"], b["images"], strict=True)
    ]
    assert len({index for index, _ in shown}) < len(shown) == len(set(shown))


def test_no_global_generator_is_touched(loader):
    numpy, pytorch = np.random.get_state(), torch.get_rng_state()
    list(loader(threads=2))
    assert np.array_equal(np.random.get_state()[1], numpy[1])
    assert torch.equal(torch.get_rng_state(), pytorch)


def test_batches_made_under_inference_mode_can_be_trained_on(loader):
    with torch.inference_mode():
        batches = list(loader(threads=2))
    assert not any(value.is_inference() for batch in batches for value in batch.values())
    assert_equal(copies(batches), copies(loader(threads=0)))


# --- threads ---


@pytest.mark.parametrize("count", [1, 3])
def test_each_loader_thread_computes_on_one_core_and_the_caller_on_its_own_number(count):
    here = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        pool, together = start_threads(count), threading.Barrier(count)

        def cores() -> int:
            together.wait(timeout=60)
            torch.ones(3, 500, 500).sum()  # a thread takes the process's number at its first work
            return torch.get_num_threads()

        assert [future.result() for future in [pool.submit(cores) for _ in range(count)]] == (
            [1] * count
        )
        pool.shutdown()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(here)


def test_no_thread_starts_before_the_first_batch_is_asked_for(loader):
    iterator = iter(loader())
    assert not loader_threads()
    next(iterator)
    assert loader_threads()
    iterator.close()


@pytest.mark.parametrize("leave", ["close", "delete", "raise", "finish"])
def test_leaving_by_any_way_ends_the_threads(loader, leave):
    iterator = iter(loader())
    next(iterator)
    if leave == "close":
        iterator.close()
    elif leave == "delete":
        del iterator
    elif leave == "finish":
        list(iterator)
    else:
        iterator.close()

        def stop_at_the_first() -> None:
            for _ in loader():
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stop_at_the_first()
    assert not loader_threads()


def test_without_threads_the_caller_itself_reads(loader, monkeypatch):
    seen = set()

    def spy(*arguments) -> Picture:
        seen.add(threading.current_thread())
        return open_picture(*arguments)

    monkeypatch.setattr("clf.data.loader.open_picture", spy)
    here = torch.get_num_threads()
    list(loader(threads=0))
    assert seen == {threading.current_thread()}
    assert torch.get_num_threads() == here


def test_the_loader_counts_the_seconds_that_its_caller_waits_and_no_others(loader, monkeypatch):
    now = [100.0]

    def slow(*arguments) -> Picture:
        now[0] += 0.5
        return open_picture(*arguments)

    monkeypatch.setattr("clf.data.loader.open_picture", slow)
    monkeypatch.setattr("clf.data.loader.time", SimpleNamespace(perf_counter=lambda: now[0]))
    slow_loader, images = loader(threads=0), 0
    for _ in range(2):
        for batch in slow_loader:
            images += int((batch["indices"] != PADDING).sum())
            now[0] += 100.0  # a training step
    assert slow_loader.waited_s == pytest.approx(0.5 * images)


# --- bad files ---


@pytest.mark.parametrize("threads", [0, 2])
def test_a_bad_file_reaches_the_caller_with_its_name_and_ends_the_threads(
    tmp_path, splits, config, threads
):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8 no more")
    broken = Split([*splits.train.paths[:8], str(bad)], np.zeros(9, int))
    loader = ThreadedLoader(
        broken, EvalSampler(9, 3), EvalTransform(config(None)), 0, threads, prefetch=1
    )
    seen = []
    with pytest.raises(DataError, match=rf"{bad}: cannot be read as an image") as caught:
        seen.extend(loader)
    assert len(seen) == 2
    assert caught.value.__notes__ == [f"while reading {bad}"]
    assert not loader_threads()


def test_a_fault_in_an_augmentation_names_the_image(loader, monkeypatch, splits):
    def broken(*_):
        raise RuntimeError("kernel")

    monkeypatch.setattr("clf.data.transforms.jitter", broken)
    with pytest.raises(RuntimeError, match="kernel") as caught:
        next(iter(loader()))
    assert caught.value.__notes__[0].removeprefix("while reading ") in splits.train.paths


# --- resuming ---


@pytest.mark.parametrize("done", [0, 1, 3, 7])
@pytest.mark.parametrize("threads", [0, 2])
def test_an_epoch_goes_on_after_the_batches_that_were_had(loader, done, threads):
    whole = copies(loader(threads, epoch=2))
    first = loader(threads, epoch=2)
    iterator = iter(first)
    for _ in range(done):
        next(iterator)
    state = first.state_dict()
    iterator.close()
    second = loader(threads, epoch=2)
    second.load_state_dict(state)
    rest = copies(second)
    assert len(rest) == 7 - done
    if rest:
        assert_equal(rest, whole[done:])
    assert len(second) == 7
    assert_equal(copies(second), whole)  # only one iteration is a remainder


def test_the_state_of_another_epoch_does_not_shorten_this_one(loader):
    first = loader(epoch=2)
    first.load_state_dict({"epoch": 1, "batches": 3})
    assert_equal(copies(first), copies(loader(epoch=2)))


# --- under Lightning ---


class Recorder(LightningModule):
    """Trains nothing and keeps what it was shown, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[ClassificationBatch]] = {}

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> torch.Tensor:
        self.seen.setdefault(self.current_epoch, []).append(batch)
        return self.weight.sum()

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveAt(Callback):
    """A checkpoint in mid-epoch, then no more."""

    def __init__(self, path, epoch: int, batch: int) -> None:
        self.path, self.place = path, (epoch, batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if (trainer.current_epoch, batch_idx) == self.place:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(data: ClassificationDataModule, *callbacks: Callback, resume=None) -> Recorder:
    model = Recorder()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    return model


@pytest.mark.parametrize(("threads", "changes"), [(0, {}), (2, GROWING)])
def test_a_run_resumed_in_mid_epoch_sees_the_batches_that_were_left(
    tmp_path, folder, config, threads, changes
):
    def data() -> ClassificationDataModule:
        return ClassificationDataModule(config(folder, threads=threads, **changes), seed=5)

    whole = fit(data()).seen
    assert {epoch: len(batches) for epoch, batches in whole.items()} == {0: 7, 1: 7, 2: 7}
    sizes = [batches[0]["images"].shape[-1] for batches in whole.values()]
    assert sizes == ([16, 24, 32] if changes else [16, 16, 16])
    orders = [[b["indices"].tolist() for b in batches] for batches in whole.values()]
    assert orders[0] != orders[1] != orders[2]  # Lightning set the epoch of the loader

    path = tmp_path / "mid.ckpt"
    first = fit(data(), SaveAt(path, epoch=1, batch=2)).seen
    assert_equal(first[1][:3], whole[1][:3])
    resumed = fit(data(), resume=path).seen
    assert resumed.keys() == {1, 2}
    assert_equal(resumed[1], whole[1][3:])
    assert_equal(resumed[2], whole[2])
    assert not loader_threads()
