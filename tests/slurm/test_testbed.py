"""The testbed behaves like a cluster's SLURM in everything that the tests of jobs rely on."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm.testbed import Testbed, TestbedError, machine, processes

ROOT = Path(__file__).resolve().parents[2]
RANKS = ("--ntasks-per-node=2", "--gpus-per-node=2")
# Each task writes down its starts and the signals it gets. The first start of a job outlives
# `stays` signals; else a signal ends it.
TASK = """
import os, pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[1]) / ("rank" + os.environ["SLURM_PROCID"])
stays = 0 if "SLURM_RESTART_COUNT" in os.environ else int(sys.argv[2])
def note(text):
    with notes.open("a") as file: file.write(text + "\\n")
def heard(number, frame):
    global stays
    note(signal.Signals(number).name)
    stays -= 1
    if stays < 0: sys.exit(1)
signal.signal(signal.SIGTERM, heard)
signal.signal(signal.SIGUSR2, heard)
note(f"start {os.environ.get('SLURM_RESTART_COUNT', 0)} on {os.environ['SLURMD_NODENAME']}"
     f" with {os.environ.get('CUDA_VISIBLE_DEVICES')}")
for _ in range(1200): time.sleep(0.1)
"""


def wait_for(what: str, true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.1)


class Job:
    """A job of such tasks and what they wrote."""

    def __init__(self, testbed: Testbed, folder: Path, *options: str, stays: int = 0) -> None:
        self.testbed = testbed
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "task.py").write_text(TASK)
        script = f"exec srun {sys.executable} {folder}/task.py {folder} {stays}"
        (folder / "job.sh").write_text(f"#!/bin/sh\n{script}\n")
        log = f"--output={folder}/log"
        words = ("sbatch", "--parsable", log, *RANKS, *options, f"{folder}/job.sh")
        self.id = testbed.command(*words).strip()

    def notes(self, rank: int = 0) -> list[str]:
        path = self.folder / f"rank{rank}"
        return path.read_text().splitlines() if path.exists() else []

    def all_noted(self, word: str, ranks: int = 4) -> bool:
        return all(any(word in line for line in self.notes(rank)) for rank in range(ranks))

    def wait_until_all_noted(self, word: str, ranks: int = 4) -> None:
        wait_for(f"'{word}' by {ranks} ranks", lambda: self.all_noted(word, ranks))

    def state(self) -> str:
        return self.testbed.command("squeue", "-h", "-o", "%T", "-j", self.id).strip()

    def wait_until_requeued_and_running(self, ranks: int = 4) -> None:
        wait_for("job in the queue again", lambda: self.state() == "PENDING")
        self.testbed.start_now(self.id)
        self.wait_until_all_noted("start 1", ranks)


def test_a_job_has_a_rank_a_gpu_on_each_of_its_nodes(testbed: Testbed, tmp_path: Path) -> None:
    job = Job(testbed, tmp_path / "job", "--nodes=2")
    job.wait_until_all_noted("start 0")
    assert [job.notes(rank) for rank in range(4)] == [
        [f"start 0 on {node} with 0,1"] for node in ("node1", "node1", "node2", "node2")
    ]
    assert testbed.command("getent", "hosts", "node2").split()[0] == "127.0.0.1"


def test_jobs_of_two_users_of_a_node_get_different_gpus(testbed: Testbed) -> None:
    words = ("--gpus-per-node=1", "--ntasks=1", "--nodelist=node1", "--parsable", "--wrap=sleep 60")
    jobs = [testbed.command("sbatch", "--output=/dev/null", *words).strip() for _ in range(3)]

    def states() -> list[str]:
        shown = testbed.command("squeue", "-h", "-S", "i", "-o", "%T", "-j", ",".join(jobs))
        return shown.split()

    wait_for("two of three jobs", lambda: states() == ["RUNNING", "RUNNING", "PENDING"])
    details = testbed.command("scontrol", "show", "-d", "job", jobs[0])
    details += testbed.command("scontrol", "show", "-d", "job", jobs[1])
    assert "GRES=gpu:1(IDX:0)" in details
    assert "GRES=gpu:1(IDX:1)" in details


def test_preemption_signals_a_job_which_can_requeue_itself_in_its_grace_time(
    testbed: Testbed, tmp_path: Path
) -> None:
    job = Job(testbed, tmp_path / "job", "--nodes=2", "-p", "preempt", stays=1)
    job.wait_until_all_noted("start 0")
    urgent = Job(testbed, tmp_path / "urgent", "--nodes=4", "-p", "high")
    job.wait_until_all_noted("SIGTERM")
    assert (job.state(), urgent.state()) == ("RUNNING", "PENDING")
    testbed.command("scontrol", "requeue", job.id)
    urgent.wait_until_all_noted("start 0", ranks=8)
    testbed.command("scancel", urgent.id)
    job.wait_until_requeued_and_running()


def test_a_job_that_does_not_leave_when_preempted_is_requeued_by_slurm(
    testbed: Testbed, tmp_path: Path
) -> None:
    testbed.command("scontrol", "update", "partition=preempt", "GraceTime=0")
    try:
        job = Job(testbed, tmp_path / "job", "--nodes=2", "-p", "preempt", stays=99)
        job.wait_until_all_noted("start 0")
        urgent = Job(testbed, tmp_path / "urgent", "--nodes=4", "-p", "high")
        urgent.wait_until_all_noted("start 0", ranks=8)
        testbed.command("scancel", urgent.id)
        job.wait_until_requeued_and_running()
    finally:
        testbed.command("scontrol", "update", "partition=preempt", "GraceTime=20")


def test_a_cancelled_job_ends_on_all_nodes_and_is_not_requeued(
    testbed: Testbed, tmp_path: Path
) -> None:
    job = Job(testbed, tmp_path / "job", "--nodes=2")
    job.wait_until_all_noted("start 0")
    assert processes.of_jobs(testbed.folder, "node2")
    testbed.command("scancel", job.id)
    wait_for("job gone", lambda: job.state() == "")
    assert processes.of_jobs(testbed.folder) == []
    assert "JobState=CANCELLED" in testbed.command("scontrol", "show", "job", job.id)


def test_a_job_goes_on_elsewhere_when_slurmd_is_killed_or_its_node_set_down(
    testbed: Testbed, tmp_path: Path
) -> None:
    lost = Job(testbed, tmp_path / "lost", "--nodes=1")
    taken = Job(testbed, tmp_path / "taken", "--nodes=1")
    for job, node in ((lost, "node1"), (taken, "node2")):
        job.wait_until_all_noted(f"start 0 on {node}", ranks=2)
    testbed.kill_slurmd("node1")
    testbed.set_down("node2")
    for job in (taken, lost):
        job.wait_until_requeued_and_running(ranks=2)
        assert job.notes()[-1].split()[3] in ("node3", "node4")
    assert testbed.node_states()["node1"] == "down*"  # the star: it does not answer
    assert testbed.node_states()["node2"] == "down"
    assert processes.of_jobs(testbed.folder, "node1")  # with no slurmd, nobody ended them
    testbed.kill_node("node1")
    assert processes.of_jobs(testbed.folder, "node1") == []
    testbed.restart_slurmd("node1")
    testbed.repair()
    assert set(testbed.node_states().values()) == {"idle", "mixed"}


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.slurm.testbed", *words]
    # As called by a user whose files are private.
    return subprocess.run(
        command, cwd=ROOT, umask=0o077, capture_output=True, text=True, timeout=60
    )


def test_down_leaves_nothing_and_a_second_up_changes_nothing(
    slurm_testbed: Testbed, tmp_path: Path
) -> None:
    folder = Path(f"{slurm_testbed.folder}-2")
    before = machine.HOSTS.read_text()
    where = ("--folder", str(folder))
    try:
        first = cli("up", *where)
        assert first.returncode == 0, first.stderr
        assert f"export SLURM_CONF={folder}/slurm.conf\n" in first.stdout
        second = Testbed(folder)
        job = Job(second, tmp_path / "job", "--nodes=2", stays=99)
        job.wait_until_all_noted("start 0")
        daemons = (folder / "pid").iterdir()
        pids = [int(path.read_text()) for path in daemons] + processes.of_jobs(folder)
        assert len(pids) >= 6 + 4
        again = cli("up", *where)
        assert (again.returncode, job.state()) == (0, "RUNNING")
        assert "up already" in again.stdout
        assert cli("status", *where).returncode == 0
    finally:
        down = cli("down", *where)
    assert (down.returncode, down.stderr) == (0, "")
    assert not folder.exists()
    assert [pid for pid in pids if processes.is_alive(pid)] == []
    assert machine.HOSTS.read_text() == before
    assert cli("status", *where).returncode == 1
    assert slurm_testbed.is_up  # another testbed is none of its business


def test_nothing_of_it_can_be_reached_from_another_machine(slurm_testbed: Testbed) -> None:
    pids = [int(path.read_text()) for path in (slurm_testbed.folder / "pid").iterdir()]
    own = {os.readlink(link) for pid in pids for link in Path(f"/proc/{pid}/fd").iterdir()}
    tables = [path for path in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if path.exists()]
    rows = [row.split() for path in tables for row in path.read_text().splitlines()]
    listening = [row for row in rows if row[3] == "0A"]
    addresses = [row[1].partition(":")[0] for row in listening if f"socket:[{row[9]}]" in own]
    assert addresses == ["0100007F"] * 5  # 127.0.0.1: the controller and four nodes


def test_a_folder_that_is_not_a_testbed_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for action in ("up", "down"):
        done = cli(action, "--folder", str(tmp_path))
        assert (done.returncode, done.stdout) == (1, "")
        assert "no testbed of yours" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_is_needed_is_said_where_the_programs_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "SYSTEM_PATH", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TestbedError, match="slurmctld, slurmd, sbatch, srun, munged not found"):
        Testbed(tmp_path / "t").up()
