"""The state that follows from the records, status.json and SLURM, even where they disagree."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from clf.config import RunConfig
from clf.run_folder import SILENT_S, RunFolder
from launch.terminal.tables import print_status
from slurm import queue, records, state
from slurm.records import LOCAL, note_cancelled, read_job, read_sweep, record_error, write_job
from slurm.state import local_job_lives, read_state, read_states, what_it_does


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return RunFolder.create(tmp_path / "run").path


@pytest.fixture
def slurm_says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Sets SLURM's word on job 7; None: it knows no such job."""
    monkeypatch.setattr(state, "has_slurm", lambda: True)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)

    def say(word: str | None) -> None:
        job = None if word is None else queue.QueuedJob("7", word, reason="Resources")
        monkeypatch.setattr(queue, "job", lambda job_id: job)
        monkeypatch.setattr(queue, "jobs", lambda ids: {"7": job} if job and job.lives else {})

    return say


@pytest.fixture
def process(run_dir: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the run's logs in its command, as submitit starts it."""
    command = [sys.executable, "-c", "input()", str(run_dir / "logs")]
    started = subprocess.Popen(command, stdin=subprocess.PIPE)
    yield started
    started.kill()
    started.wait()


def write_status(run_dir: Path, word: str, age_s: float = 0, **more: Any) -> None:
    content = {"state": word, "updated": time.time() - age_s, "epoch": 1, "epochs": 9, **more}
    RunFolder(run_dir).status.write_text(json.dumps(content))


def submitted(run_dir: Path, cluster: str, job_id: str = "7", age_s: float = 0) -> None:
    write_job(RunConfig(gpus=1), run_dir, job_id, cluster)
    record = read_job(run_dir)
    RunFolder.write_json(RunFolder(run_dir).job, {**record, "submitted": time.time() - age_s})


@pytest.mark.parametrize(
    ("word", "status", "age_s", "expected", "does"),
    [
        ("PENDING", None, 0, "queued", "is job 7 of SLURM, pending"),
        ("RUNNING", None, 0, "starting", "is job 7 of SLURM, running"),
        ("RUNNING", "running", 0, "running", "is job 7 of SLURM, running"),
        ("COMPLETING", "running", 0, "ending", "is job 7 of SLURM, completing"),
        ("RUNNING", "preempted", 0, "starting", "is job 7 of SLURM, running"),
        # The status is of the start before this submission.
        ("PENDING", "failed", 900, "queued", "is job 7 of SLURM, pending"),
        ("RUNNING", "running", 900, "starting", "is job 7 of SLURM, running"),
        ("RUNNING", "finished", 900, "starting", "is job 7 of SLURM, running"),
        ("COMPLETING", "finished", 0, "finished", ""),
        ("COMPLETED", "finished", 0, "finished", ""),
        ("TIMEOUT", "running", 0, "out of time", ""),
        ("NODE_FAIL", "running", 0, "node failure", ""),
        ("FAILED", None, 0, "failed", ""),
        (None, "preempted", 0, "preempted", ""),
        (None, "failed", 0, "failed", ""),
    ],
)
def test_slurm_decides_about_a_job_that_lives_and_the_folder_about_how_it_ended(
    word: str | None,
    status: str | None,
    age_s: float,
    expected: str,
    does: str,
    run_dir: Path,
    slurm_says: Callable[[str | None], None],
) -> None:
    slurm_says(word)
    submitted(run_dir, "slurm", age_s=60)
    if status:
        write_status(run_dir, status, age_s)
    assert read_state(run_dir).state == expected
    assert [one.state for one in read_states([run_dir])] == [expected]
    assert what_it_does(run_dir) == does


def test_a_job_that_slurm_has_forgotten_is_shown_as_cancelled_if_a_user_cancelled_it(
    run_dir: Path, slurm_says: Callable[[str | None], None]
) -> None:
    slurm_says(None)
    submitted(run_dir, "slurm", age_s=SILENT_S + 9)
    assert (read_state(run_dir).state, read_state(run_dir).reason) == ("ended", state.NO_RECORD)
    note_cancelled(run_dir)
    assert read_state(run_dir).state == "cancelled"
    submitted(run_dir, "slurm")
    assert read_state(run_dir).state == "starting", "a new submission is not cancelled"


def test_the_job_that_this_process_is_in_may_start_its_own_run(
    run_dir: Path, slurm_says: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_says("RUNNING")
    submitted(run_dir, "slurm")
    write_status(run_dir, "running")
    assert what_it_does(run_dir) != ""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert what_it_does(run_dir) == ""


def test_without_an_answer_of_slurm_a_list_goes_on_and_a_start_does_not(
    run_dir: Path, slurm_says: Callable[[str | None], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm_says("RUNNING")

    def down(*_: Any) -> None:
        raise queue.QueueError("Unable to contact slurm controller")

    monkeypatch.setattr(queue, "job", down)
    monkeypatch.setattr(queue, "jobs", down)
    submitted(run_dir, "slurm")
    write_status(run_dir, "running")
    assert [one.state for one in read_states([run_dir])] == ["running"]
    with pytest.raises(queue.QueueError, match="Unable to contact"):
        what_it_does(run_dir)


def test_a_local_job_is_starting_as_long_as_its_process_is_there_and_no_longer(
    run_dir: Path, process: subprocess.Popen[bytes]
) -> None:
    submitted(run_dir, LOCAL, str(process.pid))
    assert local_job_lives(run_dir)
    assert (read_state(run_dir).state, what_it_does(run_dir)) == ("starting", "is starting now")
    write_status(run_dir, "failed", age_s=900)  # of an earlier start
    assert read_state(run_dir).state == "starting"
    process.kill()
    process.wait()
    assert not local_job_lives(run_dir)
    assert (read_state(run_dir).state, what_it_does(run_dir)) == ("failed", "")


def test_a_process_id_that_another_program_now_has_is_not_the_runs_job(run_dir: Path) -> None:
    submitted(run_dir, LOCAL, str(os.getpid()))
    assert local_job_lives(run_dir)
    record = read_job(run_dir)
    RunFolder.write_json(RunFolder(run_dir).job, {**record, "began": "1"})
    assert not local_job_lives(run_dir)
    assert read_state(run_dir).state == "ended"


def test_a_run_whose_process_is_gone_is_lost_at_once(
    run_dir: Path, process: subprocess.Popen[bytes]
) -> None:
    here = {"host": socket.gethostname(), "pid": process.pid}
    write_status(run_dir, "running", **here)
    assert read_state(run_dir).state == "running"
    assert what_it_does(run_dir) == "is running now (epoch 1 of 9)"
    process.kill()
    process.wait()
    assert (read_state(run_dir).state, read_state(run_dir).reason) == (
        "lost",
        "its process is gone",
    )
    assert what_it_does(run_dir) == ""


def test_a_run_on_another_machine_is_lost_when_it_has_been_silent_for_a_minute(
    run_dir: Path,
) -> None:
    write_status(run_dir, "running", host="elsewhere", pid=1)
    assert read_state(run_dir).state == "running"
    write_status(run_dir, "running", age_s=SILENT_S + 9, host="elsewhere", pid=1)
    assert read_state(run_dir).state == "lost"
    assert "wrote nothing for 60 seconds" in (read_state(run_dir).reason or "")


def test_an_error_of_a_rank_is_a_failure_whatever_the_status_says(run_dir: Path) -> None:
    write_status(run_dir, "running", age_s=900)
    record_error(run_dir, 1, RuntimeError("no more luck"))
    assert read_state(run_dir).state == "failed"
    (RunFolder(run_dir).error(0)).write_text('{"time": 1, "ra')  # cut by a full disk
    assert (records.first_error(run_dir) or {})["message"] == "no more luck"


def test_runs_of_a_sweep_are_added_and_a_folder_without_a_record_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    assert read_sweep(folder) == {}
    records.write_sweep(folder, {"a": {"seed": "1"}})
    records.write_sweep(folder, {"b": {"seed": "2"}})
    assert read_sweep(folder) == {"a": {"seed": "1"}, "b": {"seed": "2"}}
    assert folder.stat().st_mode & 0o077 == 0


def test_a_damaged_line_of_the_events_hides_no_other(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    lines = ['{"event": "start"}', '{"event": "pre{"event": "start"}', "", '{"event": "finished"}']
    RunFolder(tmp_path).events.write_text("\n".join(lines) + '\n{"event": "st')
    assert [one["event"] for one in records.read_events(tmp_path)] == ["start", "finished"]


def test_the_status_says_what_is_saved_and_what_the_disk_does_not_take(run_dir: Path) -> None:
    saved = {"file": "last.ckpt", "step": 120, "copy_s": 0.1, "write_s": 0.4, "bytes": 7}
    lost = {"metrics.csv": "No space left on device"}
    write_status(run_dir, "failed", checkpoint=saved, not_written=lost)
    out = Console(file=io.StringIO(), width=100)
    print_status(out, read_state(run_dir))
    lines = [line.split(maxsplit=1) for line in out.file.getvalue().splitlines()]
    assert ["saved", "last.ckpt after step 120"] in lines
    assert ["NOT", "written metrics.csv: No space left on device"] in [
        [word, " ".join(rest.split())] for word, rest in lines
    ]
