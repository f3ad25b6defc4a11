"""A disk that is full or read-only costs a run nothing that can be kept, and says so."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from lightning import Callback, Trainer

from clf import run
from clf.atomic import PatientWriter, Unwritten
from clf.run_folder import RunFolder, read_scalars, read_status
from clf.tracking.callbacks import StatusFile
from clf.tracking.csv_logger import CsvLogger
from slurm.records import read_events, record_event
from tests import tiny
from tests.disk import Disk, small_disk

FAST = {"learning_rate": 0.02, "warmup_epochs": 0}
TIMED = (
    "train/images_per_second",
    "train/images_per_second_average",
    "train/waiting_share",
    "train/process_memory_gib",
)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as made:
        yield made


@pytest.mark.filterwarnings("ignore:.*cannot be written")
@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_rows_that_a_disk_does_not_take_follow_and_none_is_cut(disk: Disk, kind: str) -> None:
    path = disk.folder / "metrics.csv"
    logger = CsvLogger(path)
    for step in range(40):
        logger.log_metrics({"train/loss": step / 8}, step)
    with getattr(disk, kind)():
        for step in range(40, 1000):  # more than the file's last block has room for
            logger.log_metrics({"train/loss": step / 8}, step)
            if step % 50 == 0:
                logger.log_metrics({"val/loss": step / 4}, step)
        text = path.read_text()
        assert text.endswith("\n")
        assert {len(row) for row in csv.reader(text.splitlines())} <= {3, 4}
        assert len(read_scalars(disk.folder)) < 1000
    logger.log_metrics({"train/loss": 125.0}, 1000)
    rows = read_scalars(disk.folder)
    assert [(int(row["step"]), float(row["train/loss"])) for row in rows] == [
        (step, step / 8) for step in range(1001)
    ]
    assert [row["step"] for row in rows if row["val/loss"]] == [*map(str, range(50, 1000, 50))]


class Trouble(Callback):
    """The disk takes nothing after step 3 of the first epoch; it is well again after step 6 of the
    second, if it ever is. Checkpoints lie on another disk."""

    def __init__(self, disk: Disk, kind: str, ends: bool) -> None:
        self.disk, self.kind, self.ends, self.stack = disk, kind, ends, ExitStack()
        self.has_begun = False

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3 and not self.has_begun:
            self.has_begun = True
            self.stack.enter_context(getattr(self.disk, self.kind)())
        if trainer.global_step == 16 and self.ends:
            self.stack.close()


def fit(disk: Disk, *trouble: Trouble) -> dict[str, Any]:
    folder = disk.folder.parent / "other"
    (folder / f"checkpoints{len(trouble)}").mkdir(parents=True)
    place = disk.folder / f"run{len(trouble)}"
    place.mkdir()
    (place / "checkpoints").symlink_to(folder / f"checkpoints{len(trouble)}")
    cfg = tiny.config(str(folder / "digits"), limit_batches=40, model=FAST)
    build = run.callbacks

    def with_trouble(*arguments: Any) -> list[Callback]:
        return [*trouble, *build(*arguments)]

    with patch.object(run, "callbacks", with_trouble), patch.object(StatusFile, "EVERY_S", 0.0):
        return tiny.fit(cfg, str(place))


@pytest.mark.parametrize("kind", ["full", "read_only"])
def test_a_disk_that_takes_nothing_for_a_while_costs_a_run_nothing(disk: Disk, kind: str) -> None:
    whole = fit(disk)
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        troubled = fit(disk, Trouble(disk, kind, ends=True))
    assert sum("cannot be written" in str(one.message) for one in caught) == 1
    assert troubled["losses"] == whole["losses"]
    for name in (path.relative_to(disk.folder / "run0") for path in _files(disk.folder / "run0")):
        assert (disk.folder / "run1" / name).is_file(), name
        if name.parts[0] == "per_class":
            old, new = (disk.folder / run / name for run in ("run0", "run1"))
            assert old.read_text() == new.read_text()
    untimed = [
        [{k: v for k, v in row.items() if k not in TIMED} for row in read_scalars(place)]
        for place in (disk.folder / "run0", disk.folder / "run1")
    ]
    assert untimed[0] == untimed[1]
    status = read_status(disk.folder / "run1")
    assert status is not None
    assert (status["state"], status["not_written"]) == ("finished", {})


def test_a_run_whose_disk_stays_full_ends_with_a_line_that_names_the_files(
    disk: Disk, capsys: pytest.CaptureFixture[str]
) -> None:
    trouble = Trouble(disk, "full", ends=False)
    with (
        trouble.stack,
        pytest.warns(UserWarning, match="cannot be written"),
        pytest.raises(Unwritten) as ended,
    ):
        fit(disk, trouble)
    said = str(ended.value)
    assert "of " + str(disk.folder / "run1") in said
    for name in ("per_class/test.csv", "predictions/test.npz", "status.json"):
        assert f"{name} (No space left on device)" in said
    assert f"df -h {disk.folder / 'run1'}" in said
    assert "test top-1 " in capsys.readouterr().out, "the numbers are not lost with the files"


@pytest.mark.filterwarnings("ignore:.*cannot be written")
def test_status_says_what_is_missing_where_it_can_be_written_itself(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "runs" / "one")

    def refused() -> None:
        raise OSError(122, "Disk quota exceeded")

    folder.writer.write(folder.per_class / "val.csv", refused, keep=True)
    assert StatusFile(folder)._not_written() == {"per_class/val.csv": "Disk quota exceeded"}


@pytest.mark.filterwarnings("ignore:.*cannot be written")
def test_an_event_that_is_cut_spoils_no_other(disk: Disk) -> None:
    record_event(disk.folder, "start")
    with disk.full():
        for _ in range(100):
            record_event(disk.folder, "requeued")
    with RunFolder(disk.folder).events.open("a") as file:
        file.write('{"time": 1')
    record_event(disk.folder, "finished")
    events = [event["event"] for event in read_events(disk.folder)]
    assert (events[0], events[-1], len(events) < 102) == ("start", "finished", True)


def test_notes_that_were_not_written_are_written_with_the_next(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, PatientWriter())
    with small_disk(tmp_path / "disk") as disk:
        folder = RunFolder(disk.folder)
        with disk.read_only(), pytest.warns(UserWarning, match="notes.txt cannot be written"):
            assert folder.add_notes(["one"]) == ["one"]
        assert folder.add_notes(["one", "two"]) == ["two"]
        assert folder.notes == ["one", "two"]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
