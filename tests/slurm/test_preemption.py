"""On a real SLURM: whatever ends a job early, the run ends as if nothing had happened.

Jobs of two ranks, submitted once for all tests: `moved` is signalled, preempted, and loses a node
twice; `short` runs into its time limit; one rank of `broken` raises an error, and one of `killed`
is killed; `cancelled` is cancelled. `whole` is an undisturbed run on this machine.
"""

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from clf.run_folder import read_status
from slurm import queue
from slurm.failures import diagnose
from slurm.records import events_of_last_start, read_events
from tests.slurm.testbed import Testbed, processes

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24  # 6 epochs of 4
PACKAGE = '''
"""A small network that takes its time."""
import os
import time
from torch import nn
from clf.models.base import BaseClassificationModel
from clf.config.registry import register


@register(name="slow")
class Slow(BaseClassificationModel):
    def __init__(self, pause: float = 0.0, fail_at: int = -1, kill_at: int = -1, **kwargs):
        super().__init__(**kwargs)

    def build_network(self):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.2), nn.Linear(8 * 4 * 4, self.num_classes),
        )

    def training_step(self, batch, batch_idx):
        time.sleep(self.hparams["pause"])
        if self.global_step == self.hparams["fail_at"] and self.global_rank == 1:
            raise KeyError("nothing of that name")
        if self.global_step == self.hparams["kill_at"] and self.global_rank == 1:
            os.kill(os.getpid(), 9)
        return super().training_step(batch, batch_idx)
'''
SETTINGS = ("trusted_packages=[slow_net]", "model=slow", "strategy.accelerator=cpu", "epochs=6",
            "data.batch_size=256", "data.image_size=16", "data.eval_resize=16", "data.threads=1",
            "tracking.mode=offline")  # fmt: skip


def wait_for(what: str, true: Callable[[], Any], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what}: not after {seconds} s"
        time.sleep(0.2)


