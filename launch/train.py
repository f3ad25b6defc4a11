"""The run of submit.py in this process, on one device: breakpoints stop, errors show their
traceback.

python launch/train.py --model resnet18 --debug
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # this file's own clf, not an installed one

from launch.arguments import CLUSTER_FLAGS, add_run_flags, fail, overrides, parse, parser

EXAMPLES = """\
  python launch/train.py --model resnet18           real handwritten digits, no download
  python launch/train.py --model resnet18 --smoke   one batch of each loop: does it run at all?
  python launch/train.py --model resnet18 --debug   breakpoint() stops anywhere, in the data too
  python launch/train.py --data imagefolder data.root=/my/images data.image_size=128
"""
SMOKE = {"limit_batches": "1", "epochs": "1", "model.warmup_epochs": "0"}


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to mend in the command or the data; 1: the run failed."""
    made = parser("Train in this process, on one GPU if there is one, else on the CPU.", EXAMPLES)
    add_run_flags(made, leave_out=CLUSTER_FLAGS)
    made.add_argument(
        "--debug", action="store_true", help="read data in this thread, no live display, no W&B"
    )
    made.add_argument("--smoke", action="store_true", help="one epoch of one batch of each loop")
    arguments = parse(made, argv)
    settings = overrides(arguments)
    if arguments.smoke:
        given = {setting.partition("=")[0] for setting in settings}
        settings += [f"{key}={value}" for key, value in SMOKE.items() if key not in given]

    from clf.config.faults import is_for_the_user

    try:
        return _train(settings, arguments.debug, sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        if not is_for_the_user(error):
            raise
        return fail(error)


def _train(settings: list[str], debug: bool, argv: list[str]) -> int:
    from clf.config import ConfigError
    from clf.plan import compose, resolve
    from launch.runs.folders import create, find_run
    from launch.terminal.summary import (
        again,
        console,
        print_commands,
        print_complete,
        print_next,
        print_result,
        print_run,
    )
    from slurm.devices import resources, uses_gpus
    from slurm.stage import stage

    cfg = compose(settings, "debug" if debug else "train")
    if cfg.nodes > 1 or (cfg.gpus or 1) > 1:
        key = "nodes" if cfg.nodes > 1 else "gpus"
        raise ConfigError(
            [
                f"{key}={getattr(cfg, key)}: this command runs in one process on one device; "
                "leave it out, or use launch/submit.py"
            ]
        )
    cfg.gpus = 1
    if faults := resources(cfg).faults:
        raise ConfigError(faults)
    run = find_run(resolve(cfg))
    out = console()
    if run.state == "finished":
        print_complete(out, run)
        return 0
    device = "one GPU" if uses_gpus(cfg) else "the CPU (no GPU is used)"
    print_run(out, cfg, run, f"this process, {device}")
    create(cfg, run)
    out.print("[dim]importing torch and lightning ...[/dim]")
    from clf.run import fit

    try:
        scalars = fit(stage(cfg), run.path, progress=out.is_terminal and not debug)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        out.print("\nStopped. What the last checkpoint holds is kept.")
        print_commands(out, [(again(run.path.name, argv), "go on where it stopped")])
        return 130
    print_result(out, run.path, scalars)
    print_next(out, run.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
