"""Batches sent to the device ahead of their step: the same ones, in the same order, and none counts
before it is handed out. A stand-in for torch.cuda notes what is asked of it."""

import contextlib
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from clf.config import DataConfig
from clf.data.ahead import Courier, OnItsWay
from clf.data.index import load_splits
from clf.data.loader import Filling, ThreadedLoader
from clf.data.reader import DataError
from clf.data.sampler import TrainSampler
from clf.data.transforms import TrainTransform


class Cuda:
    """Two streams, and what happens in each."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = "computing"

    def Stream(self, device: Any) -> Any:
        arrived = lambda: self.log.append("event after the copies") or "event"  # noqa: E731
        return SimpleNamespace(name="copying", record_event=arrived)

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Any:
        before, self.now = self.now, stream.name
        yield
        self.now = before

    def current_stream(self, device: Any) -> Any:
        wait = lambda event: self.log.append(f"{self.now} waits for the {event}")  # noqa: E731
        return SimpleNamespace(name=self.now, wait_event=wait)


class Cargo:
    """Stands for a tensor."""

    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def to(self, device: Any, non_blocking: bool) -> "Cargo":
        assert non_blocking
        self.cuda.log.append(f"{self.name} copied in {self.cuda.now}")
        return Cargo(self.cuda, f"{self.name} there")

    def record_stream(self, stream: Any) -> None:
        self.cuda.log.append(f"{self.name} in use by {stream.name}")


def test_a_gpu_copies_in_a_stream_of_its_own_and_the_step_waits_for_the_copy_alone():
    cuda = Cuda()
    courier = Courier(torch.device("cuda", 0), cuda)
    batch: Any = {"images": Cargo(cuda, "images")}
    sent = courier.send(batch)
    assert cuda.log == ["images copied in copying", "event after the copies"]
    cuda.log.clear()
    there: Any = courier.hand_out(sent)
    assert there["images"].name == "images there"
    assert cuda.log == ["computing waits for the event", "images there in use by computing"]


def test_a_gpu_makes_the_pictures_that_live_on_it_in_that_stream_too():
    cuda = Cuda()

    def pictures(rows: Any) -> Any:
        cuda.log.append(f"made of {rows.name} in {cuda.now}")
        return Cargo(cuda, "pictures")

    batch: Any = {"images": Cargo(cuda, "rows"), "labels": Cargo(cuda, "labels")}
    there: Any = Courier(torch.device("cuda", 0), cuda).send(batch, pictures).batch
    assert cuda.log[:3] == [
        "made of rows in copying",
        "pictures copied in copying",
        "labels copied in copying",
    ]
    assert batch["images"].name == "rows"
    assert there["images"].name == "pictures there"


def test_without_a_gpu_a_batch_stays_as_it_is():
    batch: Any = {"images": torch.zeros(1)}
    for courier in (Courier(None), Courier(torch.device("cpu"))):
        assert courier.hand_out(courier.send(batch)) is batch


class Noting(Courier):
    """A device whose memory is a copy, made when the batch is sent."""

    def __init__(self) -> None:
        super().__init__(None)
        self.log: list[tuple[str, list[int]]] = []

    def send(self, batch: Any, pictures: None = None) -> OnItsWay:
        self.log.append(("sent", batch["indices"].tolist()))
        return OnItsWay({key: value.clone() for key, value in batch.items()}, None)  # type: ignore

    def hand_out(self, sent: OnItsWay) -> Any:
        self.log.append(("handed out", sent.batch["indices"].tolist()))
        return sent.batch


@pytest.fixture
def make(folder, config):
    def loader(courier: Courier | None, threads: int = 2) -> ThreadedLoader:
        cfg: DataConfig = config(folder)
        splits = load_splits(cfg)
        order = TrainSampler(splits.train.labels, cfg, 5)
        transform = TrainTransform(cfg)
        return ThreadedLoader(splits.train, order, transform, 5, threads, 4, courier=courier)

    return loader


@pytest.fixture
def filled_at_once(monkeypatch):
    """Threads that are always done when they are asked."""
    whole = Filling.is_whole

    def wait_and_look(self: Filling) -> bool:
        for part in self.parts:
            part.exception()
        return whole(self)

    monkeypatch.setattr(Filling, "is_whole", wait_and_look)


@pytest.mark.usefixtures("filled_at_once")
def test_the_next_batch_is_sent_before_a_step_begins_and_counts_when_it_is_handed_out(make):
    courier, plain = Noting(), list(make(None))
    loader = make(courier)
    for number, batch in enumerate(loader, 1):
        assert all(torch.equal(batch[key], plain[number - 1][key]) for key in batch)
        assert loader.state_dict() == {"epoch": 0, "batches": number}
        assert sum(what == "sent" for what, _ in courier.log) == min(number + 1, len(loader))
    for what in ("sent", "handed out"):
        assert [rows for one, rows in courier.log if one == what] == [
            batch["indices"].tolist() for batch in plain
        ]


@pytest.mark.usefixtures("filled_at_once")
def test_a_run_goes_on_with_the_batch_that_was_sent_and_not_handed_out(make):
    plain, loader = list(make(None)), make(Noting())
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    state = loader.state_dict()
    later = make(Noting())
    later.load_state_dict(state)
    rest = [batch["indices"].tolist() for batch in later]
    assert rest == [batch["indices"].tolist() for batch in plain[3:]]


def test_in_the_calling_thread_each_batch_is_sent_too(make):
    courier = Noting()
    batches = list(make(courier, threads=0))
    assert [what for what, _ in courier.log] == ["sent", "handed out"] * len(batches)


@pytest.mark.usefixtures("filled_at_once")
def test_an_image_that_cannot_be_read_stops_the_run_at_its_own_batch(make):
    loader = make(Noting())
    broken = list(make(None))[2]["indices"][0]
    images = list(loader.split.images)
    images[int(broken)] = b"no image"
    loader.split = replace(loader.split, images=images)
    batches = iter(loader)
    next(batches)
    next(batches)
    with pytest.raises(DataError, match="cannot be read"):
        next(batches)
