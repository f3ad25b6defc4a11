"""Runs on the screen: tables in a terminal, plain aligned columns in a file or a pipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clf.metrics.measures import percent
from launch.terminal.follow import duration
from launch.terminal.summary import print_fields
from slurm.state import RunState

GOOD, BAD = ("finished", "running"), ("failed", "lost", "node failure", "out of memory", "ended")


def print_list(out: Any, reports: Sequence[RunState], runs_dir: Path) -> None:
    """A line a run."""
    rows = [
        [
            _name(report.path, runs_dir),
            report.state,
            _epoch(report),
            _share(report.best),
            duration(report.eta_s),
            report.job_id or "",
            report.nodes or "",
        ]
        for report in reports
    ]
    print_table(out, ["run", "state", "epoch", "best top-1", "left", "job", "nodes"], rows)


def print_results(out: Any, sweep: Any, reports: Sequence[RunState]) -> None:
    """A sweep's runs with what was swept and what came of it, best first."""
    keys = list(dict.fromkeys(key for chosen in sweep.runs.values() for key in chosen))
    ordered = sorted(reports, key=lambda report: -(report.best if report.best is not None else -1))
    rows = []
    for report in ordered:
        chosen = sweep.runs[report.path.name]
        rows.append(
            [
                *(chosen.get(key, "") for key in keys),
                report.state,
                _epoch(report),
                _share(report.best),
                _share(report.metrics.get("test/acc_top1")),
                _number(report.metrics.get("val/loss")),
                report.diagnosis or "",
            ]
        )
    columns = ["state", "epoch", "best top-1", "test top-1", "val loss", "what is wrong"]
    print_table(out, [*keys, *columns], rows)


def print_status(out: Any, report: RunState) -> None:
    """Everything known of one run, a line each."""
    state = report.state + (f" ({report.reason})" if report.reason else "")
    fields = {
        "run": report.path.name,
        "state": state,
        "job": report.job_id,
        "nodes": report.nodes,
        "epoch": _epoch(report),
        "best top-1": _share(report.best),
        "time left": duration(report.eta_s),
        "restarts": str(report.restarts),
        "what is wrong": report.diagnosis,
        "W&B": report.wandb,
        "folder": str(report.path),
    }
    print_fields(out, fields, {"state": _style(report)})


def print_table(out: Any, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns that are empty in every row are left out."""
    kept = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    columns = [columns[place] for place in kept]
    rows = [[row[place] for place in kept] for row in rows]
    if not out.is_terminal:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in [columns, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            print("  ".join(cells).rstrip())
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def _name(path: Path, runs_dir: Path) -> str:
    root = runs_dir.absolute()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _style(report: RunState) -> str:
    return "green" if report.state in GOOD else "bold red" if report.state in BAD else "yellow"


def _epoch(report: RunState) -> str:
    return "" if report.epoch is None else f"{report.epoch}/{report.epochs}"


def _share(value: float | None) -> str:
    return percent(value, missing="")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
