"""One writer a run folder: whoever trains into it holds RUN/lease.json.

    lease = take(run_dir, job_id="12")  # ConfigError: somebody else does
    lease.release()

The file says who holds it, and its time of change, renewed every few seconds, that the holder still
lives. It is created by link(2), which is atomic over NFS too. A holder that is gone is known at
once on its own machine, by its process, whose number alone says nothing: by then another process
may have it. On another machine it is known by its silence, by the file system's clock and our own
stopwatch together: clocks of two machines differ, and any of them may jump. Imports no torch.
"""

import atexit
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from clf.config.faults import ConfigError
from clf.resilience.exclusive import age, create, mark, written
from clf.resilience.processes import Process, machine, this_process
from clf.resilience.signals import held
from clf.run_folder import RunFolder, read_json

BEAT_S = 5.0  # between two renewals
STALE_S = 60.0  # without a renewal the holder on another machine is taken for dead
WATCH_S = 3 * BEAT_S  # for how long an old lease is watched, in case a clock has jumped
PASS_ON = "CLF_LEASE"  # variable: the token of the lease that a local job takes over


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Args:
        processes: the one that writes, and the one that ends it and its fellows, if there is one
        job_id, restart: of SLURM; None outside of it
        token: tells this lease from every other one
    """

    host: str
    machine: str
    processes: list[Process]
    job_id: str | None
    restart: int
    command: str
    token: str
    since: float

    def is_here(self) -> bool:
        """Whether this machine can see the holder's processes."""
        return self.machine == machine()

    def is_gone(self) -> bool:
        """Whether its processes, of this machine, have ended."""
        return self.is_here() and not any(process.lives() for process in self.processes)

    def line(self) -> str:
        """Who it is, in words."""
        process = f"process {self.processes[0].pid} on {self.host}"
        who = f"job {self.job_id} ({process})" if self.job_id else process
        return (
            f"{who}, {self.command}, since {time.strftime('%H:%M:%S', time.localtime(self.since))}"
        )


def holder(run_dir: Path) -> Holder | None:
    """Who holds the run's lease; None: nobody, or what is there cannot be read."""
    content = read_json(RunFolder(run_dir).lease)
    if not isinstance(content, dict):
        return None
    with suppress(KeyError, TypeError):  # of another version
        processes = [Process(**one) for one in content.pop("processes")]
        return Holder(**content, processes=processes)
    return None


def living(run_dir: Path) -> Holder | None:
    """Who holds the lease and lives, as far as one look can tell; None: nobody does."""
    who = holder(run_dir)
    if who is None or who.is_gone():
        return None
    silent_s = 0.0 if who.is_here() else age(RunFolder(run_dir).lease)
    return who if silent_s is not None and silent_s < STALE_S else None


def take(
    run_dir: Path,
    job_id: str | None = None,
    restart: int = 0,
    beside: Process | None = None,
    passed_on: str | None = None,
    has_ended: Callable[[str], bool] = lambda job_id: False,
    waits: bool = False,
    command: str | None = None,
) -> "Lease":
    """Become the one writer of a run folder, which is there already.

    Args:
        job_id, restart: of SLURM, and how often it has started the job again: a job gets past the
            lease that its own earlier start has left
        beside: a process that lives as long as any of this run's does
        passed_on: the token of a lease whose holder has started this process to go on with it
        has_ended: whether SLURM says that a job is over
        waits: wait two minutes for a living one to give it back, as the command that has submitted
            this job does; False: refuse at once
        command: what was typed; None: as this process was started

    Raises:
        ConfigError: another one holds it and lives
    """
    mine = Holder(
        host=socket.gethostname(),
        machine=machine(),
        processes=[this_process(), *([beside] if beside else [])],
        job_id=job_id,
        restart=restart,
        command=command or Path(sys.argv[0]).name or "python",
        token=secrets.token_hex(8),
        since=time.time(),
    )
    path = RunFolder(run_dir).lease
    while not create(path, _text(mine)):
        there = holder(run_dir)
        ours = there is not None and (
            there.token == passed_on
            or (there.job_id is not None and there.job_id == job_id and there.restart < restart)
        )
        if not ours and _lives(run_dir, there, has_ended, waits):
            raise ConfigError([_refusal(run_dir, there)])
        _replace(path, there, mine)
    return Lease(path, mine)


