"""From Enter to what a user waits for: the shell's prompt, `sbatch`, the first training step."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from launch.benchmarks.comparison import (
    ROOT,
    BenchmarkError,
    Comparison,
    Side,
    Sizes,
    in_turns,
)
from launch.benchmarks.first_step import plain_script, train
from launch.benchmarks.meter import Meter

# What stands in for SLURM: a partition with GPUs, and an `sbatch` that takes every job.
STAND_INS = {
    "sinfo": "echo 'main|node1|64|500000|gpu:8'",
    "scontrol": "echo 'PartitionName=main Default=YES MaxTime=UNLIMITED State=UP'",
    "srun": "",
    "squeue": "",
    "sbatch": 'date +%s.%N > "$(dirname "$0")/called"; echo 1',
}


def startup(sizes: Sizes) -> Iterator[Comparison]:
    """From Enter on, beside what a command that imports Lightning would take, and a plain script of
    the same training."""
    commands = [["launch/submit.py", flag] for flag in ("--help", "--dry-run")]
    ours = [Side(f"python {' '.join(words)}", command, {"words": words}) for words in commands]
    submitting = Side("python launch/submit.py, until it has called sbatch", submit)
    words = ["-c", "import lightning"]
    peer = Side('python -c "import lightning"', command, {"words": words})
    *mine, to_sbatch, theirs = in_turns(sizes, *ours, submitting, peer)
    for measured in mine:
        yield Comparison("a command, as a process", "s", [measured, theirs])
    yield Comparison("from Enter to sbatch", "s", [to_sbatch, theirs])
    yield Comparison(
        "from Enter to the first training step, ResNet-18, digits, CPU",
        "s",
        in_turns(
            sizes,
            Side("python launch/train.py", train),
            Side("plain script with Lightning and torchvision", plain_script),
        ),
    )


def command(meter: Meter, words: list[str]) -> None:
    """Python with these words, from its start to its end."""
    meter.start()
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    meter.stop(1)


def submit(meter: Meter) -> None:
    """submit.py with stand-ins for SLURM's commands, until it has called the last of them; the
    time of the processor is that of the whole command."""
    with tempfile.TemporaryDirectory() as folder:
        for name, does in STAND_INS.items():
            Path(folder, name).write_text(f"#!/bin/sh\n{does}\n")
            Path(folder, name).chmod(0o700)
        called = Path(folder, "called")
        words = ["launch/submit.py", "--model", "resnet18", f"runs_dir={folder}/runs"]
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        meter.start()
        begun = time.time()
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "SLURM_CONF": f"{folder}/slurm.conf"},
            capture_output=True,
            text=True,
        )
        meter.stop(1)
        if done.returncode or not called.is_file():
            raise BenchmarkError(f"submit.py did not reach sbatch: {done.stderr.strip()[-300:]}")
        assert meter.reading is not None
        meter.reading = replace(meter.reading, wall_s=float(called.read_text()) - begun)
