"""Train in this process, on one device: breakpoints stop, errors show their traceback.

python launch/train.py --model resnet18 --debug
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.run import train_parser
    from launch.command import answer_help

    answer_help(train_parser())

from clf.config.compose import read
from clf.config.describe import settings_table
from clf.config.listing import models
from clf.config.saved import to_yaml
from launch.arguments.parser import parse
from launch.arguments.run import overrides, settings_group, train_parser
from launch.command import again, run_command
from launch.runs.folders import find_run
from launch.runs.lifecycle import make_ready
from launch.runs.requests import to_train
from launch.terminal.screen import console, exit_code, fail, is_live, print_commands, print_notes
from launch.terminal.summary import (
    print_changes,
    print_complete,
    print_next,
    print_result,
    print_run,
)
from launch.terminal.tables import print_models, print_settings
from slurm.devices import uses_gpus
from slurm.environment import forget_ranks, job_id, many_of_this
from slurm.stage import stage

SMOKE = {
    "limit_batches": "1",
    "epochs": "1",
    "model.warmup_epochs": "0",
    "mix.off_epochs": "0",
}


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command or the data; 1: the run failed."""
    arguments = parse(train_parser(), argv)
    if fault := many_of_this():
        return fail(fault)
    return exit_code(_train, arguments, sys.argv[1:] if argv is None else argv)


def _train(arguments: argparse.Namespace, argv: list[str]) -> int:
    settings = _settings(arguments)
    if arguments.list_settings is not None:
        group, settings = settings_group(arguments.list_settings, settings)
        print_settings(console(), settings_table(read(settings), group))
        return 0
    if arguments.list_models is not None:
        pattern, settings = settings_group(arguments.list_models, settings)
        print_models(console(), models(pattern or "", settings))
        return 0
    request = to_train(settings, "debug" if arguments.debug else "train", arguments.refresh_data)
    cfg = request.cfg
    request.notes += forget_ranks()
    run = find_run(cfg, arguments.allow_change, arguments.refresh_data)
    device = f"this process, {'one GPU' if uses_gpus(cfg) else 'the CPU (no GPU is used)'}"
    if arguments.dry_run:
        print_notes(request.notes, sys.stderr)
        print(f"# {run.path}/config.yaml\n{to_yaml(cfg)}")
        for line in run.changes:
            print(f"# change: {line}")
        print(f"# resources: {device}\n# nothing was trained")
        return 0
    out = console()
    if run.state == "finished":
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, device)
    print_notes(request.notes)
    print_changes(out, run.changes)
    make_ready(cfg, run, request.notes)
    out.print("[dim]importing torch and lightning ...[/dim]")
    from clf.run import fit  # imports torch

    bar = is_live(out) and not arguments.debug
    try:
        scalars = fit(stage(cfg), run.path, progress=bar, job=job_id())
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        out.print("\nStopped. What the last checkpoint holds is kept.")
        print_commands(out, [(again(run.path.name, argv), "continue where it stopped")])
        return 130
    print_result(out, run.path, scalars, has_said_why=not bar)
    print_next(out, run.path)
    return 0


def _settings(arguments: argparse.Namespace) -> list[str]:
    """The settings that were typed, and those of `--smoke` that were not."""
    settings = overrides(arguments)
    if not arguments.smoke:
        return settings
    given = {setting.partition("=")[0] for setting in settings}
    return settings + [f"{key}={value}" for key, value in SMOKE.items() if key not in given]


if __name__ == "__main__":
    run_command(main)
