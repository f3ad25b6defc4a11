"""Checkpoints within an epoch: written while the training goes on, and as good as none was."""

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from clf.atomic import PatientWriter, Unwritten
from clf.config import CheckpointConfig, RunConfig
from clf.resilience import midway, saving
from clf.resilience.saving import BackgroundCheckpointIO, on_host
from clf.run_folder import RunFolder, read_status
from tests import tiny
from tests.chaos.equal import differences
from tests.disk import Disk, small_disk, why_not_mounted

STEPS = 6  # of an epoch, each of four micro-batches


def config(root: Path, **settings: Any) -> RunConfig:
    images = {"image_size": 16, "eval_resize": 16}
    settings = {"limit_batches": 4 * STEPS, **settings}
    return tiny.config(str(root / "digits"), data=images, **settings)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("midway")


@pytest.fixture(scope="module")
def whole(root: Path) -> tuple[RunFolder, dict[str, Any]]:
    """A run that saves at the ends of its epochs only, and what its rank saw."""
    return RunFolder(root / "whole"), tiny.fit(config(root), str(root / "whole"))


def test_a_killed_run_goes_on_within_the_epoch_and_reads_no_image_twice(
    root: Path, whole: tuple[RunFolder, dict[str, Any]], tmp_path: Path
) -> None:
    cfg = config(root, checkpoint=CheckpointConfig(every_steps=2))
    first = tiny.fit(cfg, str(tmp_path), stop_after_step=3)
    second = tiny.fit(cfg, str(tmp_path), stop_after_step=STEPS + 5)
    third = tiny.fit(cfg, str(tmp_path))
    seen = [first["indices"][: 4 * 2], second["indices"][: 4 * (STEPS + 2)], third["indices"]]
    assert [batch for start in seen for batch in start] == whole[1]["indices"]
    assert differences(RunFolder(tmp_path), whole[0]) == []


def test_saves_by_the_minute_are_after_the_same_step_on_all_ranks(
    ranks: Any, root: Path, tmp_path: Path
) -> None:
    cfg = config(root, gpus=2, strategy="ddp", checkpoint=CheckpointConfig(every_minutes=0.005))
    cfg.model._target_ = "tests.chaos.network.Slow"
    steps = ranks(2).run(saves, cfg, str(tmp_path))
    assert steps[0] == steps[1]
    assert len(steps[0]) >= 2