class Lease:
    """A lease that this process holds, and renews by a thread until it is given back."""

    def __init__(self, path: Path, mine: Holder) -> None:
        self.path, self.mine = path, mine
        self._passed_on = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="clf-lease", daemon=True)
        with held():  # signals are for the main thread, which they must wake up
            self._thread.start()
        atexit.register(self.release)

    def pass_on(self) -> dict[str, str]:
        """The variables by which a job that this process starts takes the lease over. Until then it
        is this process's."""
        self._passed_on = True
        return {PASS_ON: self.mine.token}

    def release(self) -> None:
        """Give the lease back, if it is still ours. May be called again."""
        self._over.set()
        atexit.unregister(self.release)
        now = holder(self.path.parent)
        if now is not None and now.token == self.mine.token:
            with suppress(OSError):  # nobody takes the lease of a process that has ended for alive
                self.path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):  # a disk that is full, read-only or away: tried again
                if not self._renewed():
                    return

    def _renewed(self) -> bool:
        """Renew the lease; whether it is still ours."""
        now = holder(self.path.parent)
        if now is not None and now.token == self.mine.token:
            os.utime(self.path)  # without a time: the server's own
            return True
        if now is None:  # somebody has deleted it
            return not self.path.parent.is_dir() or create(self.path, _text(self.mine))
        if not self._passed_on and not self._over.is_set():
            _leave_to(now, self.path.parent)
        return False


def _leave_to(now: Holder, run_dir: Path) -> None:
    """End this process, which was silent for so long (suspended, or without the file system) that
    another one has taken the run: two must not write into one folder."""
    print(
        f"clf: {run_dir.name} was taken over by {now.line()}, since this process was silent for "
        f"{STALE_S:.0f} s; it ends, so that two do not write into one folder",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _refusal(run_dir: Path, there: Holder | None) -> str:
    who = there.line() if there else f"a process that has not said yet who it is ({run_dir})"
    return (
        f"name={run_dir.name}: this run is running now ({who}); wait for it, end it with "
        f"`jobs.py cancel {run_dir.name}`, or choose another name"
    )


def _lives(
    run_dir: Path, there: Holder | None, has_ended: Callable[[str], bool], waits: bool
) -> bool:
    """Whether a lease that was met is a living one's; watches it where one look does not tell.

    Times are of our own stopwatch: a lease that looks old or young because a clock has jumped is
    renewed all the same, or is not.
    """
    path = RunFolder(run_dir).lease
    here = there is not None and there.is_here()
    if there is not None and there.job_id is not None and not here and has_ended(there.job_id):
        return False
    last, silent_s = mark(path), age(path)
    quiet = WATCH_S if silent_s is not None and silent_s >= STALE_S else STALE_S
    renewed = began = time.monotonic()
    while last is not None:
        if there is not None and there.is_gone():
            return False
        if not waits and (here or (silent_s is not None and 0 <= silent_s < STALE_S)):
            return True
        if not here and time.monotonic() - renewed > quiet:
            return False
        if time.monotonic() - began > 2 * STALE_S:
            return True
        time.sleep(min(1.0, BEAT_S / 5))
        now = holder(run_dir)
        if (now and now.token) != (there and there.token):
            return False  # `take` looks once more whose it is now
        if mark(path) not in (last, None):
            if not waits:
                return True
            renewed = time.monotonic()
        last = mark(path)
    return False  # it was given back


def _replace(path: Path, there: Holder | None, mine: Holder) -> None:
    """Put a lease in the place of a stale one, unless another process is faster; `take` looks once
    more which of them it was.

    Each stale lease can be replaced by one process only: the one that created `claim`.
    """
    claim = path.with_name(f".{path.name}.{there.token if there else 'unread'}.claim")
    try:
        with written(claim, b""):
            now = holder(path.parent)
            if (now and now.token) == (there and there.token):
                path.unlink(missing_ok=True)
    except FileExistsError:  # by a process that is at it now, or that was killed at it
        time.sleep(0.2)
        if (age(claim) or 0) > STALE_S:
            claim.unlink(missing_ok=True)


def _text(mine: Holder) -> bytes:
    return RunFolder.as_json(asdict(mine)).encode()
