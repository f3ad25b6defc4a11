"""Uploads what runs recorded offline to W&B, from where there is internet, also while they run."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.runs.folders import shown
from slurm.state import read_state


def sync(run_dirs: Sequence[Path]) -> int:
    """Upload every recording that W&B has not got whole. Exit code 1: one could not be uploaded."""
    failed = 0
    waiting = [path for path in run_dirs if unsynced(path)]
    for run_dir in waiting:
        lives = read_state(run_dir).lives
        print(f"{shown(run_dir)}{' (as far as it is written)' if lives else ''} ...", flush=True)
        failed += not _upload(unsynced(run_dir), lives)
    if failed:
        print(f"{failed} of {len(waiting)} runs were not uploaded; nothing of them is lost")
        return 1
    print(f"{len(waiting)} runs uploaded" if waiting else "nothing to upload")
    return 0


def unsynced(run_dir: Path) -> list[Path]:
    """The run's recordings, one a start, that grew since they were last uploaded; oldest first."""
    found = []
    for folder in sorted((run_dir / "wandb").glob("**/offline-run-*")):
        for file in folder.glob("*.wandb"):
            marker = file.with_name(f"{file.name}.synced")  # wandb's own
            if not marker.exists() or marker.stat().st_mtime < file.stat().st_mtime:
                found.append(folder)
    return found


def _upload(folders: list[Path], lives: bool) -> bool:
    """Whether `wandb sync` took them.

    Of a job that still writes, a copy is uploaded: wandb would mark the recording as uploaded, and
    a file that grows while it is read can end in half a record.
    """
    with tempfile.TemporaryDirectory(prefix="clf-sync-") as aside:
        if lives:
            copies = [Path(aside, folder.name) for folder in folders]
            for folder, copy in zip(folders, copies, strict=True):
                shutil.copytree(folder, copy)
            folders = copies
        command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-synced"]
        done = subprocess.run(
            [*command, *map(str, folders)],
            env={**os.environ, "WANDB_MODE": "online"},  # offline is what the jobs were
            stdin=subprocess.DEVNULL,
            check=False,
        )
    return done.returncode == 0
