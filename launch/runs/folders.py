"""Run folders as a command meets them: new, to go on with, or complete already."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from clf.atomic import private_files
from clf.config import RunConfig
from clf.config.faults import ConfigError, nearest
from clf.config.files import ROOT
from clf.config.saved import load, save
from clf.resilience import lease
from clf.resilience.anew import next_place, weights_of
from clf.resilience.lease import Lease
from clf.run_folder import RunFolder, read_status
from launch.runs.changes import Changes, changes
from launch.runs.requests import Request
from slurm import environment, queue
from slurm.snapshot import snapshot_code, user_modules, write_commit
from slurm.state import what_it_does

# Made before config.yaml.
MADE_FIRST = {"checkpoints", "code", "lease.json", "logs", "per_class", "wandb"}


@dataclass(frozen=True)
class Run:
    """A run folder and how a command finds it: "new", "unfinished" or "finished"."""

    path: Path
    state: str
    changes: list[str] = field(default_factory=list)  # what differs from its own configuration
    refresh: bool = False  # whether it begins anew, from its weights


def find_run(cfg: RunConfig, allow_change: bool = False, refresh: bool = False) -> Run:
    """The folder of a resolved config, and what is in it already. Writes nothing.

    Args:
        allow_change: accept settings that change the mathematics of the run
        refresh: it is to begin anew with the data as they are now (`clf.resilience.anew`)

    Raises:
        ConfigError: the folder holds another run, or one that is running now
    """
    assert cfg.name is not None, "resolve(cfg) gives it a name"
    folder = RunFolder(Path(cfg.runs_dir, cfg.name))
    entries = list(folder.path.iterdir()) if folder.path.exists() else []
    held = {entry.name for entry in entries if not entry.name.startswith(".lease.json.")}
    if held <= MADE_FIRST:
        if refresh:
            raise ConfigError([f"--refresh-data: {folder.path} holds no run yet; leave it out"])
        return Run(folder.path, "new")
    if not folder.config.is_file():
        raise ConfigError(
            [f"name={cfg.name}: {folder.path} exists and is no run folder; choose another name"]
        )
    saved = load(folder.config)
    difference = (
        _begins_anew(folder, saved, cfg)
        if refresh
        else changes(folder.path, saved, cfg, allow_change)
    )
    if difference.faults:
        raise ConfigError(difference.faults)
    status = read_status(folder.path) or {}
    if status.get("state") == "finished" and not refresh:
        return Run(
            folder.path, "unfinished" if difference.more_epochs else "finished", difference.lines
        )
    if doing := what_it_does(folder.path):
        raise ConfigError(
            [
                f"name={cfg.name}: this run {doing}; wait for it, end it with `jobs.py cancel "
                f"{cfg.name}`, or choose another name"
            ]
        )
    return Run(folder.path, "unfinished", difference.lines, refresh)


def _begins_anew(folder: RunFolder, saved: RunConfig, cfg: RunConfig) -> Changes:
    """What --refresh-data does, or why it cannot."""
    if cfg.model._target_ != saved.model._target_:
        return Changes(
            faults=[
                f"--refresh-data: begins from the weights of {cfg.name}, which are those of "
                f"{saved.model._target_}, and got model._target_={cfg.model._target_}; give the "
                "run's own, or another --name"
            ]
        )
    try:
        weights = weights_of(folder)
    except ValueError as damaged:
        return Changes(faults=[f"--refresh-data: {damaged}"])
    start = f"the weights of {weights.name}" if weights else "new weights: it has no checkpoint yet"
    return Changes(
        [
            "--refresh-data: the images are listed anew, and the training begins again with epoch "
            f"1, from {start}",
            f"--refresh-data: what the run has written goes to {shown(next_place(folder))}",
        ]
    )


def take(request: Request, allow_change: bool = False) -> tuple[Run, Lease]:
    """Become the one writer of the run's folder, which is created if necessary, and look at what is
    in it. A name that the user has not chosen gets a number where another start has the folder.

    Raises:
        ConfigError: another start is its writer, or the folder holds another run
    """
    cfg = request.cfg
    assert cfg.name is not None, "resolve(cfg) gives it a name"
    path, own_name = Path(cfg.runs_dir, cfg.name), cfg.name
    if request.refresh:
        find_run(cfg, allow_change, refresh=True)  # before there is a folder
    for number in count(2):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
            break
        except FileExistsError:
            if request.named:
                break
            cfg.name = f"{own_name}-{number}"
            path = path.with_name(cfg.name)
    find_run(cfg, allow_change, request.refresh)  # SLURM says more of a job than its lease
    held = take_lease(path)
    try:
        return find_run(cfg, allow_change, request.refresh), held
    except BaseException:
        held.release()
        raise


def take_lease(path: Path) -> Lease:
    """Become the one writer of a run's folder, which is made if necessary. ConfigError: another
    process or job is."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    job, restart = environment.job_id(), environment.restarts()
    return lease.take(path, job, restart, has_ended=queue.has_ended)


def create(cfg: RunConfig, run: Run, notes: Sequence[str] = ()) -> None:
    """Make the folder with the resolved config, its notes and a snapshot of the code, as they are
    now."""
    with private_files():
        folder = RunFolder.create(run.path)
        # Whoever types the command again means the code as it is now; a requeued job keeps its own.
        shutil.rmtree(folder.code, ignore_errors=True)
        snapshot_code(ROOT, folder.code, user_modules(cfg))
        save(cfg, folder.config)
        write_commit(ROOT, folder.commit)
        folder.notes_file.unlink(missing_ok=True)
        folder.add_notes(notes)


def update(cfg: RunConfig, run: Run, notes: Sequence[str] = ()) -> None:
    """Keep changed settings and new notes of a run; its code stays as it was."""
    with private_files():
        if run.changes:
            save(cfg, RunFolder(run.path).config)
        RunFolder(run.path).add_notes(notes)


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
