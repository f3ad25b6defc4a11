"""What a run says of its speed, and what it tells its user to set."""

import io
import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from clf.config import DataConfig
from clf.cores import CORES_PER_RANK
from clf.tracking import bounds
from clf.tracking.bounds import Speed, advice, file_system, in_words
from clf.tracking.epochs import ProgressBar
from launch.terminal.follow import Follower
from launch.terminal.tables import print_status
from slurm.state import read_state

BUSY, IDLE = 0.9, 0.3


def remedy(data: DataConfig, cores_busy: float) -> str:
    found = advice(0.34, 60.0, data, 8, cores_busy)
    assert found is not None
    sentence, _, remedy = found.partition(": ")
    assert sentence == "training waits for its data 34 % of the time (rank 0)"
    return remedy


def test_little_waiting_is_not_worth_a_word() -> None:
    data = DataConfig(name="digits")
    assert advice(0.1, 60.0, data, 8, BUSY) is None
    assert advice(0.5, 4.9, data, 8, BUSY) is None, "a run of a few steps waits for its first batch"
    assert advice(0.11, 5.0, data, 8, BUSY) is not None


def test_fewer_threads_than_cores_come_first() -> None:
    assert remedy(DataConfig(threads=2), IDLE).startswith("set data.threads=null; it is 2, and")
    assert "data.threads" not in remedy(DataConfig(threads=8), BUSY)
    assert "data.threads" not in remedy(DataConfig(), BUSY)


def test_busy_cores_want_less_work_or_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CORES_PER_RANK, raising=False)
    plain, cached = DataConfig(), DataConfig(cache="ram")
    less = "set data.cache=ram or disk, which decodes each image once"
    assert remedy(plain, BUSY) == f"its 8 cores are busy decoding; {less}"
    assert remedy(cached, BUSY) == "its 8 cores are busy decoding; store the images smaller"
    monkeypatch.setenv(CORES_PER_RANK, "8")  # a job of SLURM
    more = "give it more (slurm.cpus_per_gpu)"
    assert remedy(plain, BUSY) == f"its 8 cores are busy decoding; {less}, or {more}"
    assert remedy(cached, BUSY) == f"its 8 cores are busy decoding; {more}"


def test_a_network_file_system_is_read_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bounds, "file_system", lambda path: "nfs4")
    data = DataConfig(root=str(tmp_path))
    assert remedy(data, IDLE).startswith("its cores wait for a network file system (nfs4); set")
    assert "data.stage=node" in remedy(data, IDLE)
    assert "stage" not in remedy(data, BUSY)
    staged = DataConfig(root=str(tmp_path), stage="node")
    assert remedy(staged, IDLE).startswith("its cores wait for the disk")
    monkeypatch.setattr(bounds, "file_system", lambda path: "ext4")
    assert (
        remedy(data, IDLE)
        == "its cores wait for the disk; set data.cache=ram, which reads each file once"
    )
    cached = DataConfig(root=str(tmp_path), cache="ram")
    assert remedy(cached, IDLE).startswith("its cores wait for the disk; tar files and shards read")


def test_a_path_is_on_the_innermost_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nserver:/x /home nfs4 rw 0 0\nbox /home/my\\040disk xfs rw 0 0\n"
    )
    assert file_system(Path("/homes/x"), mounts) == "ext4"
    assert file_system(Path("/home/x"), mounts) == "nfs4"
    assert file_system(Path("/home/my disk/x"), mounts) == "xfs"
    assert file_system(Path("/home/x"), tmp_path / "none") == ""


def test_the_numbers_read_as_a_person_would_write_them() -> None:
    whole = Speed(1234.5, 1180.2, 0.123, 3.14, "GPU")
    assert in_words(asdict(whole)) == [
        "1,234 images/s (1,180 on average)",
        "waited for data 12 %",
        "GPU memory 3.1 GiB",
    ]
    assert in_words(asdict(Speed())) == in_words({}) == []


def test_the_progress_bar_shows_speed_and_waiting() -> None:
    measured = SimpleNamespace(speed=Speed(1234.5, 1180.2, 0.123))
    trainer = SimpleNamespace(callbacks=[object(), measured], loggers=[], progress_bar_metrics={})
    shown = ProgressBar().get_metrics(trainer, None)  # type: ignore[arg-type]
    assert shown == {"images/s": "1,234", "waiting": "12 %"}
    trainer.callbacks = []
    assert ProgressBar().get_metrics(trainer, None) == {}  # type: ignore[arg-type]


def test_a_followed_job_says_once_what_to_set_and_its_status_too(tmp_path: Path) -> None:
    out = Console(file=io.StringIO(), width=200)
    follower = Follower(out, SimpleNamespace(job_id="1"), tmp_path)
    follower.begun -= 10
    speed = asdict(Speed(1234.5, 1180.2, 0.34, 3.14, "GPU", "set data.threads=null"))
    (tmp_path / "status.json").write_text(json.dumps({"state": "running", "speed": speed}))
    follower._print_epochs()
    follower._print_epochs()
    assert out.file.getvalue() == "note: set data.threads=null\n"
    print_status(out, read_state(tmp_path))
    numbers = "1,234 images/s (1,180 on average) · waited for data 34 % · GPU memory 3.1 GiB"
    shown = " ".join(out.file.getvalue().split())
    assert f"speed {numbers} what bounds it set data.threads=null" in shown
