"""Runs the ranks of a job on this machine, and ends them together.

    python -m slurm.controller LOGS RANKS  # its own number is the job's

SIGTERM, SIGUSR1, SIGUSR2 and Ctrl-C ask the ranks to save and to leave; a second Ctrl-C, or
SIGQUIT, ends them there and then. A rank that dies takes the others along within seconds, wherever
they are: they would wait for it for minutes. What it died of goes into its error file.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from clf.resilience.beats import EXIT_HANG
from clf.run_folder import RunFolder
from slurm.job import EXIT_REFUSED, EXIT_REQUEUE
from slurm.records import RankDied, record_error
from slurm.submitit_adapter import CONTROLLER, entry

POLL_S = 0.1
GRACE_S = 5  # for the other ranks to end by themselves after one has failed
LEAVE_S = 45  # the same after one has saved and left: rank 0 closes W&B
ASK = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Controller:
    """The ranks of one job.

    Args:
        logs: the folder `logs` of the run
        count: the number of ranks
    """

    def __init__(self, logs: Path, count: int) -> None:
        self.logs, self.count = logs, count
        self.ranks: list[subprocess.Popen[bytes]] = []
        self._interrupts = 0
        self._asked = self._told = self._ends_now = False
        self._ended: dict[int, int] = {}  # rank -> exit code, in the order in which they ended
        self._deadline = float("inf")

    def run(self) -> int:
        """Block until all ranks have ended; the exit code: 0 if all of them did their work."""
        for number in (*ASK, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._signalled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASK)  # whoever started this may block them
        self.ranks = [self._start(rank) for rank in range(self.count)]
        while len(self._ended) < self.count:
            self._look()
            if self._ends_now or time.monotonic() > self._deadline:
                self._kill()
            elif self._asked and not self._told:
                self._told = True
                self._send(signal.SIGTERM)
            time.sleep(POLL_S)
        return next((code for code in self._ended.values() if code), 0)

    def _signalled(self, number: int, frame: FrameType | None = None) -> None:
        self._asked = True
        self._interrupts += number == signal.SIGINT
        self._ends_now |= number == signal.SIGQUIT or self._interrupts > 1

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        job_id = str(os.getpid())
        own = {
            CONTROLLER: job_id,
            "SUBMITIT_EXECUTOR": "local",
            "SUBMITIT_LOCAL_JOB_ID": job_id,
            "SUBMITIT_LOCAL_NTASKS": str(self.count),
            "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
            "SUBMITIT_LOCAL_NODEID": "0",
            "SUBMITIT_LOCAL_LOCALID": str(rank),
            "SUBMITIT_LOCAL_GLOBALID": str(rank),
        }
        with RunFolder(self.logs.parent).log(job_id, rank).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", entry(self.logs), str(self.logs)],
                env={**os.environ, **own},
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_ask_me_when_my_parent_dies,
            )

    def _look(self) -> None:
        for rank, process in enumerate(self.ranks):
            if rank in self._ended or (code := process.poll()) is None:
                continue
            self._ended[rank] = code
            if code and self._deadline == float("inf"):
                self._deadline = time.monotonic() + (LEAVE_S if code == EXIT_REQUEUE else GRACE_S)
                self._note_death(rank, code)

    def _note_death(self, rank: int, code: int) -> None:
        """Write the error of the rank that ended first, if it could not do so itself."""
        run_dir = self.logs.parent
        said = (
            code in (EXIT_REFUSED, EXIT_REQUEUE, EXIT_HANG)
            or RunFolder(run_dir).error(rank).exists()
        )
        if said or self._asked:
            return
        killed = code < 0
        how = f"was ended by {signal.Signals(-code).name}" if killed else f"ended with code {code}"
        record_error(run_dir, rank, RankDied(f"rank {rank} {how}, without a word"))

    def _kill(self) -> None:
        self._deadline = float("inf")
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for rank, process in enumerate(self.ranks):
            if rank not in self._ended:
                process.send_signal(number)


def _ask_me_when_my_parent_dies() -> None:
    """Let the kernel send SIGTERM when the controller is killed: nobody would look after a rank."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(Controller(Path(sys.argv[1]), int(sys.argv[2])).run())
