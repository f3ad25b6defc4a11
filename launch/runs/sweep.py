"""Several runs from one command: each combination of the swept values is a run. All of them are one
job array, or start one after the other where there is no SLURM.

runs/<sweep>/sweep.json  runs/<sweep>/<run>/...   one W&B group
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.config import ConfigError, RunConfig
from clf.config.given import NOT_SWEPT
from clf.config.overrides import sweep as read_values
from clf.plan import resolve
from launch.runs.folders import Run, find_run, take_lease
from launch.runs.lifecycle import make_ready, resume_notes
from launch.runs.requests import before_the_queue, to_resume, with_devices
from slurm.executor import submit, submit_array
from slurm.records import read_sweep, write_sweep
from slurm.state import read_states

ONE = "all runs of a sweep ask for the same nodes and go into one folder"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and its runs: name -> the swept settings."""

    folder: Path
    runs: dict[str, dict[str, str]]

    @property
    def run_dirs(self) -> list[Path]:
        return [self.folder / name for name in self.runs]


@dataclass(frozen=True)
class Plan:
    """A sweep, checked: what of it is to be started, and notes for the user on each run."""

    sweep: Sweep
    configs: list[RunConfig]
    run_notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def notes(self) -> list[str]:
        """The notes on all runs, each once."""
        return list(dict.fromkeys(note for notes in self.run_notes.values() for note in notes))


def plan(
    settings: list[str],
    swept: list[str],
    fetch: bool,
    announce: Callable[[str], None] = lambda text: None,
) -> Plan:
    """The runs of a sweep with their resolved configurations.

    Raises:
        ConfigError: every fault of every run, and of what is asked of SLURM
    """
    values, faults = read_values(swept)
    faults += [
        f"--sweep {key}: cannot be swept; {ONE}" for key in values if key.split(".")[0] in NOT_SWEPT
    ]
    if faults:
        raise ConfigError(faults)
    name, rest = _taken("name", settings)
    runs_dir, rest = _taken("runs_dir", rest)
    place = [f"runs_dir={runs_dir}"] if runs_dir else []
    configs: list[RunConfig] = []
    runs: dict[str, dict[str, str]] = {}
    run_notes: dict[str, list[str]] = {}
    for chosen in itertools.product(*values.values()):
        one = dict(zip(values, chosen, strict=True))
        examined = with_devices([*rest, *place, *(f"{key}={text}" for key, text in one.items())])
        cfg, faults = examined.cfg, faults + examined.faults
        if cfg is None:
            continue
        resolve(cfg)
        name = name or cfg.name
        run_notes[run := _run_name(one, runs)] = examined.notes
        runs[run] = one
        configs.append(cfg)
    if faults:
        raise ConfigError(faults)
    assert name is not None
    folder = Path(configs[0].runs_dir, name)
    for run, cfg in zip(runs, configs, strict=True):
        cfg.name, cfg.runs_dir = run, str(folder)
        cfg.tracking.group = cfg.tracking.group or name
    sweep = Sweep(folder, runs)
    found = before_the_queue(configs[0], sweep.run_dirs, folder, fetch, announce=announce)
    faults = found.faults
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        faults.append(f"name={name}: cannot be the name of a folder of runs")
    if (folder / "config.yaml").exists():
        faults.append(f"name={name}: {folder} is a run, not a sweep; choose another name")
    if faults:
        raise ConfigError(faults)
    return Plan(sweep, configs, {run: notes + found.notes for run, notes in run_notes.items()})


def plan_resume(
    sweep: Sweep,
    overrides: Sequence[str] = (),
    announce: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Those runs of a sweep that are neither done nor in the queue, with their own configurations
    and the overrides. With an override, a finished run may have something left to do."""
    waiting = [
        one.path
        for one in read_states(sweep.run_dirs)
        if not one.lives and (one.state != "finished" or overrides)
    ]
    chosen = Sweep(sweep.folder, {path.name: sweep.runs[path.name] for path in waiting})
    configs = [to_resume(path, overrides) for path in waiting]
    notes = resume_notes(configs[0], waiting, sweep.folder, announce) if waiting else []
    return Plan(chosen, configs, dict.fromkeys(chosen.runs, notes))


def waiting_runs(planned: Plan, allow_change: bool = False) -> list[tuple[RunConfig, Run]]:
    """Those runs that are not done.

    Raises:
        ConfigError: a folder holds another run, or one that is running now
    """
    try:
        runs = [(cfg, find_run(cfg, allow_change)) for cfg in planned.configs]
    except ConfigError as error:
        name = planned.sweep.folder.name
        raise ConfigError([f"sweep {name}: {fault}" for fault in error.faults]) from None
    return [(cfg, run) for cfg, run in runs if run.state != "finished"]


def prepare(planned: Plan, waiting: Sequence[tuple[RunConfig, Run]], new_code: bool) -> None:
    """Make the folders of the sweep and of those runs.

    Args:
        new_code: with the code as it is now; False: each run keeps its snapshot
    """
    write_sweep(planned.sweep.folder, planned.sweep.runs)
    for cfg, run in waiting:
        lease = take_lease(run.path)
        try:
            make_ready(cfg, run, planned.run_notes.get(run.path.name, []), new_code)
        finally:
            lease.release()


def start_array(sweep: Sweep, waiting: Sequence[tuple[RunConfig, Run]]) -> str:
    """Submit those runs as one job array of SLURM; gives its number."""
    jobs = submit_array(waiting[0][0], [run.path for _, run in waiting], sweep.folder)
    return jobs[0].job_id.partition("_")[0]


def start_one_by_one(waiting: Sequence[tuple[RunConfig, Run]]) -> Iterator[tuple[Run, Any]]:
    """Each run with the handle of its job, which starts when the iterator reaches it."""
    for cfg, run in waiting:
        yield run, submit(cfg, run.path, take_lease(run.path))


def find_sweep(name: str, runs_dir: Path) -> Sweep:
    """The sweep of that name in `runs_dir`, or of that path.

    Raises:
        ConfigError: there is none
    """
    for folder in (runs_dir / name, Path(name)):
        if runs := read_sweep(folder.absolute()):
            return Sweep(folder.absolute(), runs)
    raise ConfigError([f"--sweep {name}: no such sweep in {runs_dir}"])


def _taken(key: str, settings: list[str]) -> tuple[str | None, list[str]]:
    """The value of a setting, and the other settings."""
    rest = [text for text in settings if not text.startswith(f"{key}=")]
    values = [text.partition("=")[2] for text in settings if text.startswith(f"{key}=")]
    return (values[-1] if values else None), rest


def _run_name(chosen: dict[str, str], taken: dict[str, Any]) -> str:
    """`learning_rate-1e-4_seed-0`: a file name that says what differs."""
    parts = [f"{key.rpartition('.')[2]}-{text}" for key, text in chosen.items()]
    name = re.sub(r"[^\w.-]+", "-", "_".join(parts), flags=re.ASCII).strip("-_.")[:100]
    return name if name not in taken else f"{name}-{len(taken)}"
