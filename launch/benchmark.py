"""Measure what clf promises about speed on this machine, beside the peers, in one run.

python launch/benchmark.py loader

Ours and its peers take turns, each in a process of its own that starts anew every round. The table
shows medians with the least and the most, by the wall and by second of the processor, which a busy
machine changes less. docs/benchmarks/README.md keeps dated results.
"""

import json
import sys
from dataclasses import asdict, replace
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
from launch.benchmarks.comparison import SMOKE, BenchmarkError, Sizes
from launch.benchmarks.gpu import step_on_gpu
from launch.benchmarks.scaling_command import scaling
from launch.benchmarks.setting import describe
from launch.command import run_command
from launch.terminal.screen import exit_code


def main(argv: list[str] | None = None) -> int:
    command = benchmark_parser()
    arguments = parse(command, argv)
    if arguments.rounds is not None and arguments.rounds < 1:
        command.error(f"--rounds {arguments.rounds}: expected at least 1")
    if asks_for_scaling(command, arguments):
        return exit_code(scaling, arguments, describe())
    sizes = SMOKE if arguments.smoke else Sizes()
    sizes = replace(sizes, rounds=arguments.rounds or sizes.rounds, vs=arguments.vs)
    chosen = list(SECTIONS) if "all" in arguments.sections else arguments.sections
    if arguments.gpu and "step" not in chosen:
        command.error("--gpu: it is the section step that can be measured on a GPU")
    sections = SECTIONS | ({"step": step_on_gpu} if arguments.gpu else {})
    setting = describe()
    print_setting(setting)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    try:
        for name, rows in results.items():
            print(f"{name} ...", file=sys.stderr)
            for comparison in sections[name](sizes):
                rows.append(comparison.summary())
                print_comparison(rows[-1])
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        whole = {**setting, "sizes": asdict(sizes), "results": results}
        arguments.json.write_text(json.dumps(whole, indent=1))
    return 0


def print_setting(setting: dict[str, Any]) -> None:
    names = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    print(
        f"{setting['date']}, {setting['cores']} cores (load {setting['load']:.1f} before), {names}"
    )


def print_comparison(row: dict[str, Any]) -> None:
    """A line for each side: medians, least to most; for a peer, how many times as fast ours is."""
    print(f"\n{row['what']} [{row['unit']} by the wall, by CPU time]")
    for side in (row["ours"], *row["peers"]):
        clocks = "".join(
            f"  {_short(of['median']):>6} ({_short(of['min'])} to {_short(of['max'])})"
            for of in (side["wall"], side["cpu"])
        )
        print(f"{clocks}  {side['name']}")
    for peer in row["peers"]:
        by = peer["times_as_fast"]
        print(
            f"  {by['wall']:.2f} times as fast as {peer['name']}, {by['cpu']:.2f} by CPU time",
            flush=True,
        )
    if "note" in row:
        print(f"  {row['note']}", flush=True)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    run_command(main)
