"""Flags that the commands share. A flag is another way to write `key=value`; all go through
`clf.config.compose`."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

FLAGS = {  # flag -> (key, placeholder, help)
    "--nodes": ("nodes", "N", "machines"),
    "--gpus": ("gpus", "G", "GPUs on each machine (CPU processes where there is no GPU)"),
    "--model": ("model", "M", "a file of configs/model: resnet18, resnet50, or your own"),
    "--data": ("data", "D", "a file of configs/data: digits, jersey, imagefolder, annotations"),
    "--strategy": ("strategy", "S", "auto, single, ddp, deepspeed_zero1, 2 or 3"),
    "--name": ("name", "X", "name of the run folder; an unfinished run of that name goes on"),
    "--slurm": ("slurm", "S", "a file of configs/slurm: what to ask of SLURM"),
    "--partition": ("slurm.partition", "P", "of SLURM"),
    "--time": ("slurm.time", "T", "time limit, minutes or [D-]HH:MM:SS; default: the partition's"),
    "--parallel": ("slurm.parallel", "N", "runs of a sweep that go on at a time"),
}
CLUSTER_FLAGS = ("--nodes", "--gpus", "--slurm", "--partition", "--time", "--parallel")
SETTINGS_HELP = "any setting of clf/config.py, such as epochs=20 data.batch_size=128 recipe=NAME"


class Parser(argparse.ArgumentParser):
    """argparse that explains `--batch-size 32` by the setting it should have been."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        flags = [word for word in unknown if word.startswith("--")]
        for flag in flags:
            word = flag.lstrip("-").partition("=")[0].replace("-", "_")
            message += (
                f"\n{flag}: settings are written key=value, without dashes: {self._setting(word)}"
            )
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help\n")

    @staticmethod
    def _setting(word: str) -> str:
        from clf.config.assign import suggest

        return suggest(word)


def parser(description: str, examples: str) -> Parser:
    """A parser whose help ends with examples."""
    return Parser(
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_run_flags(made: argparse.ArgumentParser, leave_out: Sequence[str] = ()) -> None:
    """The flags of a run, and the settings."""
    for flag, (key, placeholder, text) in FLAGS.items():
        if flag not in leave_out:
            made.add_argument(flag, dest=f"flag_{key}", metavar=placeholder, help=text)
    made.add_argument("settings", nargs="*", metavar="key=value", help=SETTINGS_HELP)


def overrides(arguments: argparse.Namespace) -> list[str]:
    """All flags that were given and all settings, as `key=value`."""
    given = {key: getattr(arguments, f"flag_{key}", None) for key, _, _ in FLAGS.values()}
    return [f"{key}={text}" for key, text in given.items() if text is not None] + arguments.settings


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags and settings in any order."""
    return made.parse_intermixed_args(argv)


def fail(message: object, code: int = 2) -> int:
    """Print a message for the user, alone, and give the exit code: 2 for what the user can mend, 1
    for a failed job."""
    print(message, file=sys.stderr)
    return code
