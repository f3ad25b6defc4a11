"""A signal sets a flag and does nothing else; the training loop reads the flag when it can stop.

Saving inside a handler would hang, or leave half a file: a rank inside a collective runs no handler
until the collective returns. SLURM sends SIGTERM at a preemption or scancel, and before the time
limit the signal that the job asked for, here SIGUSR2. Imports no torch.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Preempted(Exception):
    """All ranks have left at the same step; the run goes on from there when it is started again."""

    def __init__(self, signal: str, epoch: int, step: int, unsaved: str = "") -> None:
        """
        Args:
            unsaved: why the last checkpoint is not on the disk; empty: it is
        """
        saved = "everything is saved"
        if unsaved:
            saved = f"NOT saved ({unsaved}); the run goes on from the checkpoint before"
        super().__init__(f"{signal}: left in epoch {epoch + 1} after step {step}, {saved}")
        self.signal, self.epoch, self.step, self.unsaved = signal, epoch, step, unsaved


class StopRequest:
    """Whether this process has been asked to leave, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None  # the first one received, such as "SIGUSR2"

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal of `STOP`."""
        self.signal = self.signal or signal.Signals(number).name

    def listen(self) -> None:
        """Become the handler of `STOP`, and unblock these signals, which may have been pending
        since the start of the task. Only the main thread may call this."""
        for number in STOP:
            signal.signal(number, self)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


@contextmanager
def held() -> Iterator[None]:
    """Block `STOP` until the end of the block. Processes and threads that start inside never
    receive these signals.

    SLURM signals every process of a job's step. A helper process, such as W&B's, would be killed
    while this process still needs it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
