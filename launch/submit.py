"""Submit a run to SLURM; on a machine without SLURM, run it here as a job and follow it.

python launch/submit.py --nodes 2 --model resnet50 --data imagefolder data.root=/my/images
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.run import submit_parser
    from launch.command import answer_help

    answer_help(submit_parser())

from clf.config import ConfigError, RunConfig
from clf.config.compose import read
from clf.config.describe import settings_table
from clf.config.listing import models
from clf.config.node_range import in_words, least_nodes
from clf.config.saved import to_yaml
from launch.arguments.parser import parse
from launch.arguments.run import overrides, settings_group, submit_parser
from launch.command import again, debug_command, run_command
from launch.runs import sweep
from launch.runs.folders import Run, create, find_run, shown, take
from launch.runs.lifecycle import start
from launch.runs.requests import to_submit
from launch.terminal.follow import follow_each, follow_job
from launch.terminal.screen import (
    announce,
    console,
    exit_code,
    fail,
    print_commands,
    print_notes,
    sibling,
)
from launch.terminal.summary import (
    print_changes,
    print_complete,
    print_run,
    print_submitted,
    resources,
)
from launch.terminal.tables import print_models, print_results, print_settings
from slurm.bad_nodes import with_own
from slurm.devices import has_slurm
from slurm.environment import allocated, allocation_faults, job_id, many_of_this
from slurm.executor import inside
from slurm.records import clear_errors, read_job
from slurm.script import script
from slurm.state import read_states


def main(argv: list[str] | None = None) -> int:
    """Check, submit, follow. Exit code 2: something to correct in the command; 1: the job
    failed."""
    arguments = parse(submit_parser(), argv)
    if fault := many_of_this():
        return fail(fault)
    return exit_code(_submit, arguments, sys.argv[1:] if argv is None else argv)


def _submit(arguments: argparse.Namespace, argv: list[str]) -> int:
    settings = overrides(arguments)
    if arguments.list_settings is not None:
        group, settings = settings_group(arguments.list_settings, settings)
        print_settings(console(), settings_table(read(settings), group))
        return 0
    if arguments.list_models is not None:
        pattern, settings = settings_group(arguments.list_models, settings)
        print_models(console(), models(pattern or "", settings))
        return 0
    if arguments.refresh_data and (arguments.sweep or arguments.inside_job):
        raise ConfigError(
            [
                "--refresh-data: is for one run and one start of it, not for --sweep or "
                "--inside-job; use `jobs.py resume NAME --refresh-data`"
            ]
        )
    if arguments.sweep:
        return _submit_sweep(arguments, settings)
    if arguments.inside_job:
        return _submit_inside(settings, arguments.allow_change)
    return _submit_one(arguments, settings, argv)


def _submit_one(arguments: argparse.Namespace, settings: list[str], argv: list[str]) -> int:
    fetch, refresh = not arguments.dry_run, arguments.refresh_data
    request = to_submit(settings, fetch, announce=announce, refresh=refresh)
    cfg, out = request.cfg, console()
    assert cfg.name is not None
    cfg.slurm.exclude = with_own(Path(cfg.runs_dir, cfg.name), cfg.slurm.exclude)
    if arguments.dry_run:
        run = find_run(cfg, arguments.allow_change, refresh)
        print_notes(request.notes, sys.stderr)
        _print_dry(cfg, run)
        return 0
    run, lease = take(request, arguments.allow_change)
    if run.state == "finished":
        lease.release()
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, resources(cfg))
    print_changes(out, run.changes)
    print_notes(request.notes)
    job = start(cfg, run, request.notes, lease=lease)
    if has_slurm():
        print_submitted(out, job.job_id, run.path)
        if not arguments.follow:
            return 0
    return follow_job(out, job, run.path, again(run.path.name, argv), debug_command(argv))


def _print_dry(cfg: RunConfig, run: Run) -> None:
    """The config and, under SLURM, the batch script as it would be submitted."""
    print(f"# {run.path}/config.yaml\n{to_yaml(cfg)}")
    if has_slurm():
        print(f"# sbatch would get:\n{script(cfg, [run.path])}")
    for line in run.changes:
        print(f"# change: {line}")
    print(f"# resources: {resources(cfg)}\n# nothing was submitted")


def _submit_sweep(arguments: argparse.Namespace, settings: list[str]) -> int:
    if arguments.inside_job:
        raise ConfigError(["--sweep: takes jobs of its own; leave out --inside-job"])
    planned = sweep.plan(settings, arguments.sweep, fetch=not arguments.dry_run, announce=announce)
    if arguments.dry_run:
        print_notes(planned.notes, sys.stderr)
        runs, folder = planned.sweep.runs, planned.sweep.folder
        print(f"# {folder}: {len(runs)} runs\n" + "\n".join(runs))
        if has_slurm():
            text = script(planned.configs[0], planned.sweep.run_dirs, folder)
            print(f"\n# sbatch would get:\n{text}")
        print("# nothing was submitted")
        return 0
    return start_sweep(console(), planned, arguments.allow_change)


def start_sweep(
    out: Any, planned: sweep.Plan, allow_change: bool = False, new_code: bool = True
) -> int:
    """Start those runs of a sweep that are not done, and show them; `jobs.py resume` does the
    same. Exit code 1: a run of this machine failed."""
    print_notes(planned.notes)
    waiting = sweep.waiting_runs(planned, allow_change)
    folder = planned.sweep.folder
    if not waiting:
        out.print(f"All {len(planned.configs)} runs of {folder.name} are done already.")
        return 0
    print_changes(out, waiting[0][1].changes)
    sweep.prepare(planned, waiting, new_code)
    if not has_slurm():
        failed = follow_each(out, sweep.start_one_by_one(waiting), len(waiting))
        out.print()
        print_results(out, planned.sweep, read_states(planned.sweep.run_dirs))
        return 1 if failed else 0
    array = sweep.start_array(planned.sweep, waiting)
    _print_array(out, array, len(waiting), waiting[0][0].slurm.parallel, folder)
    return 0


def _print_array(out: Any, array: str, count: int, parallel: int | None, folder: Path) -> None:
    at_a_time = f", {parallel} at a time" if parallel else ""
    out.print(f"submitted {count} runs as SLURM job array {array}{at_a_time}")
    out.print(f"folder  {shown(folder)}", markup=False)
    jobs = sibling("jobs.py")
    commands: Sequence[tuple[str, str]] = [
        (f"{jobs} list --sweep {folder.name}", "a table of its runs"),
        (f"{jobs} resume --sweep {folder.name}", "submit again what failed"),
    ]
    print_commands(out, commands)


def _submit_inside(settings: list[str], allow_change: bool) -> int:
    """The run on the nodes that this shell's job has; `slurm/train.sbatch` does this.

    A job that SLURM starts again finds its run folder by the job's number, and goes on.
    """
    this_job = job_id()
    if this_job is None:
        raise ConfigError(
            ["--inside-job: this shell is in no job (SLURM_JOB_ID is not set); use it after salloc "
             "or in a batch script, or leave it out"]
        )  # fmt: skip
    request = to_submit([*settings, *allocated(settings)], True, queued=False, announce=announce)
    cfg = request.cfg
    if faults := allocation_faults(least_nodes(cfg), cfg.gpus or 1):
        raise ConfigError(faults)
    if not any(text.startswith("name=") for text in settings):
        assert cfg.name is not None
        cfg.name = f"{cfg.name.rsplit('-', 2)[0]}-job{this_job}"
        request.named = True
    run, lease = take(request, allow_change)
    out = console()
    if run.state == "finished":
        lease.release()
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, f"SLURM job {this_job}, {in_words(cfg)} x {cfg.gpus} tasks")
    print_changes(out, run.changes)
    print_notes(request.notes)
    if run.state == "new" or read_job(run.path).get("job_id") != this_job:
        create(cfg, run, request.notes)
    clear_errors(run.path)
    path = inside(cfg, run.path)
    lease.release()  # rank 0 takes it, and this process becomes the shell
    print(f"logs: {run.path}/logs/{this_job}_RANK_log.out", flush=True)
    return os.execvp("bash", ["bash", str(path)])


if __name__ == "__main__":
    run_command(main)
