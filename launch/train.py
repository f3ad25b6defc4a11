"""Train in this process, on one device: breakpoints stop, errors show their traceback.

python launch/train.py --model resnet18 --debug
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.run import train_parser
    from launch.command import answer_help

    answer_help(train_parser())

from clf.atomic import private_files
from clf.config import RunConfig
from clf.config.compose import read
from clf.config.describe import settings_table
from clf.config.listing import models
from clf.config.saved import to_yaml
from clf.resilience.signals import LocalStopRequest, Preempted, Stopped, exit_code_of
from clf.run_folder import RunFolder
from launch.arguments.parser import parse
from launch.arguments.run import overrides, settings_group, train_parser
from launch.command import again, run_command
from launch.runs.folders import Run, find_run, take
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
from slurm.records import note_stopped
from slurm.stage import stage

SMOKE = {
    "limit_batches": "1",
    "epochs": "1",
    "model.warmup_epochs": "0",
    "mix.off_epochs": "0",
}


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command or the data; 1: the run failed; 128 and the
    number of a signal that it has left for: 130 after Ctrl-C, 143 after SIGTERM."""
    arguments = parse(train_parser(), argv)
    if fault := many_of_this():
        return fail(fault)
    return exit_code(_train, arguments, sys.argv[1:] if argv is None else argv)


@private_files()  # the run folder is nobody else's business
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
    out = console()
    stop = LocalStopRequest(say=lambda text: out.print(f"\n{text}", markup=False))
    stop.listen()
    try:
        return _run(arguments, settings, argv, out, stop)
    except Stopped as stopped:  # before there was a run
        out.print("\nStopped before anything was written.")
        return exit_code_of(stopped.signal)
    finally:
        stop.close()


def _run(
    arguments: argparse.Namespace,
    settings: list[str],
    argv: list[str],
    out: Any,
    stop: LocalStopRequest,
) -> int:
    refresh = arguments.refresh_data
    request = to_train(settings, "debug" if arguments.debug else "train", refresh)
    cfg = request.cfg
    request.notes += forget_ranks()
    device = f"this process, {'one GPU' if uses_gpus(cfg) else 'the CPU (no GPU is used)'}"
    if arguments.dry_run:
        run = find_run(cfg, arguments.allow_change, refresh)
        print_notes(request.notes, sys.stderr)
        print(f"# {run.path}/config.yaml\n{to_yaml(cfg)}")
        for line in run.changes:
            print(f"# change: {line}")
        print(f"# resources: {device}\n# nothing was trained")
        return 0
    run, lease = take(request, arguments.allow_change)

    def end_now() -> None:
        note_stopped(run.path, "SIGINT")
        lease.release()

    stop.end_now = end_now
    try:
        if run.state == "finished":
            print_complete(out, run)
            return 0
        print_run(out, cfg, run, device)
        print_notes(request.notes)
        print_changes(out, run.changes)
        bar = is_live(out) and not arguments.debug
        return _train_in(cfg, run, request.notes, out, again(run.path.name, argv), bar, stop)
    finally:
        lease.release()


def _train_in(
    cfg: RunConfig,
    run: Run,
    notes: list[str],
    out: Any,
    resume: str,
    bar: bool,
    stop: LocalStopRequest,
) -> int:
    """Train in the run's folder, whose lease this process holds.

    Args:
        resume: the command that goes on
        bar: show a progress bar
    """
    try:
        make_ready(cfg, run, notes)
        RunFolder(run.path).job.unlink(missing_ok=True)  # of an earlier start as a job
        out.print("[dim]importing torch and lightning ...[/dim]")
        from clf.run import fit  # imports torch

        scalars = fit(stage(cfg), run.path, progress=bar, request=stop, job=job_id())
    except (Preempted, Stopped) as stopped:
        if isinstance(stopped, Stopped):
            note_stopped(run.path, stopped.signal)
        out.print(f"\nStopped by {stopped}.", markup=False)
        print_commands(out, [(resume, "continue where it stopped")])
        return exit_code_of(stopped.signal)
    except (KeyboardInterrupt, SystemExit) as stopped:  # of a debugger
        # Lightning makes it a SystemExit; one of the user's own code is none of our business.
        if not isinstance(stopped.__context__ or stopped, KeyboardInterrupt):
            raise
        note_stopped(run.path, "SIGINT")
        out.print("\nStopped in the debugger. What the last checkpoint holds is kept.")
        print_commands(out, [(resume, "continue where it stopped")])
        return exit_code_of("SIGINT")
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
