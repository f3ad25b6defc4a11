"""`launch/benchmark.py scaling`: what it prints."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from clf.config import ConfigError
from launch.arguments.run import overrides
from launch.benchmarks.scaling import Load, Measured, compared, measure, requests, sizes
from launch.benchmarks.scaling_costs import SMALL, Amount, Cost, costs
from launch.benchmarks.scaling_paper import NODES, print_paper
from launch.terminal.screen import console, print_columns, print_notes

COLUMNS = (
    "nodes",
    "devices",
    "images a step",
    "images/s",
    "ms a step",
    "waiting",
    "speed-up",
    "efficiency",
)
IMAGES, STEPS, QUEUE_MINUTES = 64, 100, 60.0


def scaling(arguments: argparse.Namespace, setting: dict[str, Any]) -> int:
    """Train on each size, and print how the speed grows; or print what the model expects, or what
    costs are measured here. Exit code 1: a size has no speed.

    Args:
        setting: of the measurement, for the JSON

    Raises:
        ConfigError: with every fault, before anything starts
    """
    if arguments.on_paper:
        print_paper(console(), _numbers(arguments, "nodes") or NODES)
        return 0
    if arguments.costs:
        measured = list(_shown(costs(SMALL if arguments.smoke else Amount())))
        _write(arguments, {**setting, "costs": [asdict(one) for one in measured]})
        return 0
    chosen = sizes(*(_numbers(arguments, flag) for flag in ("nodes", "gpus")))
    images = arguments.images_per_step or arguments.images_per_rank or IMAGES
    load = Load(arguments.steps or STEPS, images, strong=arguments.images_per_step is not None)
    name = arguments.flag_name or f"scaling-{datetime.now():%Y%m%d-%H%M%S}"
    arguments.flag_name = None
    planned = requests(chosen, overrides(arguments), load, name)
    notes = [note for request in planned for note in request.notes]
    print_notes(list(dict.fromkeys(notes)), sys.stderr)
    rows: list[Measured] = []
    try:
        for row in measure(planned, 60 * (arguments.queue_minutes or QUEUE_MINUTES), say):
            rows.append(row)
    finally:  # after Ctrl-C too
        if rows:
            print_rows(load, rows)
    numbers = [
        {**asdict(row), "step_s": row.step_s, "speed_up": speed_up, "efficiency": efficiency}
        for row, (speed_up, efficiency) in zip(rows, compared(rows), strict=True)
    ]
    _write(arguments, {**setting, "load": asdict(load), "scaling": numbers})
    return 1 if any(row.fault for row in rows) else 0


def _write(arguments: argparse.Namespace, numbers: dict[str, Any]) -> None:
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=1))


def _shown(measured: Iterable[Cost]) -> Iterator[Cost]:
    """The same, each printed when it comes."""
    for one in measured:
        print(f"{one.what}: {one.value:,.4g} {one.unit}", flush=True)
        yield one


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
