"""From Enter to the shell's prompt."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launch.benchmarks.comparison import Comparison, Measure, Side, Sizes, in_turns

ROOT = Path(__file__).resolve().parents[2]


def startup(sizes: Sizes) -> Iterator[Comparison]:
    """From Enter to the shell's prompt, beside what a command that imports Lightning would take."""

    def seconds(*words: str) -> Measure:
        def measure() -> float:
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
            )
            return time.perf_counter() - start

        return measure

    flags = ("--help", "--dry-run")
    commands = [seconds("launch/submit.py", flag) for flag in flags]
    *ours, peer = in_turns(sizes, *commands, seconds("-c", "import lightning"))
    for flag, values in zip(flags, ours, strict=True):
        mine, theirs = Side(f"python launch/submit.py {flag}", values), "import lightning"
        yield Comparison("a command, as a process", "s", mine, Side(f'python -c "{theirs}"', peer))
