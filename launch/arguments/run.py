"""The flags of submit.py and train.py. A flag is another way to write `key=value`, and both go
through `clf.config.compose`."""

import argparse
import re
from collections.abc import Sequence
from typing import Any

from launch.arguments.parser import Parser, parser

FLAGS = {  # flag -> (key, placeholder, help)
    "--nodes": (
        "nodes",
        "N",
        "number of machines; 1-4: as many as SLURM has at each start",
    ),
    "--gpus": ("gpus", "G", "GPUs on each machine (CPU processes where there is no GPU)"),
    "--model": ("model", "M", "resnet18, ..., timm/NAME, or your own; --list-models shows them"),
    "--data": (
        "data",
        "D",
        "a file of configs/data (digits, jersey, imagefolder, annotations), or a folder of images",
    ),
    "--strategy": ("strategy", "S", "auto, single, ddp, deepspeed_zero1, 2 or 3"),
    "--config": ("recipe", "FILE", "a YAML file of settings, such as the config.yaml of a run"),
    "--name": ("name", "X", "name of the run folder; a run of that name goes on where it stopped"),
    "--slurm": ("slurm", "S", "a file of configs/slurm: what to ask of SLURM"),
    "--partition": ("slurm.partition", "P", "SLURM partition"),
    "--time": ("slurm.time", "T", "time limit, minutes or [D-]HH:MM:SS; default: the partition's"),
    "--parallel": ("slurm.parallel", "N", "runs of a sweep that are active at a time"),
}
SLURM_FLAGS = ("--slurm", "--partition", "--time", "--parallel")
SETTINGS_HELP = "any setting, such as epochs=20 data.batch_size=128; --settings lists them"

SUBMIT = """\
  python launch/submit.py --model resnet18                    real handwritten digits, no download
  python launch/submit.py --model resnet50 --data imagefolder data.root=/my/images epochs=30
  python launch/submit.py --nodes 2 --gpus 8 --model resnet50 data.batch_size=1024
  python launch/submit.py --gpus 2 strategy.accelerator=cpu   two CPU processes
  python launch/submit.py --sweep model.learning_rate=1e-4,3e-4 --sweep seed=0,1,2 --parallel 4
  python launch/submit.py recipe=jersey data.root=/my/jerseys --dry-run
  python launch/submit.py --name NAME epochs=30               a run of defaults goes on
  python launch/submit.py --settings model                    the settings of the model
  python launch/submit.py --list-models convnext              what --model takes, by a part of it
"""
TRAIN = """\
  python launch/train.py --model resnet18           real handwritten digits, no download
  python launch/train.py --model resnet18 --smoke   one batch of each loop: does it run at all?
  python launch/train.py --model resnet18 --debug   breakpoint() stops anywhere, in the data too
  python launch/train.py --data imagefolder data.root=/my/images data.image_size=128
  python launch/train.py --model resnet50 --dry-run print the whole config, train nothing
"""


def overrides(arguments: argparse.Namespace) -> list[str]:
    """All flags that were given and all settings, as `key=value`."""
    given = {key: getattr(arguments, f"flag_{key}", None) for key, _, _ in FLAGS.values()}
    flags = [f"{key}={quoted(text)}" for key, text in given.items() if text is not None]
    return flags + arguments.settings


def settings_group(word: str, settings: list[str]) -> tuple[str | None, list[str]]:
    """The word after `--settings` or `--list-models`, or None, and the settings: argparse may take
    one for the word."""
    return (None, [word, *settings]) if "=" in word else (word or None, settings)


def quoted(text: str) -> str:
    """A flag's value as that of a setting: in quotes, unless it is plain. A path in brackets or
    quotes would otherwise be read as something else."""
    if re.fullmatch(r"[\w.+@:/~-]+", text, re.ASCII):
        return text
    # Within quotes, a quote is escaped, and so is each backslash in front of one.
    escaped = re.sub(r"(\\*)('|$)", lambda part: part[1] * 2 + part[2].replace("'", "\\'"), text)
    return f"'{escaped}'"


def submit_parser() -> Parser:
    command = parser(
        "Submit a run to SLURM; on a machine without SLURM, run it here as a job and follow it.",
        SUBMIT,
    )
    _add_run_flags(command, FLAGS)
    command.add_argument(
        "--dry-run", action="store_true", help="print the config and the job; submit nothing"
    )
    command.add_argument(
        "--follow", action="store_true", help="show a SLURM job's epochs; Ctrl-C leaves it running"
    )
    command.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="key=a,b",
        help="a run for each value; several: for each combination",
    )
    command.add_argument(
        "--inside-job", action="store_true", help="start in the allocation that this shell is in"
    )
    return command


def train_parser() -> Parser:
    command = parser("Train in this process, on one GPU if there is one, else on the CPU.", TRAIN)
    _add_run_flags(command, [flag for flag in FLAGS if flag not in SLURM_FLAGS])
    command.add_argument(
        "--dry-run", action="store_true", help="print the config; train nothing, write nothing"
    )
    command.add_argument(
        "--debug", action="store_true", help="read data in this thread, no live display, no W&B"
    )
    command.add_argument("--smoke", action="store_true", help="one epoch of one batch of each loop")
    return command


def _add_run_flags(command: argparse.ArgumentParser, flags: Sequence[str] | dict[str, Any]) -> None:
    for flag in flags:
        key, placeholder, text = FLAGS[flag]
        command.add_argument(flag, dest=f"flag_{key}", metavar=placeholder, help=text)
    command.add_argument(
        "--settings",
        dest="list_settings",
        nargs="?",
        const="",
        metavar="GROUP",
        help="list all settings, those of a group such as model, or one; start nothing",
    )
    command.add_argument(
        "--list-models",
        nargs="?",
        const="",
        metavar="PATTERN",
        help="list what --model takes: all, or names that hold or match PATTERN; start nothing",
    )
    add_flags_of_going_on(command)
    command.add_argument("settings", nargs="*", metavar="key=value", help=SETTINGS_HELP)


def add_flags_of_going_on(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-change",
        action="store_true",
        help="continue a run even with another seed, batch size, learning rate, ...",
    )
    command.add_argument(
        "--refresh-data",
        action="store_true",
        help="begin a run anew from its weights, with the images that are there now",
    )
