"""Build a dashboard in Weights & Biases for a run or a project, or write its definition to a file.

python launch/dashboard.py digits-resnet18-20260102-030405
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.dashboard import dashboard_parser
    from launch.command import answer_help

    answer_help(dashboard_parser())

from clf.config import ConfigError
from clf.config.faults import is_for_the_user
from clf.tracking.dashboard import Dashboard, upload, why_offline
from launch.arguments.dashboard import dashboard_parser
from launch.arguments.parser import parse
from launch.command import run_command
from launch.runs.dashboard import find_dashboard
from launch.runs.folders import shown
from launch.terminal.screen import announce, console, exit_code, fail, print_commands, print_fields
from launch.typed import sibling


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command; 1: W&B has not taken the dashboard."""
    return exit_code(_show, parse(dashboard_parser(), argv), heading=False)


def _show(arguments: argparse.Namespace) -> int:
    if (arguments.run_or_project is None) == (arguments.upload is None):
        raise ConfigError(["give a run or a project, or --upload FILE"])
    if arguments.upload:
        dashboard, file = _read(arguments.upload), arguments.upload
        if arguments.entity:
            dashboard = replace(dashboard, entity=arguments.entity)
    else:
        dashboard, file = find_dashboard(
            arguments.run_or_project, arguments.runs_dir, arguments.entity
        )
        dashboard.write(file)
    out = console()
    problem = "as asked for" if arguments.offline else why_offline()
    if problem and arguments.upload:
        return fail(f"nothing was uploaded: {problem}", 1)
    if problem:
        out.print(f"{shown(file)} is written, nothing is uploaded: {problem}", markup=False)
        command = f"{sibling('dashboard.py')} --upload {shown(file)}"
        print_commands(out, [(command, "where there is a key and a network")])
        return 0
    announce("uploading ...")
    try:
        addresses = upload(dashboard)
    except Exception as error:  # W&B's errors have no common class
        if is_for_the_user(error):
            raise
        return fail(f"W&B has not taken the dashboard ({type(error).__name__}: {error})", 1)
    replace(dashboard, addresses=addresses).write(file)
    print_fields(out, {**addresses})
    return 0


def _read(file: Path) -> Dashboard:
    try:
        return Dashboard.read(file)
    except FileNotFoundError:
        raise ConfigError([f"--upload {file}: there is no such file"]) from None


if __name__ == "__main__":
    run_command(main)
