"""A run whose ranks are real processes, started again and again in about a second.

The ranks are forked from one process that has imported everything, and run what a job runs on each
task, `slurm.job.Job`. What a cluster adds is left out: SLURM's own part is tested on the testbed.
"""

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.config.saved import save
from clf.resilience.signals import STOP
from clf.run_folder import RunFolder, read_scalars, read_status

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120  # for a run to get on, on a machine that others use too
FOLLOW_S = 40  # for the other ranks to end after one of them has
IDLE_STARTS = 4  # in a row that may end without a step
_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["clf.run", "slurm.job", "tests.chaos.network"])


class Run:
    """The run in a folder, of which one start at a time may live.

    Args:
        path: the run folder, new
        cfg: with `gpus` ranks
        variables: of the environment of its ranks
    """

    def __init__(self, path: Path, cfg: RunConfig, variables: Mapping[str, str] = {}) -> None:
        self.folder = RunFolder.create(path)
        self.world = cfg.gpus or 1
        self.variables = dict(variables)
        save(cfg, self.folder.config)
        self.ranks: list[Any] = []
        self.starts = 0
        self._known = 0  # the time of metrics.csv when this start began

    @property
    def log(self) -> Path:
        return self.folder.path / "ranks.log"

    def start(self) -> None:
        """Start all ranks."""
        assert not self.living
        self.starts += 1
        self._known = _changed(self.folder.metrics_csv)
        port = _free_port()
        python_path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)  # for the process that imports, at the first start
        try:
            self.ranks = [
                _forkserver.Process(
                    target=_rank,
                    args=(self._variables(rank, port), self.folder.path, self.log),
                    daemon=True,
                )
                for rank in range(self.world)
            ]
            for rank in self.ranks:
                rank.start()
        finally:
            os.environ.pop("PYTHONPATH")
            if python_path is not None:
                os.environ["PYTHONPATH"] = python_path

    def _variables(self, rank: int, port: int) -> dict[str, str]:
        """What a rank finds in its environment."""
        return {
            **self.variables,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": str(os.getpid()),
            "SUBMITIT_LOCAL_NTASKS": str(self.world),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
            "SUBMITIT_LOCAL_LOCALID": str(rank),
            "MASTER_PORT": str(port),
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def living(self) -> list[Any]:
        return [rank for rank in self.ranks if rank.is_alive()]

    @property
    def finished(self) -> bool:
        return not self.living and (read_status(self.folder.path) or {}).get("state") == "finished"

    def step(self) -> int:
        """The last step that this start has logged; -1 before the first."""
        if _changed(self.folder.metrics_csv) == self._known:
            return -1
        steps = [row["step"] or "" for row in read_scalars(self.folder.path)]
        return max((int(step) for step in steps if step.isdigit()), default=-1)

    def send(self, number: int, ranks: Iterable[Any] | None = None) -> None:
        for rank in self.living if ranks is None else ranks:
            if rank.is_alive():
                os.kill(rank.pid, number)

    def kill(self) -> None:
        """kill -9 of all ranks at once."""
        self.send(signal.SIGKILL)
        for rank in self.ranks:
            rank.join()

    def wait_for_the_others(self) -> None:
        """Until all ranks have ended; what hangs after the first has ended is killed, as srun
        does."""
        end = time.monotonic() + FOLLOW_S
        while self.living and time.monotonic() < end:
            time.sleep(0.02)
        self.kill()

    def until(self, step: int) -> None:
        """Until the run has logged this step or is finished, started again as often as needed."""
        end, idle = time.monotonic() + DEADLINE_S, 0
        while self.step() < step:
            assert time.monotonic() < end, f"no step {step} after {DEADLINE_S} s\n{self.tail()}"
            if len(self.living) < self.world:
                reached = self.step()
                self.wait_for_the_others()
                if self.finished:
                    return
                idle = 0 if reached >= 0 else idle + 1
                assert idle < IDLE_STARTS, f"{idle} starts made no step\n{self.tail()}"
                self.start()
            time.sleep(0.01)

    def finish(self) -> None:
        """Until the run has ended well, started again as often as it takes."""
        end = time.monotonic() + DEADLINE_S
        for _ in range(IDLE_STARTS):
            while len(self.living) == self.world:
                assert time.monotonic() < end, f"no end after {DEADLINE_S} s\n{self.tail()}"
                time.sleep(0.02)
            self.wait_for_the_others()
            if self.finished:
                return
            self.start()
        raise AssertionError(f"the run does not end\n{self.tail()}")

    def tail(self) -> str:
        """The end of what the ranks have printed."""
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


def _rank(variables: dict[str, str], folder: Path, log: Path) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)  # until the job listens, as its script does
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.pop("SLURM_JOB_ID", None)
    os.environ.update(variables)
    import torch
    from lightning.pytorch.utilities import rank_zero_only

    from slurm import job

    rank_zero_only.rank = int(variables["SUBMITIT_LOCAL_GLOBALID"])  # read when it was imported
    torch.set_num_threads(1)
    process = job.process  # in a job, a rank's parent ends with the start; here it forks the next
    job.process = lambda pid: process(os.getpid())  # type: ignore[attr-defined]
    try:
        job.Job(str(folder))()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
