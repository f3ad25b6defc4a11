"""From Enter to the shell's prompt."""

import subprocess
import sys
from collections.abc import Iterator

from launch.benchmarks.comparison import ROOT, Comparison, Side, Sizes, in_turns
from launch.benchmarks.meter import Meter


def startup(sizes: Sizes) -> Iterator[Comparison]:
    """From Enter to the shell's prompt, beside what a command that imports Lightning would take."""
    commands = [["launch/submit.py", flag] for flag in ("--help", "--dry-run")]
    ours = [Side(f"python {' '.join(words)}", command, {"words": words}) for words in commands]
    words = ["-c", "import lightning"]
    peer = Side('python -c "import lightning"', command, {"words": words})
    *mine, theirs = in_turns(sizes, *ours, peer)
    for measured in mine:
        yield Comparison("a command, as a process", "s", [measured, theirs])


def command(meter: Meter, words: list[str]) -> None:
    """Python with these words, from its start to its end."""
    meter.start()
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    meter.stop(1)
