"""Processes told apart by more than their number, which the system gives away again. Imports no
torch."""

import functools
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

UNSEEN = "?"  # the start of a process that is there, and may not be looked at


@dataclass(frozen=True)
class Process:
    """A process of this machine.

    Args:
        began: when it began, as the system writes it
    """

    pid: int
    began: str

    def lives(self) -> bool:
        """Whether it still runs, and not another one under its number."""
        now = _began(self.pid)
        return now is not None and (UNSEEN in (now, self.began) or now == self.began)


def process(pid: int) -> Process | None:
    """The process of that number; None: there is none."""
    began = _began(pid)
    return None if began is None else Process(pid, began)


def this_process() -> Process:
    return Process(os.getpid(), _began(os.getpid()) or UNSEEN)


@functools.cache
def machine() -> str:
    """Tells where the numbers of processes mean the same: a machine since its start, and within it
    a container with processes of its own. Two containers may well have one host name."""
    texts = [os.uname().nodename]
    with suppress(OSError):  # there is no /proc
        texts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        texts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(texts)


def _began(pid: int) -> str | None:
    """When a process began; None: there is none, or it has ended and nobody has asked how."""
    if not Path("/proc/self/stat").exists():
        return _ask_ps(pid)
    try:
        # After the name, which may hold spaces and brackets: the state, and 19 fields later the
        # start, in clock ticks since that of the machine.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return UNSEEN if _is_anothers(pid) else None
    return None if fields[0] in "ZX" else fields[19]


def _is_anothers(pid: int) -> bool:
    """Whether it is another user's, where /proc hides those."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return False


def _ask_ps(pid: int) -> str | None:
    """On macOS."""
    command = ["ps", "-o", "state=,lstart=", "-p", str(pid)]
    state, _, began = (
        subprocess.run(command, capture_output=True, text=True, check=False)
        .stdout.strip()
        .partition(" ")
    )
    return None if not began or state.startswith("Z") else " ".join(began.split())
