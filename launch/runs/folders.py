"""Run folders as a command meets them: new, to go on with, or complete already."""

import os
import shutil
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.config.compose import load, save
from clf.config.faults import ConfigError, nearest
from clf.run_folder import SILENT_S, RunFolder, read_status, snapshot_code
from launch.runs.changes import changes
from slurm import events, queue
from slurm.devices import has_slurm
from slurm.executor import private_files, read_record

MADE_FIRST = {"checkpoints", "code", "logs", "per_class", "wandb"}  # before config.yaml
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A run folder and how a command finds it: "new", "unfinished" or "finished"."""

    path: Path
    state: str
    changes: list[str] = field(default_factory=list)  # what differs from its own configuration


def find_run(cfg: RunConfig, allow_change: bool = False) -> Run:
    """The folder of a resolved config, and what is in it already. Writes nothing.

    Args:
        allow_change: accept settings that change the mathematics of the run

    Raises:
        ConfigError: the folder holds another run, or one that is running now
    """
    assert cfg.name is not None, "resolve(cfg) gives it a name"
    folder = RunFolder(Path(cfg.runs_dir, cfg.name))
    held = {entry.name for entry in folder.path.iterdir()} if folder.path.exists() else set()
    if held <= MADE_FIRST:
        return Run(folder.path, "new")
    if not folder.config.is_file():
        raise ConfigError(
            [f"name={cfg.name}: {folder.path} exists and is no run folder; choose another name"]
        )
    difference = changes(folder.path, load(folder.config), cfg, allow_change)
    if difference.faults:
        raise ConfigError(difference.faults)
    status = read_status(folder.path) or {}
    if status.get("state") == "finished":
        return Run(
            folder.path, "unfinished" if difference.more_epochs else "finished", difference.lines
        )
    if doing := _alive(folder.path, status):
        raise ConfigError(
            [f"name={cfg.name}: this run {doing}; wait for it, stop it, or choose another name"]
        )
    return Run(folder.path, "unfinished", difference.lines)


def _alive(run_dir: Path, status: dict[str, Any]) -> str:
    """What a job of the run is doing now; "" if there is none."""
    record = read_record(run_dir) or {}
    if record.get("cluster") == "slurm" and has_slurm():
        job_id = record["job_id"]
        if job_id == events.job_id():
            return ""  # this one, started again
        found = queue.job(job_id)
        if found is not None and found.lives:
            return f"is job {job_id} of SLURM, {found.state.lower()}"
        return ""
    fresh = time.time() - os.path.getmtime(run_dir / "status.json") < SILENT_S if status else False
    if status.get("state") == "running" and fresh and not _is_gone(status):
        return f"is running now (epoch {status.get('epoch')} of {status.get('epochs')})"
    return ""


def _is_gone(status: dict[str, Any]) -> bool:
    """Whether the run's process has ended, where it was one of this machine."""
    if status.get("host") != socket.gethostname():
        return False  # not to be seen from here
    try:
        os.kill(int(status["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def create(cfg: RunConfig, run: Run) -> None:
    """Make the folder with the resolved config and a snapshot of the code, as it is now."""
    with private_files():
        folder = RunFolder.create(run.path)
        # Whoever types the command again means the code as it is now; a requeued job keeps its own.
        shutil.rmtree(folder.code, ignore_errors=True)
        snapshot_code(ROOT, folder.code)
        _snapshot_packages(cfg.trusted_packages, folder.code)
        save(cfg, folder.config)


def update(cfg: RunConfig, run: Run) -> None:
    """Keep changed settings of a run; its code stays as it was."""
    with private_files():
        save(cfg, RunFolder(run.path).config)


def named(text: str, runs_dir: Path) -> Path:
    """The run folder that a person means: a path, or a name in `runs_dir` (`sweep/run` too).

    Raises:
        ConfigError: there is none
    """
    for path in (Path(text).expanduser(), runs_dir / text):
        if (path / "config.yaml").is_file():
            return path.absolute()
    known = [str(path.relative_to(runs_dir.absolute())) for path in all_runs(runs_dir)]
    guess = nearest(text, known)
    raise ConfigError(
        [
            f"{text}: no such run in {shown(runs_dir)}"
            + (f"; did you mean {guess[0]}?" if guess else "; `jobs.py list` shows what there is")
        ]
    )


def all_runs(runs_dir: Path) -> list[Path]:
    """Every run folder, those of sweeps included, oldest first."""
    root = runs_dir.absolute()
    configs = [*root.glob("*/config.yaml"), *root.glob("*/*/config.yaml")]
    return [path.parent for path in sorted(configs, key=lambda path: path.stat().st_mtime)]


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _snapshot_packages(packages: list[str], target: Path) -> None:
    """The user's own packages too, where they lie in the repository."""
    for package in packages:
        source = ROOT / package
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / package, ignore=ignore, dirs_exist_ok=True)
        elif source.with_suffix(".py").is_file():
            shutil.copy2(source.with_suffix(".py"), target)
