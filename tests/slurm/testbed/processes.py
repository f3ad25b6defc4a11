"""The processes of one testbed, and no others: its daemons by their pid files, those of its jobs by
their environment."""

import os
import signal
import time
from pathlib import Path

END_S = 10  # for a process to be gone after SIGKILL


def daemon(pid_file: Path, folder: Path) -> int | None:
    """The process of `pid_file`, if it is there and was started with a file of `folder`.

    A pid may have gone to somebody else's process since the file was written.
    """
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return None
    words = _read(pid, "cmdline").split(b"\0")
    return pid if any(bytes(folder) + b"/" in word for word in words) else None


def of_jobs(folder: Path, node: str | None = None) -> list[int]:
    """Tasks, batch scripts and SLURM's step daemons of the testbed in `folder` (on `node`).

    A shell with this SLURM_CONF is not among them: SLURMD_NODENAME is set inside jobs only.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        pid = int(entry.name)
        variables = _read(pid, "environ").split(b"\0")
        if b"SLURM_CONF=" + bytes(folder / "slurm.conf") not in variables:
            continue
        if _read(pid, "comm") == b"slurmstepd\n":
            log = folder / "logs" / f"{node}.log"
            if node is None or log in _open_files(pid):
                found.append(pid)
        elif any(
            variable.startswith(b"SLURMD_NODENAME=" + (node or "").encode())
            for variable in variables
        ):
            found.append(pid)
    return sorted(found)


def kill(pids: list[int]) -> None:
    """SIGKILL them, and come back when they are gone. Raises TimeoutError if one is not."""
    for pid in pids:
        send(pid, signal.SIGKILL)
    deadline = time.monotonic() + END_S
    while left := [pid for pid in pids if is_alive(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} do not end after SIGKILL")
        time.sleep(0.02)


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended by now."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def is_alive(pid: int) -> bool:
    """Zombies count as gone: in a container nobody may collect them."""
    state = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(state) and state[0] not in (b"Z", b"X")


def _open_files(pid: int) -> list[Path]:
    try:
        return [path.readlink() for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # it ended meanwhile
        return []


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it ended meanwhile
        return b""
