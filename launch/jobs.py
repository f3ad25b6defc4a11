"""Look after submitted runs: list, status, compare, logs, cancel, resume, drill, sync.

python launch/jobs.py status runs/digits-resnet18-20260102-030405
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.jobs import jobs_parser
    from launch.command import answer_help

    answer_help(jobs_parser())

from clf.config import ConfigError
from clf.report.comparison import compare_runs
from clf.report.read import read_run
from launch.arguments.jobs import parse_jobs
from launch.command import run_command
from launch.runs import lifecycle, sweep
from launch.runs.drill import drill
from launch.runs.folders import all_runs, named, shown
from launch.runs.sync import unsynced_runs, upload
from launch.submit import start_sweep
from launch.terminal.compared import print_comparison
from launch.terminal.follow import follow_job
from launch.terminal.logs import show_logs
from launch.terminal.screen import announce, console, exit_code, fail, print_notes, sibling
from launch.terminal.summary import print_changes, print_complete, print_submitted
from launch.terminal.tables import print_drill, print_list, print_results, print_status
from slurm.devices import has_slurm
from slurm.state import read_state, read_states


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: no such run, or nothing to do for it; 1: it was tried and failed."""
    arguments = parse_jobs(argv)
    return exit_code(COMMANDS[arguments.command], arguments, heading=False)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.sweep:
        chosen = sweep.find_sweep(arguments.sweep, arguments.runs_dir)
        print_results(console(), chosen, read_states(chosen.run_dirs))
        return 0
    run_dirs = all_runs(arguments.runs_dir)
    if not run_dirs:
        return fail(f"no runs in {shown(arguments.runs_dir)}; --runs-dir names another folder", 0)
    print_list(console(), read_states(run_dirs), arguments.runs_dir)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    print_status(console(), read_state(_run_dir(arguments)))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    if len(arguments.name) < 2:
        return fail(f"compare {arguments.name[0]}: expected two runs or more")
    runs = [read_run(named(name, arguments.runs_dir)) for name in arguments.name]
    for one in compare_runs(runs):
        print_comparison(console(), runs[0], one)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    run_dir = _run_dir(arguments)
    return show_logs(console(), run_dir, arguments.rank, arguments.lines, arguments.follow)


def _cancel(arguments: argparse.Namespace) -> int:
    print(lifecycle.cancel(_run_dir(arguments)))
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    if arguments.sweep and arguments.refresh_data:
        raise ConfigError(["--refresh-data: is for one run; name it instead of --sweep"])
    if arguments.sweep:
        return _resume_sweep(arguments)
    if not arguments.words or "=" in arguments.words[0]:
        raise ConfigError(["resume: name a run, or a sweep with --sweep NAME"])
    name, *settings = arguments.words
    run_dir, out = named(name, arguments.runs_dir), console()
    allow, refresh = arguments.allow_change, arguments.refresh_data
    request, run = lifecycle.resume(run_dir, settings, allow, announce, refresh)
    if run.state == "finished":
        print_complete(out, run)
        return 0
    print_changes(out, run.changes)
    print_notes(request.notes)
    job = lifecycle.start(request.cfg, run, request.notes, arguments.new_code)
    if has_slurm():
        print_submitted(out, job.job_id, run_dir)
        return 0
    again = f"{sibling('jobs.py')} resume {shlex.quote(shown(run_dir))}"
    return follow_job(out, job, run_dir, again)


def _resume_sweep(arguments: argparse.Namespace) -> int:
    chosen = sweep.find_sweep(arguments.sweep, arguments.runs_dir)
    planned = sweep.plan_resume(chosen, arguments.words, announce)
    if not planned.configs:
        name = chosen.folder.name
        print(f"Nothing to start: all runs of {name} are done, or still active.")
        return 0
    return start_sweep(console(), planned, arguments.allow_change, arguments.new_code)


def _drill(arguments: argparse.Namespace) -> int:
    return print_drill(console(), drill(_run_dir(arguments)))


def _sync(arguments: argparse.Namespace) -> int:
    """Exit code 1: a recording could not be uploaded."""
    run_dirs = [named(name, arguments.runs_dir) for name in arguments.name]
    waiting = unsynced_runs(run_dirs or all_runs(arguments.runs_dir))
    failed = 0
    for run in waiting:
        part = " (as far as it is written)" if run.lives else ""
        print(f"{shown(run.run_dir)}{part} ...", flush=True)
        failed += not upload(run)
    if failed:
        print(f"{failed} of {len(waiting)} runs were not uploaded; nothing of them is lost")
        return 1
    print(f"{len(waiting)} runs uploaded" if waiting else "nothing to upload")
    return 0


def _run_dir(arguments: argparse.Namespace) -> Path:
    return named(arguments.name, arguments.runs_dir)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": _list,
    "status": _status,
    "compare": _compare,
    "logs": _logs,
    "cancel": _cancel,
    "resume": _resume,
    "drill": _drill,
    "sync": _sync,
}

if __name__ == "__main__":
    run_command(main)
