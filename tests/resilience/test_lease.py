"""A run folder has one writer: the second is refused at once, and nobody is refused for a dead one.

Leases of other machines are written by hand; every wait is shortened.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from clf.config.faults import ConfigError
from clf.resilience import lease
from clf.resilience.lease import Holder, Lease, holder, living
from clf.resilience.processes import Process, machine, process, this_process
from clf.run_folder import RunFolder


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lease, "BEAT_S", 0.02)
    monkeypatch.setattr(lease, "WATCH_S", 0.2)
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


@pytest.fixture
def take(run_dir: Path) -> Iterator[Callable[..., Lease]]:
    """`lease.take` of the folder; what is taken is given back at the test's end."""
    with ExitStack() as stack:

        def of(**more: Any) -> Lease:
            taken = lease.take(run_dir, **more)
            stack.callback(taken.release)
            return taken

        yield of


def write(run_dir: Path, age_s: float = 0, **more: Any) -> None:
    """A lease of another machine, renewed so many seconds ago."""
    there = {
        **asdict(Holder("elsewhere", "other", [Process(7, "1")], None, 0, "train.py", "t0", 0.0)),
        **more,
    }
    path = RunFolder(run_dir).lease
    path.write_text(json.dumps(there))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))


def a_dead_process() -> Process:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    found = process(child.pid)
    child.kill()
    child.wait()
    assert found is not None
    return found


def here(*processes: Process) -> dict[str, Any]:
    return {"machine": machine(), "processes": [asdict(one) for one in processes]}


def test_a_second_writer_is_refused_by_name_until_the_first_has_given_it_back(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    first = take()
    path = RunFolder(run_dir).lease
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .*`jobs.py cancel mine`"):
        take()
    assert living(run_dir) == first.mine
    first.release()
    assert list(run_dir.iterdir()) == []
    take()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_process_of_this_machine_that_is_gone_holds_nothing(
    links: bool, run_dir: Path, take: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise PermissionError("no hard links on this file system")

    if not links:
        monkeypatch.setattr(os, "link", none)
    write(run_dir, **here(a_dead_process()))
    assert living(run_dir) is None
    take().release()
    # The number is that of a living process, and the start is not.
    write(run_dir, **here(Process(os.getpid(), "1")))
    assert living(run_dir) is None
    mine = take()
    assert living(run_dir) == mine.mine
    with pytest.raises(ConfigError, match="is running now"):
        take()


def test_a_process_that_ends_the_ranks_together_holds_the_lease_of_a_dead_one(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    write(run_dir, **here(a_dead_process(), this_process()))
    with pytest.raises(ConfigError, match="is running now"):
        take()


def test_of_many_that_meet_a_stale_lease_one_gets_it(run_dir: Path) -> None:
    for _ in range(5):
        write(run_dir, **here(a_dead_process()))
        start = threading.Barrier(8)

        def one(_: int, start: threading.Barrier = start) -> Lease | None:
            start.wait()
            try:
                return lease.take(run_dir)
            except ConfigError:
                return None

        with ThreadPoolExecutor(8) as pool:
            taken = [found for found in pool.map(one, range(8)) if found]
        assert len(taken) == 1
        assert holder(run_dir) == taken[0].mine
        taken[0].release()


def test_a_machine_that_cannot_be_seen_is_judged_by_the_silence_of_its_lease(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    write(run_dir)
    assert living(run_dir) is not None
    with pytest.raises(ConfigError, match=r"process 7 on elsewhere, train\.py"):
        take()
    write(run_dir, age_s=lease.STALE_S + 9)
    assert living(run_dir) is None
    take().release()


@pytest.mark.parametrize("age_s", [3600, -3600], ids=["ahead", "back"])
def test_a_clock_that_jumps_makes_no_living_lease_stale(
    age_s: float, run_dir: Path, take: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE_S", 2.0)
    write(run_dir, age_s=age_s)
    with soon(os.utime, RunFolder(run_dir).lease), pytest.raises(ConfigError, match="elsewhere"):
        take()
    monkeypatch.setattr(lease, "STALE_S", 0.3)
    write(run_dir, age_s=age_s)  # and nobody renews it
    mine = take()
    jumped = time.time() + age_s
    monkeypatch.setattr(time, "time", lambda: jumped)
    with pytest.raises(ConfigError, match="is running now"):
        take()
    assert living(run_dir) == mine.mine


@contextmanager
def soon(act: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Calls `act` while the block runs, or right after it."""
    timer = threading.Timer(0.1, act, arguments)
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_lease_is_renewed_also_after_it_was_deleted(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    mine = take()
    path = RunFolder(run_dir).lease
    for _ in range(2):
        os.utime(path, (1, 1))
        wait_until(lambda: path.stat().st_mtime > 1)
    path.unlink()
    wait_until(path.exists)
    assert holder(run_dir) == mine.mine


def test_who_was_silent_for_too_long_ends_when_another_has_the_run(
    run_dir: Path, take: Callable[..., Lease], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    mine = take()
    write(run_dir, token="another")
    wait_until(lambda: codes == [1])
    mine.release()
    assert RunFolder(run_dir).lease.exists(), "the other one's lease stays"


def test_a_job_gets_past_its_own_earlier_start_and_past_no_other_job(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    write(run_dir, job_id="12", restart=0)
    for job, restart in (("12", 0), ("13", 1)):
        with pytest.raises(ConfigError, match="job 12 "):
            take(job_id=job, restart=restart)
    take(job_id="12", restart=1).release()
    write(run_dir, job_id="12")
    take(job_id="13", has_ended=lambda job: job == "12").release()


def test_the_job_that_a_command_starts_takes_its_lease_over(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    submitting = take()
    passed = submitting.pass_on()[lease.PASS_ON]
    rank = take(passed_on=passed, beside=this_process())
    submitting.release()
    assert holder(run_dir) == rank.mine
    assert len(rank.mine.processes) == 2


def test_a_job_waits_for_the_command_that_has_submitted_it(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    submitting = take()
    with soon(submitting.release):
        assert take(waits=True).mine == holder(run_dir)


def test_a_lease_that_cannot_be_read_is_judged_by_its_age(
    run_dir: Path, take: Callable[..., Lease]
) -> None:
    path = RunFolder(run_dir).lease
    path.write_text("")
    with pytest.raises(ConfigError, match="has not said yet who it is"):
        take()
    os.utime(path, (1, 1))
    take()


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
