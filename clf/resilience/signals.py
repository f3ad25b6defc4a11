"""A signal sets a flag and does nothing else; the training loop reads the flag when it can stop.

Saving inside a handler would hang, or leave half a file: a rank inside a collective runs no handler
until the collective returns. SLURM sends SIGTERM at a preemption or scancel, and before the time
limit the signal that the job asked for, here SIGUSR2. On this machine a person presses Ctrl-C:
`LocalStopRequest`. Imports no torch.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
# Modules in whose prompts and consoles Ctrl-C belongs to the person who debugs.
DEBUGGERS = ("pdb", "bdb", "IPython", "debugpy", "pydevd", "_pydevd_bundle")


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


class Stopped(BaseException):
    """Asked to leave before training began, when there is nothing to save."""

    def __init__(self, signal: str) -> None:
        super().__init__(f"{signal}: left before training began; what was saved before is kept")
        self.signal = signal


def exit_code_of(name: str) -> int:
    """What a shell reports of a process that has left for a signal, such as 143 for "SIGTERM"."""
    return 128 + signal.Signals[name]


class StopRequest:
    """Whether this process has been asked to leave, and by which signal."""

    def __init__(self) -> None:
        self.signal: str | None = None  # the first one received, such as "SIGUSR2"
        self.is_read = False  # the training loop looks at it; before, nobody does

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal of `STOP`."""
        self.signal = self.signal or signal.Signals(number).name

    def listen(self) -> None:
        """Become the handler of `STOP`, and unblock these signals, which may have been pending
        since the start of the task. Only the main thread may call this."""
        for number in STOP:
            signal.signal(number, self)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)


class LocalStopRequest(StopRequest):
    """The same for a run on this machine, which somebody may be looking at.

    Before the training loop looks at the request, there is nothing to save, and `Stopped` is raised
    at once. Ctrl-C is a request too, and a second one ends the process there and then, whatever it
    does: the main thread runs no handler while it waits in a collective, so a thread sees to it.
    While a debugger has the word, Ctrl-C is the debugger's.

    Args:
        say: called with a sentence at the first Ctrl-C
        end_now: called at the second, before the process ends with code 130
    """

    def __init__(
        self,
        say: Callable[[str], None] = lambda text: None,
        end_now: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.say, self.end_now = say, end_now
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}
        self._thread: threading.Thread | None = None

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if number == signal.SIGINT and _debugs(frame):
            raise KeyboardInterrupt
        is_first = self.signal is None
        super().__call__(number, frame)
        if is_first and not self.is_read:
            raise Stopped(signal.Signals(number).name)

    def listen(self) -> None:
        """Become the handler of Ctrl-C too, unless it is ignored, as in a command that a script has
        started with `&`."""
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        for number in STOP if ignored else (*STOP, signal.SIGINT):
            self._before[number] = signal.getsignal(number)
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._woken = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in self._before:
            signal.signal(number, self)
        # Unblocked in the thread as well: a signal arrives also while the main thread holds it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
        self._thread = threading.Thread(target=self._watch, name="clf-stop", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Put back the handlers of before."""
        self.is_read = True  # from here on nothing is raised
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken)
        os.close(self._writing)
        if self._thread is not None:
            self._thread.join()
        os.close(self._reading)

    def _watch(self) -> None:
        """Read the number of each signal, which the system's own handler writes at once."""
        while numbers := os.read(self._reading, 64):
            for number in numbers:
                if number == signal.SIGINT and not self._is_the_debuggers():
                    self._interrupted()

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self.end_now()
            os._exit(128 + signal.SIGINT)
        if self.is_read:
            self.say("Stopping: it saves at the end of this step. Ctrl-C again ends it now.")

    def _is_the_debuggers(self) -> bool:
        if signal.getsignal(signal.SIGINT) is not self:  # pdb has put its own in its place
            return True
        return _debugs(sys._current_frames().get(threading.main_thread().ident or 0))


def _debugs(frame: FrameType | None) -> bool:
    """Whether a debugger is at work where the main thread is."""
    while frame is not None:
        if str(frame.f_globals.get("__name__")).split(".")[0] in DEBUGGERS:
            return True
        frame = frame.f_back
    return False


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
