"""Uploads what runs recorded offline to W&B, from a machine that has internet, also while the runs
are active."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from slurm.state import read_state


@dataclass(frozen=True)
class Unsynced:
    """A run with recordings that W&B does not have, or not whole."""

    run_dir: Path
    recordings: list[Path]  # a folder for each start of the run, oldest first
    lives: bool  # its job may still write


def unsynced_runs(run_dirs: Iterable[Path]) -> list[Unsynced]:
    """The runs that `upload` is to be called with."""
    recordings = ((run_dir, unsynced(run_dir)) for run_dir in run_dirs)
    return [Unsynced(run, each, read_state(run).lives) for run, each in recordings if each]


def unsynced(run_dir: Path) -> list[Path]:
    """The run's recordings that grew since they were last uploaded, oldest first."""
    recordings = []
    for folder in sorted((run_dir / "wandb").glob("**/offline-run-*")):
        for file in folder.glob("*.wandb"):
            marker = file.with_name(f"{file.name}.synced")  # wandb writes it
            if not marker.exists() or marker.stat().st_mtime < file.stat().st_mtime:
                recordings.append(folder)
    return recordings


def upload(run: Unsynced) -> bool:
    """Whether `wandb sync` uploaded all of it.

    Of a job that still writes, a copy is uploaded: wandb would mark the recording as uploaded, and
    a file that grows while it is read can end in half a record.
    """
    folders = run.recordings
    with tempfile.TemporaryDirectory(prefix="clf-sync-") as aside:
        if run.lives:
            copies = [Path(aside, folder.name) for folder in folders]
            for folder, copy in zip(folders, copies, strict=True):
                shutil.copytree(folder, copy)
            folders = copies
        command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-synced"]
        done = subprocess.run(
            [*command, *map(str, folders)],
            env={**os.environ, "WANDB_MODE": "online"},  # the jobs may have set it to offline
            stdin=subprocess.DEVNULL,
            check=False,
        )
    return done.returncode == 0
