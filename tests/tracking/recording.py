"""Reads what W&B has recorded in a run folder."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from clf.run_folder import RunFolder


def offline_runs(folder: RunFolder) -> list[Path]:
    return sorted(folder.wandb.glob("offline-run-*"))


def records(run: Path) -> list[dict[str, Any]]:
    """What the .wandb file of a start holds, as W&B's own tool shows it."""
    (path,) = run.glob("*.wandb")
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", path]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
