"""A run on this machine leaves when it is asked to, at any moment, and the commands say what is
true of it meanwhile. Training is the stand-in of conftest.py, but in the last test, which saves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from clf.config import ConfigError
from clf.plan import compose
from clf.run_folder import read_status
from launch.runs.folders import take
from launch.runs.requests import Request

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("strategy.accelerator=cpu", "tracking.mode=disabled")


class Typed:
    """A command that runs, with its output so far."""

    def __init__(self, place: Path, script: Path, *words: str) -> None:
        self.output = place / f"{script.stem}-{time.monotonic_ns()}.txt"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-u", str(script), *words],
                cwd=place,
                env={**os.environ, "COLUMNS": "80"},
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def shows(self, text: str, times: int = 1) -> bool:
        return self.output.read_text().count(text) >= times

    def ends(self) -> int:
        return self.process.wait(timeout=60)


@pytest.fixture
def typed(tmp_path: Path, checkout: Path) -> Iterator[Callable[..., Typed]]:
    """`typed("train.py", "--name", "a")` starts a command of the checkout with the stand-in."""
    started: list[Typed] = []

    def start(script: str, *words: str, of: Path = checkout) -> Typed:
        started.append(Typed(tmp_path, of / "launch" / script, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


def until(true: Callable[[], bool], command: Typed) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert command.process.poll() is None, command.output.read_text()
        assert time.monotonic() < deadline, command.output.read_text()
        time.sleep(0.05)


def said(command: Typed, code: int = 0) -> str:
    assert command.ends() == code, command.output.read_text()
    return command.output.read_text()


def test_a_start_is_the_only_one_from_its_first_moment_and_is_stopped_before_it_trains(
    typed: Callable[..., Typed], checkout: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    source, go = checkout / "clf" / "run.py", runs / "one" / "go"  # without it, the stand-in waits
    held_back = source.read_text().replace('(run_dir / "wait")', 'not (run_dir / "go")')
    source.write_text(held_back)
    first = typed("train.py", "--name", "one", *SMALL)
    until(lambda: (runs / "one" / "seen0.json").exists(), first)
    process = rf"process {first.process.pid} on "
    for script in ("train.py", "submit.py"):
        refusal = said(typed(script, "--name", "one", *SMALL), 2)
        assert re.search(rf"name=one: this run is running now \({process}.*, train\.py", refusal)
        assert "`jobs.py cancel one`, or choose another name" in refusal
    assert "one  starting" in said(typed("jobs.py", "list"))
    assert f"process {first.process.pid} was asked to stop" in said(
        typed("jobs.py", "cancel", "one")
    )
    output = said(first, 143)
    assert "Stopped by SIGTERM: left before training began" in output
    assert "launch/train.py --name one strategy.accelerator=cpu" in output
    assert (read_status(runs / "one") or {})["state"] == "stopped"
    assert not (runs / "one" / "lease.json").exists()

    again = typed("train.py", "--name", "one", *SMALL)
    until(lambda: again.shows("importing torch") and (runs / "one" / "lease.json").exists(), again)
    again.process.kill()
    again.ends()
    assert re.search(
        r"state +lost \(its process \d+ is gone\)", said(typed("jobs.py", "status", "one"))
    )
    go.touch()
    said(typed("train.py", "--name", "one", *SMALL))


def test_two_starts_in_one_second_without_a_name_get_two_folders(tmp_path: Path) -> None:
    cfg = compose([f"runs_dir={tmp_path}", "name=digits-20260102-030405"])
    made, chosen = (Request(replace(cfg), named=named) for named in (False, True))
    other = Request(replace(cfg), named=False)
    runs = [take(made), take(other)]
    assert [run.path.name for run, _ in runs] == [made.cfg.name, other.cfg.name]
    assert other.cfg.name == "digits-20260102-030405-2"
    with pytest.raises(ConfigError, match=f"running now .process {os.getpid()} on "):
        take(chosen)
    for _, lease in runs:
        lease.release()


def test_a_second_ctrl_c_ends_a_run_that_does_not_listen(
    typed: Callable[..., Typed], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "deaf"
    deaf = typed("train.py", "--name", "deaf", "seed=17", *SMALL)
    until((run / "seen0.json").exists, deaf)
    time.sleep(0.2)  # for `is_read`
    deaf.process.send_signal(signal.SIGINT)
    until(lambda: deaf.shows("Ctrl-C again ends it now"), deaf)
    deaf.process.send_signal(signal.SIGINT)
    assert deaf.ends() == 130
    status = said(typed("jobs.py", "status", "deaf"))
    assert "stopped (by SIGINT)" in status
    assert "SystemExit" not in status


def test_in_a_debugger_ctrl_c_is_the_debuggers(typed: Callable[..., Typed], tmp_path: Path) -> None:
    debugged = typed("train.py", "--name", "bug", "--debug", "seed=12", *SMALL)
    until(lambda: debugged.shows("(Pdb)"), debugged)
    for times in range(1, 3):
        debugged.process.send_signal(signal.SIGINT)
        until(partial(debugged.shows, "--KeyboardInterrupt--", times), debugged)
    assert debugged.process.stdin is not None
    debugged.process.stdin.write("c\n")
    debugged.process.stdin.flush()
    assert "test  top-1 50.0 %" in said(debugged)


def test_a_rank_that_is_killed_takes_the_others_along_and_is_named(
    typed: Callable[..., Typed], tmp_path: Path
) -> None:
    output = said(typed("submit.py", "--name", "pair", "--gpus", "2", "seed=16", *SMALL), 1)
    assert "The job failed on rank 1: rank 1 was ended by SIGKILL, without a word" in output
    status = said(typed("jobs.py", "status", "pair"))
    assert re.search(r"what is wrong +killed \(rank 1, .*\): rank 1 was ended by SIGKILL", status)
    assert "SLURM" not in status
    assert "queue" not in status


def test_a_run_saves_at_ctrl_c_and_says_how_to_go_on(
    typed: Callable[..., Typed], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "real"
    words = ("--name", "real", "epochs=500", "limit_batches=2", *SMALL)
    first = typed("train.py", *words, of=ROOT)
    until(lambda: (read_status(run) or {}).get("step", 0) > 0, first)
    assert re.search(r"state +running", said(typed("jobs.py", "status", "real")))
    first.process.send_signal(signal.SIGINT)
    output = said(first, 130)
    assert "Stopping: it saves at the end of this step. Ctrl-C again ends it now." in output
    assert re.search(
        r"Stopped by SIGINT: left in epoch \d+ after step \d+, everything is saved", output
    )
    assert f"launch/train.py {' '.join(words)}" in output
    left = json.loads((run / "status.json").read_text())
    assert (left["state"], left["error"]) == ("stopped", None)
    assert "stopped (by SIGINT)" in said(typed("jobs.py", "status", "real"))
    assert (run / "checkpoints" / "last.ckpt").is_file()
    files = [path for path in (run, *run.rglob("*")) if not path.is_symlink()]
    assert [path for path in files if path.stat().st_mode & 0o077] == [], "private one by one"
