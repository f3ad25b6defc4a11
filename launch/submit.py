"""Submit a run to SLURM; on a machine without SLURM, run it here as a job and follow it.

python launch/submit.py --nodes 2 --model resnet50 --data imagefolder data.root=/my/images
"""

import sys
from pathlib import Path
from typing import Any

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
  python launch/submit.py recipe=jersey_finetune data.root=/my/jerseys --dry-run
"""


def main(argv: list[str] | None = None) -> int:
    """Check, submit, follow. Exit code 2: something to mend in the command; 1: the job failed."""
    made = parser(__doc__.split("\n")[0], EXAMPLES)
    add_run_flags(made)
    made.add_argument(
        "--dry-run", action="store_true", help="print the config and resources; submit nothing"
    )
    arguments = parse(made, argv)

    from clf.check import ConfigError

    try:
        return _submit(
            overrides(arguments), arguments.dry_run, sys.argv[1:] if argv is None else argv
        )
    except ConfigError as error:
        return fail(error)


def _submit(settings: list[str], dry_run: bool, argv: list[str]) -> int:
    from clf.compose import ConfigError, check, compose, resolve, to_yaml
    from launch.runs import create, find_run
    from launch.summary import console, print_complete, print_run
    from slurm.devices import devices_per_node, has_slurm, resource_faults
    from slurm.executor import submit
    from slurm.job import clear_errors

    cfg = compose(settings)
    cfg.gpus = devices_per_node(cfg)
    if faults := resource_faults(cfg) + check(cfg, look_at_data=False):
        raise ConfigError(faults)
    resolve(cfg)
    run = find_run(cfg)
    out = console()
    if dry_run:
        print(f"# {run.path}/config.yaml\n{to_yaml(cfg)}")
        print(f"# resources: {where(cfg)}\n# nothing was submitted")
        return 0
    if run.state == "finished":
        print_complete(out, run)
        return 0
    print_run(out, cfg, run, where(cfg))
    create(cfg, run)
    clear_errors(run.path)
    job = submit(cfg, run.path)
    if has_slurm():
        out.print(
            f"submitted as SLURM job {job.job_id}; its log: {job.paths.stdout}", soft_wrap=True
        )
        return 0
    return _follow(out, job, run.path, argv)


def where(cfg: RunConfig) -> str:
    """What the run will take, in words."""
    from slurm.devices import has_slurm, uses_gpus

    if has_slurm():
        return f"SLURM, {cfg.nodes} nodes x {cfg.gpus} tasks"
    kind = "GPU" if uses_gpus(cfg) else "CPU process"
    plural = "" if cfg.gpus == 1 else "es" if kind.endswith("s") else "s"
    return f"this machine (it has no SLURM), {cfg.gpus} {kind}{plural}"


def _follow(out: Any, job: Any, run_dir: Path, argv: list[str]) -> int:
    from launch.follow import Follower, print_failure
    from launch.summary import again, debug_command, print_commands, print_next, print_result

    resume = (again(run_dir.name, argv), "go on where it stopped")
    try:
        done = Follower(out, job, run_dir).follow()
    except KeyboardInterrupt:
        out.print("\nStopped: the job has ended with its last checkpoint.")
        print_commands(out, [resume])
        return 130
    if not done:
        print_failure(out, job, run_dir)
        debug = (debug_command(argv), "step through it in one process")
        print_commands(out, [resume, debug])
        return 1
    print_result(out, run_dir, job.task(0).result())
    print_next(out, run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
