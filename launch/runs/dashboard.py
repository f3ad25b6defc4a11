"""From a run or a project to the definition of its dashboard in W&B, from run folders alone."""

from collections.abc import Sequence
from pathlib import Path

from clf.config import ConfigError, RunConfig
from clf.config.faults import is_for_the_user
from clf.config.saved import load
from clf.metrics.measures import line
from clf.run_folder import RunFolder, read_status
from clf.tracking.dashboard import Dashboard
from clf.tracking.tables import header, read_csv
from launch.runs.folders import all_runs, named

FILE = "dashboard.json"


def find_dashboard(text: str, runs_dir: Path, entity: str | None) -> tuple[Dashboard, Path]:
    """The dashboard that a person means, and the file that its definition goes to.

    Args:
        text: a run folder, a name in `runs_dir`, or a project as PROJECT or ENTITY/PROJECT
        entity: W&B's user or team; None: that of the run's configuration

    Raises:
        ConfigError: there is neither such a run nor a run of such a project
    """
    try:
        run_dir = named(text, runs_dir)
    except ConfigError as no_run:
        return _of_project(text, runs_dir, entity, no_run)
    tracking = load(RunFolder(run_dir).config).tracking
    dashboard = _of_runs([run_dir], tracking.project, entity or tracking.entity, run_dir.name)
    if not dashboard.runs:
        raise ConfigError(
            [f"{text}: it has no run in W&B: not started yet, or tracking.mode=disabled"]
        )
    return _again(dashboard, RunFolder(run_dir).wandb / FILE)


def _of_project(
    text: str, runs_dir: Path, entity: str | None, no_run: ConfigError
) -> tuple[Dashboard, Path]:
    owner, _, project = text.rpartition("/")
    configs = {run_dir: cfg for run_dir in all_runs(runs_dir) if (cfg := _config(run_dir))}
    own = [run_dir for run_dir, cfg in configs.items() if cfg.tracking.project == project]
    if not own:
        projects = sorted({cfg.tracking.project for cfg in configs.values()})
        known = f" (there are {', '.join(projects)})" if projects else ""
        raise ConfigError(
            [f"{no_run.faults[0]}; nor is it the project in W&B of a run there{known}"]
        )
    owners = [entity, owner, *(configs[run].tracking.entity for run in own)]
    whose = next(filter(None, owners), None)
    dashboard = _of_runs(own, project, whose, f"Project {project}")
    # The project may hold runs of others.
    everything = Dashboard(
        project, whose, dashboard.title, {}, dashboard.split, dashboard.nodes, dashboard.summary
    )
    return _again(everything, runs_dir / f"dashboard-{project}.json")


def _of_runs(runs: Sequence[Path], project: str, entity: str | None, title: str) -> Dashboard:
    tables = [RunFolder(run).per_class / "val.csv" for run in runs]
    columns = [name for table in tables if table.is_file() for name in header(read_csv(table))]
    nodes = [name.removeprefix("support/") for name in columns if name.startswith("support/")]
    tested = [run for run in runs if (RunFolder(run).per_class / "test.csv").is_file()]
    states = {run: read_status(run) or {} for run in runs}
    ids = {run: state["wandb_id"] for run, state in states.items() if state.get("wandb_id")}
    over = [run for run in runs if states[run].get("state") == "finished"]
    split = "val" if over and not tested else "test"
    results = {run: line(states[run].get("metrics", {}), split) for run in over}
    summary = [f"{run.name}: {split} {result}" for run, result in results.items() if result]
    names = {ids[run]: run.name for run in ids}
    return Dashboard(project, entity, title, names, split, [*dict.fromkeys(nodes)], summary)


def _again(dashboard: Dashboard, file: Path) -> tuple[Dashboard, Path]:
    """The dashboard, with the addresses of the one that it replaces."""
    if file.is_file():
        dashboard.addresses.update(Dashboard.read(file).addresses)
    return dashboard, file


def _config(run_dir: Path) -> RunConfig | None:
    """None for a run of another version, whose configuration cannot be read."""
    try:
        return load(RunFolder(run_dir).config)
    except ValueError as error:
        if not is_for_the_user(error):
            raise
        return None