def saves(cfg: RunConfig, folder: str) -> list[int]:
    """The steps after which a run saves by the minute."""
    found: list[int] = []
    save = midway.SaveMidway.save

    def recording(self: Any, trainer: Any) -> None:
        found.append(trainer.global_step)
        save(self, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(midway.SaveMidway, "save", recording)
        tiny.fit(cfg, folder)
    return found


def test_the_training_goes_on_while_a_checkpoint_is_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, save, waited = threading.Event(), saving.save, []

    def slow(content: Any, path: Path) -> None:
        if content["global_step"] == 2:
            waited.append(trained.wait(60))
        save(content, path)

    class Watch(tiny.StopAfter):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                trained.set()

    monkeypatch.setattr(saving, "save", slow)
    monkeypatch.setattr(tiny, "StopAfter", Watch)
    tiny.fit(config(root, epochs=1, checkpoint=CheckpointConfig(every_steps=2)), str(tmp_path))
    assert waited == [True]
    status = read_status(tmp_path) or {}
    assert status["checkpoint"]["file"] == "last.ckpt"
    assert status["checkpoint"]["step"] == STEPS
    assert status["checkpoint"]["bytes"] == RunFolder(tmp_path).last.stat().st_size


def test_a_copy_is_not_changed_by_the_next_step_and_tied_weights_stay_tied() -> None:
    weight = torch.ones(3)
    state = torch.nn.Linear(2, 2).state_dict()
    copied = on_host({"a": weight, "b": [weight, (weight[1:], 5)], "state": state})
    weight += 1
    assert copied["a"].tolist() == [1, 1, 1]
    assert copied["b"][0] is copied["a"]
    assert copied["b"][1][0].tolist() == [1, 1]
    assert copied["b"][1][1] == 5
    assert copied["state"]._metadata == state._metadata


def full(content: Any, path: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


def test_a_full_disk_costs_no_step_and_what_it_held_up_is_written_later(
    root: Path,
    whole: tuple[RunFolder, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk: dict[str, Any] = {"full": False, "change": [STEPS + 3, 3]}
    save, held = saving.save, []

    class Disk(tiny.StopAfter):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if [trainer.global_step] == disk["change"][-1:]:
                disk["change"].pop()
                trainer.strategy.checkpoint_io._background.wait()
                held.append(torch.load(RunFolder(tmp_path).last, weights_only=True)["global_step"])
                disk["full"] = not disk["full"]

    monkeypatch.setattr(saving, "save", lambda *args: full(*args) if disk["full"] else save(*args))
    monkeypatch.setattr(tiny, "StopAfter", Disk)
    cfg = config(root, checkpoint=CheckpointConfig(every_steps=1))
    with pytest.warns(UserWarning, match=r"last.ckpt cannot be written .*Make space") as warned:
        tiny.fit(cfg, str(tmp_path))
    assert len([one for one in warned if "cannot be written" in str(one.message)]) == 1
    assert set(held) == {2}, "the old one is intact"
    assert differences(RunFolder(tmp_path), whole[0]) == []


def test_a_run_that_could_not_save_at_its_end_says_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saving, "save", full)
    message = r"checkpoints/best\.ckpt \(No space left on device\), checkpoints/last.*df -h"
    with pytest.warns(UserWarning, match="Make space"), pytest.raises(Unwritten, match=message):
        tiny.fit(config(root, epochs=1), str(tmp_path / "end"))
    assert (read_status(tmp_path / "end") or {})["state"] == "failed"
    with pytest.warns(UserWarning, match="Make space"):
        left = tiny.fit(config(root, epochs=1), str(tmp_path / "left"), leave_after_step=2)
    assert "scalars" not in left
    assert "checkpoints/last.ckpt (No space left on device)" in capfd.readouterr().out
    status = read_status(tmp_path / "left") or {}
    assert status["state"] == "preempted"
    assert list(status["not_written"]) == ["checkpoints/last.ckpt"]
    assert not RunFolder(tmp_path / "left").last.exists()


def test_what_waits_for_the_disk_keeps_its_content_and_is_not_more_than_a_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = PatientWriter()
    writer, save = BackgroundCheckpointIO(writer=disk), saving.save
    monkeypatch.setattr(saving, "save", full)
    with pytest.warns(UserWarning, match="cannot be written"):
        waiting = five_epochs(writer, tmp_path)
    assert set(waiting.values()) == {"No space left on device"}
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(saving, "save", save)
    assert writer.wait() == {}
    held = {path.name: torch.load(path)["global_step"] for path in tmp_path.iterdir()}
    assert held == {"best.ckpt": 5, "last.ckpt": 5, "top-epoch005.ckpt": 5}
    assert [path.name for path in disk.missing] == ["top-epoch003.ckpt"], "it is given up, and said"


def five_epochs(writer: BackgroundCheckpointIO, folder: Path) -> dict[Path, str]:
    """Save five epochs, each better than the one before; of the top ones 3 and 5 are to stay."""
    for epoch in range(1, 6):
        writer.save_checkpoint({"global_step": epoch}, folder / "best.ckpt")
        writer.link(folder / "best.ckpt", folder / f"top-epoch00{epoch}.ckpt")
        writer.save_checkpoint({"global_step": epoch}, folder / "last.ckpt")
    writer.delete(folder, "top-*.ckpt", {folder / f"top-epoch00{n}.ckpt" for n in (3, 5)})
    return writer.wait()


WAYS = {"limit": "File too large"}
if not why_not_mounted():
    WAYS |= {"full": "No space left on device", "read-only": "Read-only file system"}


@contextmanager
def stingy(way: str, disk: Disk) -> Iterator[None]:
    """A real file system that takes no megabyte more, into which small files went before."""
    if way in ("full", "read-only"):
        with disk.full() if way == "full" else disk.read_only():
            yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_twice(writer: BackgroundCheckpointIO, path: Path) -> list[str]:
    """Save two megabytes, twice; why each is not written."""
    found = []
    for _ in range(2):
        writer.save_checkpoint({"weights": torch.zeros(500_000)}, path)
        found.append(writer.wait()[path])
    return found


@pytest.mark.parametrize("way", WAYS)
def test_a_real_disk_that_takes_nothing_leaves_the_old_checkpoint_and_no_half_file(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientWriter, "WARN_EVERY_S", 0.0)
    lines: list[str] = []
    writer = BackgroundCheckpointIO(report=lines.append)
    with small_disk(tmp_path / "disk") as disk:
        last = disk.folder / "last.ckpt"
        writer.save_checkpoint({"clf_train_metrics": {}, "global_step": 7}, last)
        assert writer.wait() == {}
        with stingy(way, disk), pytest.warns(UserWarning, match=rf"last\.ckpt.*{WAYS[way]}"):
            waiting = save_twice(writer, last)
        assert waiting == [WAYS[way]] * 2
        assert [path.name for path in disk.folder.iterdir()] == ["last.ckpt"]
        assert torch.load(last)["global_step"] == 7
    assert [line.split(":")[0] for line in lines] == ["saved last.ckpt after step 7"]


def test_what_the_thread_cannot_save_is_the_error_of_the_training(tmp_path: Path) -> None:
    writer = BackgroundCheckpointIO()
    writer.save_checkpoint({"callback": lambda: None}, tmp_path / "last.ckpt")
    with pytest.raises(Exception, match="lambda"):
        writer.wait()
    assert list(tmp_path.iterdir()) == []
    writer.save_checkpoint({"global_step": 3}, tmp_path / "last.ckpt")
    assert writer.wait() == {}


def test_a_checkpoint_that_knows_of_a_table_waits_for_it(tmp_path: Path) -> None:
    """A kill between the two would lose the table: the run that goes on has done that epoch."""
    disk, table = PatientWriter(), tmp_path / "val_epoch001.csv"
    space: dict[str, bool] = {}

    def write() -> None:
        if not space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        table.write_text("class,support\n")

    writer = BackgroundCheckpointIO(writer=disk)
    with pytest.warns(UserWarning, match="val_epoch001.csv cannot be written"):
        disk.write(table, write, keep=True)
    writer.save_checkpoint({"global_step": 8}, tmp_path / "last.ckpt")
    assert writer.wait() == {tmp_path / "last.ckpt": "No space left on device"}
    space["there is"] = True
    assert writer.wait() == {}
    assert {path.name for path in tmp_path.iterdir()} == {table.name, "last.ckpt"}
