"""A signal sets a flag, and nothing more: who reads the flag decides, at a moment that suits.

Saving inside a handler hangs or tears a file (a rank inside a collective runs no handler until it
returns). SLURM sends SIGTERM at a preemption or scancel, and the signal that a job asks for
(SIGUSR2 here) before its time limit. Imports no torch.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Preempted(Exception):
    """All ranks left at the same step; the run goes on from there when it is started again."""

    def __init__(self, signal: str, epoch: int, step: int) -> None:
        super().__init__(
            f"{signal}: left in epoch {epoch + 1} after step {step}, everything is saved"
        )
        self.signal, self.epoch, self.step = signal, epoch, step


class StopRequest:
    """Whether this process was asked to leave, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None  # the first one that came, such as "SIGUSR2"

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of `STOP`."""
        self.signal = self.signal or signal.Signals(number).name

    def listen(self) -> None:
        """Take `STOP` over from whoever had it, and let in what waited since `hold`. In the main
        thread only."""
        for number in STOP:
            signal.signal(number, self)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@contextmanager
def held() -> Iterator[None]:
    """`STOP` waits until the end of the block; processes and threads that start inside never get
    it.

    SLURM signals every process of a job's step. A helper, such as the one that W&B starts, would
    die of it while this process still needs it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