class Place:
    """A user's folder, and what is typed and seen there."""

    def __init__(self, folder: Path, testbed: Testbed) -> None:
        self.folder, self.testbed = folder, testbed
        (folder / "slow_net.py").write_text(PACKAGE)
        plain = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
        # A rank has as many threads on a node of its own as beside another one: the same rounding.
        self.local = plain | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.slurm = self.local | testbed.environment

    def run(self, name: str) -> Path:
        return self.folder / "runs" / name

    def submit(self, jobs: dict[str, tuple[str, ...]]) -> None:
        """`launch/submit.py` on the testbed, for each name with these settings; in one process,
        since the network's package imports torch."""
        words = [["--name", name, *SETTINGS, *more] for name, more in jobs.items()]
        program = f"from launch.submit import main\nfor words in {words!r}: assert main(words) == 0"
        path = f"{ROOT}:{self.folder}"
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.folder,
            env={**self.slurm, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def types(self, *words: str) -> str:
        """What a command of `launch/` prints."""
        return subprocess.run(
            [sys.executable, str(ROOT / "launch" / words[0]), *words[1:]],
            cwd=self.folder,
            env=self.slurm,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def nodes(self, name: str) -> str:
        """Of the run's latest start, in the order of their ranks."""
        return ",".join(events_of_last_start(self.run(name))[0]["nodes"])

    def job(self, name: str) -> queue.QueuedJob:
        found = queue.job(read_job(self.run(name)))
        assert found is not None
        return found

    def wait_for_step(self, name: str, step: int) -> None:
        def there() -> bool:
            status = read_status(self.run(name)) or {}
            return status.get("state") == "running" and status.get("step", 0) >= step

        wait_for(f"{name} at step {step}", there)

    def wait_until_queued_again(self, name: str, restarts: int) -> None:
        """And let it start without the wait that SLURM puts before it."""
        again = "requeued by SLURM"
        wait_for(f"{name} {again}", lambda: (self.job(name).restarts or 0) >= restarts)
        wait_for(f"{name} {again}", lambda: self.job(name).state in ("PENDING", "RUNNING"))
        if self.job(name).state == "PENDING":
            self.testbed.start_now(read_job(self.run(name)))

    def wait_for_end(self, name: str) -> None:
        """Until SLURM is done with the job, however often it is put into the queue again."""
        started = 0

        def ended() -> bool:
            nonlocal started
            job = self.job(name)
            if job.state == "PENDING" and (job.restarts or 0) > started:
                started = job.restarts or 0
                self.testbed.start_now(job.job_id)
            return not job.lives

        wait_for(f"{name} to end", ended)


def read_job(run_dir: Path) -> str:
    import json

    return str(json.loads((run_dir / "job.json").read_text())["job_id"])


@pytest.fixture(scope="module")
def place(slurm_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All jobs, done."""
    made = Place(tmp_path_factory.mktemp("user"), slurm_testbed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_testbed.environment.items():
            patch.setenv(name, value)
        whole = subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "submit.py"), "--name", "whole"]
            + ["--gpus", "2", *SETTINGS],
            cwd=made.folder,
            env=made.local,
            stdout=subprocess.DEVNULL,
        )
        try:
            run_and_disturb(made)
            assert whole.wait(240) == 0
            yield made
        finally:
            if whole.poll() is None:
                whole.send_signal(signal.SIGINT)  # it ends its job
                whole.wait(60)
            slurm_testbed.cancel_all()
            slurm_testbed.repair()


def run_and_disturb(place: Place) -> None:
    testbed = place.testbed
    elsewhere = ("--nodes", "1", "--gpus", "2", "slurm.nodelist=node4")  # where all stays well
    place.submit(
        {
            # SLURM looks at time limits every 30 s only: the signal comes after 80 to 110 s.
            "short": ("model.pause=4.5", "--time", "2", "slurm.signal_s=10", *elsewhere),
            "moved": (
                *("--nodes", "2", "--gpus", "1", "slurm.exclude=node4"),
                *("model.pause=1.0", "--partition", "preempt"),
            ),
            # KillWait leaves five seconds for the step, the checkpoint and the end of the script.
            "cancelled": ("model.pause=1.5", *elsewhere),
        }
    )
    place.wait_for_step("moved", 2)
    testbed.command("scancel", "--signal=USR2", read_job(place.run("moved")))
    place.submit(
        {
            "broken": ("model.fail_at=3", *elsewhere),
            "killed": ("model.kill_at=3", *elsewhere),
        }
    )
    place.wait_until_queued_again("moved", 1)
    place.wait_for_step("cancelled", 1)
    testbed.command("scancel", read_job(place.run("cancelled")))
    place.wait_for_step("moved", 5)
    urgent = testbed.command(
        *("sbatch", "--parsable", "-p", "high", "--nodes=2", f"--nodelist={place.nodes('moved')}"),
        *("--exclusive", "--output=/dev/null", "--wrap=sleep 600"),
    ).strip()
    wait_for("moved off its nodes", lambda: (place.job("moved").restarts or 0) >= 2)
    testbed.command("scancel", urgent)
    place.wait_until_queued_again("moved", 2)
    place.wait_for_step("moved", 8)
    down = place.nodes("moved").split(",")[0]
    testbed.set_down(down)
    place.wait_until_queued_again("moved", 3)
    place.wait_for_step("moved", 11)
    testbed.repair(down)
    testbed.kill_node(place.nodes("moved").split(",")[1])
    place.wait_until_queued_again("moved", 4)
    for name in ("moved", "short", "broken", "killed", "cancelled"):
        place.wait_for_end(name)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def happened(run_dir: Path) -> list[str]:
    return [event["event"] for event in read_events(run_dir)]


@pytest.mark.parametrize("name", ["moved", "short"])
def test_a_run_that_was_interrupted_ends_with_the_weights_and_table_of_one_that_was_not(
    place: Place, name: str
) -> None:
    run, whole = place.run(name), place.run("whole")
    assert place.job(name).state == "COMPLETED"
    status = read_status(run) or {}
    assert (status["state"], status["step"], status["epoch"]) == ("finished", STEPS, 6)
    mine, expected = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (run, whole)
    )
    for key, value in expected.items():
        print(name, key, float((mine[key] - value).abs().max()), float(value.abs().max()))
        # Means over ranks of BatchNorm's statistics are taken at other moments, in another order.
        torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-6)
    # Its counts are by node where there are two.
    for row, other in zip(
        table(run / "per_class" / "test.csv"), table(whole / "per_class" / "test.csv"), strict=True
    ):
        for column in ("class", "support", "correct", "accuracy"):
            assert row[column] == other[column]
        for count in ("support", "correct"):  # by node, and in all
            by_node = [int(row[key]) for key in row if key.startswith(f"{count}/")]
            assert len(by_node) == (2 if name == "moved" else 0)
            assert not by_node or sum(by_node) == int(row[count])
    rows, others = (table(path / "metrics.csv") for path in (run, whole))
    assert [row["step"] for row in rows] == [row["step"] for row in others]


def test_a_run_is_one_run_in_wandb_however_often_it_starts(place: Place) -> None:
    for name, least in (("moved", 5), ("short", 2)):
        run = place.run(name)
        assert happened(run).count("start") >= least
        segments = list((run / "wandb").glob("**/offline-run-*"))
        assert len(segments) >= least
        assert len({segment.name.rpartition("-")[2] for segment in segments}) == 1


def test_a_run_goes_on_from_the_step_at_which_it_left(place: Place) -> None:
    story = read_events(place.run("moved"))
    left = [event for event in story if event["event"] == "preempted"]
    # Signalled, then preempted; after a lost node SLURM itself requeues.
    assert [event["reason"].partition(":")[0] for event in left[:2]] == ["SIGUSR2", "SIGTERM"]
    assert 2 <= left[0]["step"] < left[1]["step"] < STEPS
    starts = [event for event in story if event["event"] == "start"]
    assert len(starts) == 5
    assert starts[2]["nodes"][0] not in starts[3]["nodes"]
    assert starts[3]["nodes"][1] not in starts[4]["nodes"]


def test_a_run_continues_after_a_time_limit(place: Place) -> None:
    assert happened(place.run("short"))[:3] == ["start", "preempted", "requeued"]
    assert happened(place.run("short"))[-1] == "finished"


def test_an_error_on_one_rank_ends_the_job_at_once_and_is_reported_with_rank_and_node(
    place: Place,
) -> None:
    run = place.run("broken")
    assert place.job("broken").state == "FAILED"
    assert happened(run) == ["start", "failed"]
    found = diagnose(run)
    assert found is not None
    assert (found.kind, found.rank) == ("error in code", 1)
    assert found.host == read_events(run)[0]["nodes"][-1]
    assert "nothing of that name" in found.summary


def test_a_rank_that_is_killed_ends_the_job_and_is_named(place: Place) -> None:
    assert place.job("killed").state == "FAILED"
    found = diagnose(place.run("killed"))
    assert found is not None
    assert (found.kind, found.rank) == ("killed", 1)


def test_scancel_is_final_and_loses_nothing(place: Place) -> None:
    run = place.run("cancelled")
    assert place.job("cancelled").state == "CANCELLED"
    assert happened(run) == ["start", "preempted", "ended"]
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_no_process_stays_behind(place: Place) -> None:
    wait_for("tasks gone", lambda: not processes.of_jobs(place.testbed.folder))
