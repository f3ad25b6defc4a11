"""Tables of runs, of a sweep's results, of a drill, and of settings."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clf.config.describe import Row
from clf.config.listing import Model
from clf.metrics.measures import percent
from clf.tracking.bounds import in_words
from launch.runs.drill import Comparison, Stage
from launch.runs.sweep import Sweep
from launch.terminal.screen import duration, number, print_columns, print_fields
from slurm.state import RunState

GOOD, BAD = ("finished", "running"), ("failed", "lost", "node failure", "out of memory", "ended")


def print_list(out: Any, states: Sequence[RunState], runs_dir: Path) -> None:
    """A line for each run."""
    rows = [
        [
            _name(state.path, runs_dir),
            state.state,
            _epoch(state),
            percent(state.best, missing=""),
            duration(state.eta_s),
            state.job_id or "",
            _nodes(state),
        ]
        for state in states
    ]
    print_columns(out, ["run", "state", "epoch", "best top-1", "left", "job", "nodes"], rows)


def print_results(out: Any, sweep: Sweep, states: Sequence[RunState]) -> None:
    """A sweep's runs with the swept values and the results, best first."""
    keys = list(dict.fromkeys(key for chosen in sweep.runs.values() for key in chosen))
    ordered = sorted(states, key=lambda state: -(state.best if state.best is not None else -1))
    rows = []
    for state in ordered:
        chosen = sweep.runs[state.path.name]
        rows.append(
            [
                *(chosen.get(key, "") for key in keys),
                state.state,
                _epoch(state),
                percent(state.best, missing=""),
                percent(state.metrics.get("test/acc_top1"), missing=""),
                number(state.metrics.get("val/loss")),
                state.diagnosis or "",
            ]
        )
    columns = ["state", "epoch", "best top-1", "test top-1", "val loss", "what is wrong"]
    print_columns(out, [*keys, *columns], rows)


def print_status(out: Any, state: RunState) -> None:
    """Everything known of one run, a line each."""
    fields = {
        "run": state.path.name,
        "state": state.state + (f" ({state.reason})" if state.reason else ""),
        "job": state.job_id,
        "nodes": _nodes(state),
        "left out": "; ".join(state.left_out) or None,
        "epoch": _epoch(state),
        "saved": "{file} after step {step}".format(**state.saved) if state.saved else None,
        "NOT written": "; ".join(f"{file}: {why}" for file, why in state.not_written.items())
        or None,
        "best top-1": percent(state.best, missing=""),
        "time left": duration(state.eta_s),
        "speed": " · ".join(in_words(state.speed)),
        "what bounds it": state.speed.get("advice"),
        "end": state.stopped_early,
        "restarts": str(state.restarts),
        "what is wrong": state.diagnosis,
        "W&B": state.wandb,
        "folder": str(state.path),
    }
    print_fields(out, fields, {"state": _style(state)})


def _nodes(state: RunState) -> str:
    """Where a run is, and the range that it may have."""
    if state.nodes_asked is None:
        return state.nodes or ""
    return f"{state.nodes} (of {state.nodes_asked})" if state.nodes else state.nodes_asked


def print_drill(out: Any, stages: Iterable[Stage]) -> int:
    """A line for each stage of a drill. Exit code 0 if the run went on from the very place at which
    it left, else 1."""
    for stage in stages:
        match stage.name:
            case "signalled":
                out.print(
                    f"sending SIGUSR2 to job {stage.job_id}, as SLURM does before it takes a job's "
                    "nodes"
                )
            case "stayed":
                out.print("the run did not leave in time; see jobs.py logs", style="red")
            case "left":
                out.print(
                    f"left at step {stage.step}, all is saved; waiting for SLURM to start it again"
                )
                out.print(
                    "(SLURM holds a requeued job for two minutes, unless its administrator changed "
                    "that)"
                )
            case "gone":
                out.print("the job is not in the queue any more; see jobs.py status", style="red")
            case "back":
                _print_comparisons(out, stage.comparisons)
                return 0 if all(one.same for one in stage.comparisons) else 1
    return 1


def print_settings(out: Any, rows: Sequence[Row]) -> None:
    """Every setting with its default, what it takes and what it means; and, where a file or the
    command line changes it, the value."""
    for row in rows:
        out.print(f"{row.key}={row.default}", markup=False, style="bold", end="")
        out.print(f"   {row.takes}", markup=False, style="dim")
        if row.source:
            out.print(f"    now {row.value}, from {row.source}", markup=False, style="yellow")
        out.print(f"    {row.meaning}", markup=False)


def print_models(out: Any, models: Sequence[Model]) -> None:
    """What `--model` takes, a line each."""
    rows = [
        [
            one.name,
            one.place,
            "" if one.parameters is None else f"{one.parameters / 1e6:.1f} M",
            "" if one.accuracy is None else f"{one.accuracy:.1f} %",
        ]
        for one in models
    ]
    columns = ["--model", "from", "parameters", "ImageNet top-1 of its weights"]
    print_columns(out, columns, rows)


def _print_comparisons(out: Any, comparisons: Sequence[Comparison]) -> None:
    rows = [
        [one.name, str(one.before), str(one.after), "same" if one.same else "differs"]
        for one in comparisons
    ]
    print_columns(out, ["number", "left with", "went on with", "result"], rows)


def _name(path: Path, runs_dir: Path) -> str:
    root = runs_dir.absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _style(state: RunState) -> str:
    return "green" if state.state in GOOD else "bold red" if state.state in BAD else "yellow"


def _epoch(state: RunState) -> str:
    return "" if state.epoch is None else f"{state.epoch}/{state.epochs}"
