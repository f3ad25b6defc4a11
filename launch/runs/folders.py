"""Run folders as a command meets them: new, to go on with, or complete already."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.config.faults import ConfigError, show
from clf.run_folder import read_status
from slurm.records import private_files
from slurm.snapshot import snapshot_code, user_modules
from slurm.state import what_it_does

# What may change between two starts of a run: it alters its speed or its record, not its
# mathematics.
MAY_DIFFER = (
    *("nodes", "gpus", "debug", "slurm.", "tracking."),
    *("data.threads", "data.prefetch", "data.stage"),
    *("strategy.name", "strategy.offload_", "strategy.gradient_checkpointing"),
)
MADE_FIRST = {"checkpoints", "code", "logs", "per_class", "wandb"}  # before config.yaml
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Run:
    """A run folder and how a command finds it: "new", "unfinished" or "finished"."""

    path: Path
    state: str


def find_run(cfg: RunConfig) -> Run:
    """The folder of a resolved config, and what is in it already. Writes nothing.

    Raises:
        ConfigError: the folder holds another run, or one that is running now
    """
    from clf.run_folder import RunFolder

    assert cfg.name is not None, "resolve(cfg) gives it a name"
    folder = RunFolder(Path(cfg.runs_dir, cfg.name))
    held = {entry.name for entry in folder.path.iterdir()} if folder.path.exists() else set()
    if held <= MADE_FIRST:
        return Run(folder.path, "new")
    if not folder.config.is_file():
        raise ConfigError(
            [f"name={cfg.name}: {folder.path} exists and is no run folder; choose another name"]
        )
    faults = _differences(folder.config, cfg)
    if faults:
        raise ConfigError(faults)
    status = read_status(folder.path) or {}
    if status.get("state") == "finished":
        return Run(folder.path, "finished")
    if doing := what_it_does(folder.path):
        raise ConfigError(
            [f"name={cfg.name}: this run {doing}; wait for it, stop it, or choose another name"]
        )
    return Run(folder.path, "unfinished")


def create(cfg: RunConfig, run: Run) -> None:
    """Make the folder with the resolved config and a snapshot of the code, as it is now."""
    from clf.config.compose import save
    from clf.run_folder import RunFolder

    with private_files():
        folder = RunFolder.create(run.path)
        # Who types the command again means the code as it is now; a requeued job keeps its own.
        shutil.rmtree(folder.code, ignore_errors=True)
        snapshot_code(ROOT, folder.code, user_modules(cfg))
        save(cfg, folder.config)


def named(text: str, runs_dir: Path) -> Path:
    """The run folder that a person means: a path, or a name in `runs_dir` (`sweep/run` too).

    Raises:
        ConfigError: there is none
    """
    from clf.config.faults import nearest

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
    found = [*root.glob("*/config.yaml"), *root.glob("*/*/config.yaml")]
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _differences(saved_path: Path, cfg: RunConfig) -> list[str]:
    from clf.config.compose import load

    saved, now = _flat(load(saved_path)), _flat(cfg)
    faults = []
    for key in now | saved:
        old, new = saved.get(key), now.get(key)
        if old != new and not key.startswith(MAY_DIFFER):
            faults.append(
                f"{key}={show(new)}: the run {cfg.name} was begun with {key}={show(old)}; "
                "give that to go on with it, or another --name for a new run"
            )
    return faults


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if hasattr(node, "__dataclass_fields__"):
        node = vars(node)
    if not isinstance(node, dict):
        return {prefix.rstrip("."): node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _flat(value, f"{prefix}{key}.")
    return found
