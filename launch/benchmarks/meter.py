"""Time of the wall and of the processor that a process and those that it starts take, and its
memory."""

import contextlib
import os
import resource
import time
from pathlib import Path

from launch.benchmarks.comparison import BenchmarkError, Reading

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Meter:
    """Measures what happens between `start` and `stop`: what comes before, such as imports, the
    building of a loader and a pass to warm up, does not count."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None
        self._before_mb = 0.0
        self.reading: Reading | None = None

    def start(self) -> None:
        with contextlib.suppress(OSError):  # where it may not, an earlier peak counts too
            Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now: proc(5)
        self._before_mb = _memory_mb("VmRSS")
        self._start = time.perf_counter(), cpu_seconds()

    def stop(self, amount: float) -> None:
        """`amount`: how much was done, such as the number of images."""
        wall, cpu = time.perf_counter(), cpu_seconds()
        if self._start is None:
            raise BenchmarkError("its meter was stopped without a start")
        if not amount > 0:
            raise BenchmarkError(f"nothing was done: amount {amount}")
        peak_mb = max(0.0, _memory_mb("VmHWM") - self._before_mb)
        self.reading = Reading(amount, wall - self._start[0], cpu - self._start[1], peak_mb)


def _memory_mb(name: str) -> float:
    """A number of /proc/self/status: VmRSS, what is held now, or VmHWM, the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kib) * 1024 / 1e6


def cpu_seconds() -> float:
    """Of this process, its children that have ended, and its descendants that run.

    The first two are exact, the last by the kernel's tick, which is usually 10 ms.
    """
    ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    here = sum(usage.ru_utime + usage.ru_stime for usage in ended)
    times, children = _processes()
    running, found = list(children.get(os.getpid(), [])), 0.0
    while running:
        pid = running.pop()
        found += times[pid]
        running += children.get(pid, [])
    return here + found


def _processes() -> tuple[dict[int, float], dict[int, list[int]]]:
    """Of all that run: seconds with those of their ended children by pid, and children by pid."""
    times: dict[int, float] = {}
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name before the last ) may have spaces: see proc_pid_stat(5).
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        pid = int(folder.name)
        times[pid] = sum(int(field) for field in fields[11:15]) / TICKS_PER_S
        children.setdefault(int(fields[1]), []).append(pid)
    return times, children
