"""Measure what clf promises about speed on this machine, beside the peers, in one run.

python launch/benchmark.py loader

Ours and the peer take turns, so that whatever else the machine does meets both; the table shows
medians with the least and the most. docs/benchmarks/README.md keeps dated results.
"""

import json
import os
import platform
import sys
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.benchmark import benchmark_parser
    from launch.command import answer_help

    answer_help(benchmark_parser())

from launch.arguments.benchmark import benchmark_parser
from launch.arguments.parser import parse
from launch.arguments.scaling import asks_for_scaling
from launch.benchmarks import SECTIONS
from launch.benchmarks.comparison import SMOKE, Comparison, Sizes
from launch.benchmarks.scaling_command import scaling
from launch.command import run_command
from launch.terminal.screen import exit_code

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "pillow", "simplejpeg", "numpy")


def main(argv: list[str] | None = None) -> int:
    command = benchmark_parser()
    arguments = parse(command, argv)
    if arguments.rounds is not None and arguments.rounds < 1:
        command.error(f"--rounds {arguments.rounds}: expected at least 1")
    if asks_for_scaling(command, arguments):
        return exit_code(scaling, arguments, describe())
    sizes = SMOKE if arguments.smoke else Sizes()
    if arguments.rounds:
        sizes = replace(sizes, rounds=arguments.rounds)
    chosen = list(SECTIONS) if "all" in arguments.sections else arguments.sections
    setting = describe()
    results: dict[str, list[Comparison]] = {}
    for name in dict.fromkeys(chosen):
        print(f"{name} ...", file=sys.stderr)
        results[name] = list(SECTIONS[name](sizes))
    print_results(setting, results)
    if arguments.json:
        numbers = {name: [row.summary() for row in rows] for name, rows in results.items()}
        whole = {**setting, "sizes": asdict(sizes), "results": numbers}
        arguments.json.write_text(json.dumps(whole, indent=1))
    return 0


def describe() -> dict[str, Any]:
    """When, on what, with which versions."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return {"date": date.today().isoformat(), "cores": cores, "load": load, "versions": versions}


def print_results(setting: dict[str, Any], results: dict[str, list[Comparison]]) -> None:
    """A block for each comparison: medians, least to most, and how many times as fast ours is."""
    names = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    print(
        f"{setting['date']}, {setting['cores']} cores (load {setting['load']:.1f} before), {names}"
    )
    for row in (row for rows in results.values() for row in rows):
        print(f"\n{row.what} [{row.unit}]: {row.ratio:.2f} times as fast")
        for side in (row.ours, row.peer):
            least, most = min(side.values), max(side.values)
            print(f"  {_short(side.median):>8}  ({_short(least)} to {_short(most)})  {side.name}")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    run_command(main)
