"""The words of `benchmark.py scaling`: its flags, those of a run, and settings."""

import argparse

from launch.arguments.parser import Parser
from launch.arguments.run import FLAGS

SCALING = "scaling"
OF_A_RUN = ("--model", "--data", "--strategy", "--config", "--name", "--slurm", "--partition",
            "--time")  # fmt: skip
OWN = ("--nodes", "--gpus", "--images-per-rank", "--images-per-step", "--steps", "--queue-minutes",
       "--on-paper", "--costs")  # fmt: skip


class Words(list[str]):
    """The sections; settings of `scaling` may stand among them."""

    def __contains__(self, word: object) -> bool:
        return "=" in str(word) or super().__contains__(word)


def add_scaling(command: Parser) -> None:
    """Add the flags that only `scaling` takes."""
    command.add_argument("--nodes", metavar="N,...", help="scaling: machines, such as 1,2,4")
    command.add_argument("--gpus", metavar="G,...", help="scaling: devices a machine, such as 1,2")
    command.add_argument(
        "--images-per-rank", type=int, metavar="N", help="weak scaling, the default: 64 each step"
    )
    command.add_argument(
        "--images-per-step", type=int, metavar="N", help="strong scaling: of all ranks together"
    )
    command.add_argument("--steps", type=int, metavar="N", help="scaling: of each run (100)")
    command.add_argument(
        "--queue-minutes",
        type=float,
        metavar="M",
        help="scaling: a job that has not started by then is cancelled (60)",
    )
    command.add_argument(
        "--on-paper", action="store_true", help="scaling: print the model of docs/scaling.md"
    )
    command.add_argument(
        "--costs", action="store_true", help="scaling: measure here what more ranks cost a run"
    )
    for flag in OF_A_RUN:
        key, placeholder, text = FLAGS[flag]
        command.add_argument(flag, dest=f"flag_{key}", metavar=placeholder, help=f"scaling: {text}")


def asks_for_scaling(command: Parser, arguments: argparse.Namespace) -> bool:
    """Whether it is `scaling` that was typed; its settings are then `arguments.settings`. Ends the
    process where its words stand beside those of other sections."""
    sections = [word for word in arguments.sections if "=" not in word]
    arguments.settings = [word for word in arguments.sections if "=" in word]
    if sections == [SCALING]:
        for name in ("images_per_rank", "images_per_step", "steps", "queue_minutes"):
            if (number := getattr(arguments, name)) is not None and number <= 0:
                command.error(f"--{name.replace('_', '-')} {number}: expected more than 0")
        if arguments.images_per_rank and arguments.images_per_step:
            command.error(
                "--images-per-rank is weak and --images-per-step strong scaling: give one"
            )
        return True
    if SCALING in sections:
        command.error(f"{SCALING} starts jobs, and stands alone")
    words = [*arguments.settings, *(word.partition("=")[0] for word in command.typed)]
    if own := [word for word in words if word in (*OF_A_RUN, *OWN) or word in arguments.settings]:
        command.error(f"{own[0]}: only `{SCALING}` takes it")
    return False
