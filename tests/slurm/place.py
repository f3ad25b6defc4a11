"""A user's folder on a machine with a SLURM, and runs of a small network there."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clf.run_folder import read_json, read_status
from slurm import queue
from slurm.records import events_of_last_start
from tests.slurm.testbed import Testbed

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
    return str(read_json(run_dir / "job.json")["job_id"])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
