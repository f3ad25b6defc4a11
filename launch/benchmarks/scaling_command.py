"""`launch/benchmark.py scaling`: what it prints."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from clf.config import ConfigError
from launch.arguments.run import overrides
from launch.benchmarks.scaling import Load, Measured, compared, measure, requests, sizes
from launch.benchmarks.scaling_paper import NODES, print_paper
from launch.terminal.screen import console, print_columns, print_notes

COLUMNS = (
    "nodes",
    "devices",
    "a step",
    "images/s",
    "ms a step",
    "waiting",
    "speed-up",
    "efficiency",
)


def scaling(arguments: argparse.Namespace, setting: dict[str, Any]) -> int:
    """Train on each size, and print how the speed grows; or print what the model expects. Exit code
    1: a size has no speed.

    Args:
        setting: of the measurement, for the JSON

    Raises:
        ConfigError: with every fault, before anything starts
    """
    if arguments.on_paper:
        print_paper(console(), _numbers(arguments, "nodes") or NODES)
        return 0
    chosen = sizes(*(_numbers(arguments, flag) for flag in ("nodes", "gpus")))
    strong = arguments.images_per_step is not None
    load = Load(
        arguments.steps, arguments.images_per_step if strong else arguments.images_per_rank, strong
    )
    name = arguments.flag_name or f"scaling-{datetime.now():%Y%m%d-%H%M%S}"
    arguments.flag_name = None
    planned = requests(chosen, overrides(arguments), load, name)
    notes = [note for request in planned for note in request.notes]
    print_notes(list(dict.fromkeys(notes)), sys.stderr)
    rows = list(measure(planned, 60 * arguments.queue_minutes, say))
    print_rows(load, rows)
    if arguments.json:
        numbers = [
            {**asdict(row), "step_s": row.step_s, "speed_up": speed_up, "efficiency": efficiency}
            for row, (speed_up, efficiency) in zip(rows, compared(rows), strict=True)
        ]
        whole = {**setting, "load": asdict(load), "scaling": numbers}
        arguments.json.write_text(json.dumps(whole, indent=1))
    return 1 if any(row.fault for row in rows) else 0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def print_rows(load: Load, rows: Sequence[Measured]) -> None:
    out = console()
    counted = min((row.lines for row in rows if row.lines), default=0)
    out.print(f"{load.line()}; medians of {counted} log lines, without each run's first")
    cells = [
        (
            str(row.nodes),
            str(row.ranks),
            f"{row.batch_size:,}",
            _cell(row.images_per_second, ",.0f"),
            _cell(row.step_s and 1e3 * row.step_s, ",.1f"),
            _cell(row.waiting_share, ".0%"),
            _cell(speed_up, ".2f"),
            _cell(efficiency, ".0%"),
        )
        for row, (speed_up, efficiency) in zip(rows, compared(rows), strict=True)
    ]
    print_columns(out, COLUMNS, cells)
    for row in rows:
        if row.fault:
            out.print(f"{row.nodes} x {row.gpus}: {row.fault}", markup=False)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _numbers(arguments: argparse.Namespace, flag: str) -> list[int] | None:
    text = getattr(arguments, flag)
    if text is None:
        return None
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ConfigError([f"--{flag} {text}: expected whole numbers, such as --{flag} 1,2,4"])
    return list(dict.fromkeys(map(int, text.split(","))))
