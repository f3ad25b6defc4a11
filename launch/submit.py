"""Submit a run to SLURM; on a machine without SLURM, run it here as a job and follow it.

python launch/submit.py --nodes 2 --model resnet50 --data imagefolder data.root=/my/images
"""

import argparse
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # this file's own clf, not an installed one

from clf.config import RunConfig
from launch.arguments import add_run_flags, fail, overrides, parse, parser

EXAMPLES = """\
  python launch/submit.py --model resnet18                    real handwritten digits, no download
  python launch/submit.py --model resnet50 --data imagefolder data.root=/my/images epochs=30
  python launch/submit.py --nodes 2 --gpus 8 --model resnet50 data.batch_size=1024
  python launch/submit.py --gpus 2 strategy.accelerator=cpu   two CPU processes
  python launch/submit.py --sweep model.learning_rate=1e-4,3e-4 --sweep seed=0,1,2 --parallel 4
  python launch/submit.py recipe=jersey_finetune data.root=/my/jerseys --dry-run
"""


def main(argv: list[str] | None = None) -> int:
    """Check, submit, follow. Exit code 2: something to mend in the command; 1: the job failed."""
    made = parser(__doc__.split("\n")[0], EXAMPLES)
    add_run_flags(made)
    made.add_argument(
        "--dry-run", action="store_true", help="print the config and the job; submit nothing"
    )
    made.add_argument(
        "--follow", action="store_true", help="show a SLURM job's epochs; Ctrl-C leaves it running"
    )
    made.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="key=a,b",
        help="a run for each value; several: for each combination",
    )
    made.add_argument(
        "--inside-job", action="store_true", help="start in the allocation that this shell is in"
    )
    arguments = parse(made, argv)

    from clf.config import ConfigError

    try:
        return _submit(arguments, sys.argv[1:] if argv is None else argv)
    except ConfigError as error:
        return fail(error)


def _submit(arguments: argparse.Namespace, argv: list[str]) -> int:
    from clf.config import ConfigError
    from slurm.queue import QueueError

    settings = overrides(arguments)
    try:
        if arguments.sweep:
            from launch.runs.sweep import submit_sweep

            if arguments.inside_job:
                raise ConfigError(["--sweep: takes jobs of its own; leave out --inside-job"])
            return submit_sweep(settings, arguments.sweep, arguments.dry_run)
        if arguments.inside_job:
            return _inside(settings)
        return _submit_one(settings, arguments.dry_run, arguments.follow, argv)
    except QueueError as error:
        return fail(error, 1)


def _submit_one(settings: list[str], dry_run: bool, follow: bool, argv: list[str]) -> int:
    from launch.runs.checking import print_notes, to_submit
    from launch.runs.folders import create, find_run
    from launch.terminal.following import follow_job, print_submitted
    from launch.terminal.summary import again, console, debug_command, print_complete, print_run
    from slurm.devices import has_slurm
    from slurm.executor import submit
    from slurm.records import clear_errors

    cfg, notes = to_submit(settings, fetch=not dry_run)
    run = find_run(cfg)
    out = console()
    if dry_run:
        print_notes(notes, sys.stderr)
        _print_dry(cfg, run.path)
        return 0
    if run.state == "finished":
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, where(cfg))
    print_notes(notes)
    create(cfg, run)
    clear_errors(run.path)
    job = submit(cfg, run.path)
    if has_slurm():
        print_submitted(out, job.job_id, run.path)
        if not follow:
            return 0
    return follow_job(out, job, run.path, again(run.path.name, argv), debug_command(argv))


def _print_dry(cfg: RunConfig, run_dir: Path) -> None:
    """The config and, under SLURM, the script to the letter."""
    from clf.config.compose import to_yaml
    from slurm.devices import has_slurm
    from slurm.script import script

    print(f"# {run_dir}/config.yaml\n{to_yaml(cfg)}")
    if has_slurm():
        print(f"# sbatch would get:\n{script(cfg, [run_dir])}")
    print(f"# resources: {where(cfg)}\n# nothing was submitted")


def _inside(settings: list[str]) -> int:
    """The run on the nodes that this shell's job has; `slurm/train.sbatch` does this.

    A requeued job finds its run folder by the job's number, and goes on.
    """
    from clf.config import ConfigError
    from launch.runs.checking import to_submit
    from launch.runs.folders import create, find_run
    from launch.terminal.summary import console, print_complete, print_run
    from slurm.environment import allocated, allocation_faults, job_id
    from slurm.executor import inside
    from slurm.records import clear_errors, read_job

    this_job = job_id()
    if this_job is None:
        raise ConfigError(
            ["--inside-job: this shell is in no job (SLURM_JOB_ID is not set); use it after salloc "
             "or in a batch script, or leave it out"]
        )  # fmt: skip
    cfg, _ = to_submit([*settings, *allocated(settings)], fetch=True, queued=False)
    if faults := allocation_faults(cfg.gpus or 1):
        raise ConfigError(faults)
    if not any(text.startswith("name=") for text in settings):
        assert cfg.name is not None
        cfg.name = f"{cfg.name.rsplit('-', 2)[0]}-job{this_job}"
    run = find_run(cfg)
    out = console()
    if run.state == "finished":
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, f"SLURM job {this_job}, {cfg.nodes} nodes x {cfg.gpus} tasks")
    if run.state == "new" or read_job(run.path).get("job_id") != this_job:
        create(cfg, run)
    clear_errors(run.path)
    path = inside(cfg, run.path)
    print(f"logs: {run.path}/logs/{this_job}_RANK_log.out", flush=True)
    return os.execvp("bash", ["bash", str(path)])


def where(cfg: RunConfig) -> str:
    """What the run will take, in words."""
    from slurm.devices import has_slurm, uses_gpus

    if has_slurm():
        nodes = "1 node" if cfg.nodes == 1 else f"{cfg.nodes} nodes"
        tasks = "1 task" if cfg.gpus == 1 else f"{cfg.gpus} tasks"
        return f"SLURM, {nodes} x {tasks}"
    kind = "GPU" if uses_gpus(cfg) else "CPU process"
    plural = "" if cfg.gpus == 1 else "es" if kind.endswith("s") else "s"
    return f"this machine (it has no SLURM), {cfg.gpus} {kind}{plural}"


if __name__ == "__main__":
    sys.exit(main())
