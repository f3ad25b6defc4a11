"""Several runs from one command: each combination of the swept values a run, all of them one job
array, or one after the other where there is no SLURM.

runs/<sweep>/sweep.json  runs/<sweep>/<run>/...   one W&B group
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from slurm import records

NOT_SWEPT = ("name", "runs_dir", "nodes", "gpus", "slurm", "recipe")
ONE = "all runs of a sweep ask for the same nodes and go into one folder"


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder and its runs: name -> the swept settings."""

    folder: Path
    runs: dict[str, dict[str, str]]

    @property
    def run_dirs(self) -> list[Path]:
        return [self.folder / name for name in self.runs]


def submit_sweep(settings: list[str], swept: list[str], dry_run: bool) -> int:
    """Check every run, then start them all. Exit code 1: a local run failed."""
    from clf.config import ConfigError
    from launch.runs.checking import print_notes
    from launch.terminal.summary import console
    from slurm.devices import has_slurm
    from slurm.script import script

    sweep, configs, notes = plan(settings, swept, fetch=not dry_run)
    first = configs[0]
    if dry_run:
        print(f"# {sweep.folder}: {len(configs)} runs\n" + "\n".join(sweep.runs))
        if has_slurm():
            print(f"\n# sbatch would get:\n{script(first, sweep.run_dirs, sweep.folder)}")
        print("# nothing was submitted")
        return 0
    out = console()
    print_notes(notes)
    try:
        return start(out, sweep, configs, new=True)
    except ConfigError as error:
        raise ConfigError(
            [f"sweep {sweep.folder.name}: {fault}" for fault in error.faults]
        ) from None


def plan(
    settings: list[str], swept: list[str], fetch: bool
) -> tuple[Sweep, list[RunConfig], list[str]]:
    """The runs of a sweep with their resolved configs, and notes for the user.

    Raises:
        ConfigError: every fault of every run, and of what is asked of SLURM
    """
    from clf.config import ConfigError
    from clf.config.overrides import sweep as read_sweep
    from clf.plan import resolve
    from launch.runs.checking import look, with_devices

    values, faults = read_sweep(swept)
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
    notes: list[str] = []
    for chosen in itertools.product(*values.values()):
        one = dict(zip(values, chosen, strict=True))
        examined = with_devices([*rest, *place, *(f"{key}={text}" for key, text in one.items())])
        cfg, faults = examined.cfg, faults + examined.faults
        notes += examined.notes
        if cfg is None:
            continue
        resolve(cfg)
        name = name or cfg.name
        runs[_run_name(one, runs)] = one
        configs.append(cfg)
    if faults:
        raise ConfigError(faults)
    assert name is not None
    folder = Path(configs[0].runs_dir, name)
    for run, cfg in zip(runs, configs, strict=True):
        cfg.name, cfg.runs_dir = run, str(folder)
        cfg.tracking.group = cfg.tracking.group or name
    sweep = Sweep(folder, runs)
    looked = look(configs[0], sweep.run_dirs, folder, fetch)
    faults, notes = looked.faults, list(dict.fromkeys(notes + looked.notes))
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        faults.append(f"name={name}: cannot be the name of a folder of runs")
    if (folder / "config.yaml").exists():
        faults.append(f"name={name}: {folder} is a run, not a sweep; choose another name")
    if faults:
        raise ConfigError(faults)
    return sweep, configs, notes


def start(out: Any, sweep: Sweep, configs: Sequence[RunConfig], new: bool) -> int:
    """Start those runs of a sweep that are not done.

    Args:
        new: make their folders, with the code as it is now; False: they go on as they began
    """
    from launch.runs.folders import create, find_run, shown
    from launch.terminal.summary import print_commands
    from slurm.devices import has_slurm
    from slurm.executor import submit_array
    from slurm.records import clear_errors, write_sweep

    found = [(cfg, find_run(cfg)) for cfg in configs]
    waiting = [(cfg, run) for cfg, run in found if run.state != "finished"]
    if not waiting:
        out.print(f"All {len(found)} runs of {sweep.folder.name} are done already.")
        return 0
    write_sweep(sweep.folder, sweep.runs)
    for cfg, run in waiting:
        if new:
            create(cfg, run)
        clear_errors(run.path)
    if not has_slurm():
        return _one_after_the_other(out, sweep, waiting)
    jobs = submit_array(waiting[0][0], [run.path for _, run in waiting], sweep.folder)
    at_once = waiting[0][0].slurm.parallel
    out.print(
        f"submitted {len(jobs)} runs as SLURM job array {jobs[0].job_id.partition('_')[0]}"
        + (f", {at_once} at a time" if at_once else "")
    )
    out.print(f"folder  {shown(sweep.folder)}", soft_wrap=True)
    name = sweep.folder.name
    print_commands(
        out,
        [
            (f"python launch/jobs.py list --sweep {name}", "a table of its runs"),
            (f"python launch/jobs.py resume --sweep {name}", "submit again what failed"),
        ],
    )
    return 0


def read_sweep(folder: Path) -> Sweep | None:
    """The sweep of a folder; None if it is none."""
    runs = records.read_sweep(folder)
    return Sweep(folder, runs) if runs else None


def _one_after_the_other(out: Any, sweep: Sweep, waiting: Sequence[tuple[RunConfig, Any]]) -> int:
    from launch.terminal.follow import Follower, print_failure
    from launch.terminal.views import print_results
    from slurm.executor import submit
    from slurm.state import read_states

    failed = 0
    for place, (cfg, run) in enumerate(waiting, 1):
        out.print(f"\nrun {place} of {len(waiting)}: {run.path.name}")
        job = submit(cfg, run.path)
        if not Follower(out, job, run.path).follow():
            failed += 1
            print_failure(out, job, run.path)
    out.print()
    print_results(out, sweep, read_states(sweep.run_dirs))
    return 1 if failed else 0


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
