"""jobs.py and sweeps on a real SLURM without accounting, by the commands that a user types.
Training is the stand-in of tests/conftest.py."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from slurm import queue
from tests.slurm.testbed import Testbed
from tests.slurm.user import SMALL, User


@pytest.fixture
def user(testbed: Testbed, checkout: Path) -> User:
    """Whose runs all wait as long as there is a file `runs/wait`."""
    made = User(testbed, checkout)
    made.edits("clf/run.py", 'run_dir / "wait"', 'run_dir.parent / "wait"')
    (made.home / "runs").mkdir()
    return made


def test_a_run_is_watched_cancelled_and_resumed(user: User) -> None:
    wait = user.home / "runs" / "wait"
    wait.touch()
    words = ("submit.py", "--nodes", "4", "--gpus", "2")
    user.types(*words, "--name", "first", *SMALL)
    user.types(*words, "--name", "second", *SMALL)  # CPU tasks: room is made scarce below
    user.waits("eight ranks", lambda: len(list(user.run("first").glob("seen*.json"))) == 8)
    listed = user.types("jobs.py", "list")
    assert listed.splitlines()[0].split() == ["run", "state", "job", "nodes"]
    assert f"first   starting  {user.job_id('first')}" in listed
    again = user.types(*words, "--name", "first", *SMALL, code=2)
    assert f"this run is job {user.job_id('first')} of SLURM, running" in again
    assert "no log of rank 9; there are ranks 0 to 7" in user.types(
        "jobs.py", "logs", "first", "--rank", "9", code=2
    )
    following = subprocess.Popen(
        [sys.executable, str(user.checkout / "launch/jobs.py"), "logs", "first", "-f"],
        cwd=user.home,
        env=user.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    user.types("jobs.py", "cancel", "first")
    said, _ = following.communicate(timeout=120)
    assert "the job has ended: cancelled" in said
    assert user.status("first")["state"] == "cancelled"
    assert "no job to cancel, it is cancelled" in user.types("jobs.py", "cancel", "first", code=2)
    wait.unlink()
    user.types("jobs.py", "resume", "runs/first")
    user.waits_until_finished("first", "second")
    status = user.status("first")
    assert (status["state"], status["best top-1"]) == ("finished", "75.0 %")
    assert "first is complete already" in user.types("jobs.py", "resume", "first")
    assert "did you mean first?" in user.types("jobs.py", "status", "frist", code=2)


def test_a_job_in_the_queue_says_what_it_waits_for(user: User) -> None:
    (user.home / "runs" / "wait").touch()
    full = ("submit.py", "--nodes", "4", "--gpus", "2", "tracking.mode=disabled")
    for name in ("has", "waits"):
        user.types(*full, "--name", name)
    user.waits("a reason", lambda: user.status("waits")["state"] == "queued (Resources)")
    assert "no log yet; the run is queued (Resources)" in user.types(
        "jobs.py", "logs", "waits", code=2
    )
    user.types("jobs.py", "cancel", "waits")
    assert user.state("waits") == ""


def test_a_failed_run_tells_rank_and_error_before_its_log(user: User) -> None:
    user.types("submit.py", "--nodes", "2", "--gpus", "2", "--name", "bad", "seed=14", *SMALL)
    user.waits("gone", lambda: user.state("bad") == "")
    status = user.status("bad")
    assert status["state"] == "failed"
    assert "data.root: this folder is not the one" in status["what is wrong"]
    logs = user.types("jobs.py", "logs", "bad", code=1)
    assert logs.index("data.root: this folder is not the one") < logs.index("log of rank")
    assert "on node" in logs


def test_a_sweep_is_one_array_and_only_what_failed_starts_again(user: User) -> None:
    swept = ("--sweep", "model.learning_rate=1e-4,3e-4", "--sweep", "seed=1,14")
    words = ("submit.py", "--name", "sw", "--gpus", "1", *swept, "--parallel", "2")
    dry = user.types(*words, "--dry-run", *SMALL)
    assert "#SBATCH --array=0-3%2\n" in dry
    said = user.types(*words, *SMALL)
    array = json.loads((user.run("sw/learning_rate-1e-4_seed-1") / "job.json").read_text())
    assert array["job_id"].endswith("_0")
    assert array["sweep"] == "sw"
    assert f"SLURM job array {array['job_id'][:-2]}" in said
    user.waits("the array has ended", lambda: user.testbed.command("squeue", "-h") == "")
    table = user.types("jobs.py", "list", "--sweep", "sw").splitlines()
    assert table[0].split()[:4] == ["model.learning_rate", "seed", "state", "epoch"]
    assert [line.split()[:3] for line in table[1:3]] == [
        ["1e-4", "1", "finished"],
        ["3e-4", "1", "finished"],
    ]
    assert all("failed" in line and "this folder is not the one" in line for line in table[3:5])
    config = (user.run("sw/learning_rate-3e-4_seed-14") / "config.yaml").read_text()
    assert "  group: sw\n" in config
    assert "learning_rate: 0.0003\n" in config

    user.edits("clf/run.py", "cfg.seed == 14", "False")
    said = user.types("jobs.py", "resume", "--sweep", "sw", "--new-code")
    assert "submitted 2 runs as SLURM job array" in said
    bad = [f"sw/learning_rate-{rate}_seed-14" for rate in ("1e-4", "3e-4")]
    user.waits_until_finished(*bad)
    table = user.types("jobs.py", "list", "--sweep", "sw")
    assert table.count("finished") == 4
    assert "Nothing to start" in user.types("jobs.py", "resume", "--sweep", "sw")
    assert user.types("jobs.py", "list").count("sw/learning_rate") == 4


def test_faults_of_all_runs_of_a_sweep_are_reported_together(user: User) -> None:
    words = ("submit.py", "--sweep", "data.batch_size=0,7", "--sweep", "nodes=1,2", "--gpus", "2")
    assert "--sweep nodes: cannot be swept" in user.types(*words, code=2)
    words = ("submit.py", "--sweep", "data.batch_size=0,7", "--sweep", "seed=1,x", "--gpus", "2")
    said = user.types(*words, code=2)
    for fault in (
        "data.batch_size=0: ",
        "data.batch_size=7: not divisible by 2",
        "seed=x: expected",
    ):
        assert said.count(fault) == 1
    assert user.testbed.command("squeue", "-h") == ""


def test_a_job_that_slurm_has_forgotten_is_not_taken_for_a_living_one(testbed: Testbed) -> None:
    assert queue.job("999999") is None
    assert not queue.lives("999999")
    assert queue.jobs(["999999"]) == {}
