"""The flags of every command. A flag is another way to write `key=value`, and both go through
`clf.config.compose`.

This file imports nothing of ours at its top, so that `--help` answers at once.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

FLAGS = {  # flag -> (key, placeholder, help)
    "--nodes": ("nodes", "N", "number of machines"),
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
FLAG_LIKENESS = 0.75  # of a mistyped flag to the one that is suggested, 0 to 1

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
EVALUATE = """\
  python launch/evaluate.py runs/NAME                                 best checkpoint, test split
  python launch/evaluate.py runs/NAME/checkpoints/last.ckpt --split val
  python launch/evaluate.py runs/NAME --predictions predictions.csv   the prediction of each image
  python launch/evaluate.py runs/NAME data.root=/other/images         same classes, other images
"""
CHECK_DATA = """\
  python launch/check_data.py /my/images                     what would stop or falsify a run
  python launch/check_data.py /my/images --fix-list bad.txt  ... for data.exclude=bad.txt
  python launch/check_data.py /my/images data.exclude=bad.txt data.group_by=folder
"""
JOBS = """\
  python launch/jobs.py list                        every run, newest last
  python launch/jobs.py status NAME                 where it is, and what is wrong
  python launch/jobs.py logs NAME -f                as it grows; the first error comes first
  python launch/jobs.py list --sweep NAME           the results of a sweep
  python launch/jobs.py resume NAME epochs=30       continue a run, here for more epochs
  python launch/jobs.py resume --sweep NAME         start again what failed
  python launch/jobs.py drill NAME                  preempt a running job and compare afterwards
  python launch/jobs.py sync                        upload what W&B does not have yet
"""


class Parser(argparse.ArgumentParser):
    """argparse that suggests a flag for a mistyped one, and explains that `--batch-size 32` is the
    setting data.batch_size=32."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.flags: list[str] = []
        self.typed: list[str] = []
        super().__init__(*arguments, **options)

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        self.flags += [name for name in names if str(name).startswith("--")]
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        for word in (word for word in unknown if word.startswith("--")):
            message += f"\n{self._advice(word)}"
        self.exit(2, f"{self.prog}: {message}\nSee {self.prog} --help\n")

    def _advice(self, word: str) -> str:
        flag, _, value = word.partition("=")
        begun = [known for known in self.flags if len(flag) > 3 and known.startswith(flag)]
        if near := begun or difflib.get_close_matches(flag, self.flags, 1, FLAG_LIKENESS):
            return f"{flag}: no such flag; did you mean {near[0]}?"
        # Late, because only this message needs the settings, and --help should not wait for them.
        from clf.config.assign import guesses

        keys = guesses(flag.lstrip("-").replace("-", "_"))
        text = f"{flag}: settings are written key=value, without dashes"
        if not keys:
            return f"{text}; launch/submit.py --settings lists them"
        settings = (f"{key}={value or self._value_after(flag)}" for key in keys)
        return f"{text}: did you mean {' or '.join(settings)}?"

    def _value_after(self, flag: str) -> str:
        """The word typed behind a flag, or VALUE if that is another flag or a setting."""
        following = self.typed[self.typed.index(flag) + 1 :][:1] if flag in self.typed else []
        return next((word for word in following if not re.search(r"^-|=", word)), "VALUE")


def parser(description: str, examples: str) -> Parser:
    """A parser whose help ends with examples."""
    return Parser(
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse(command: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags and settings in any order."""
    command.typed = list(sys.argv[1:] if argv is None else argv)
    _refuse_empty(command)
    return command.parse_intermixed_args(command.typed)


def parse_jobs(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """`parse` for the commands of jobs.py. argparse does not mix flags into the words of a command;
    here the words of `resume` may stand behind its flags too."""
    command = jobs_parser()
    command.typed = list(sys.argv[1:] if argv is None else argv)
    _refuse_empty(command)
    arguments, rest = command.parse_known_args(command.typed)
    flags = [word for word in rest if word.startswith("-")]
    if flags or (rest and arguments.command != "resume"):
        command.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.words += rest
    return arguments


def _refuse_empty(command: Parser) -> None:
    """A shell variable that is not set must not mean this folder, or no weights at all. (For an
    empty `key=` the configuration says it.)"""
    for before, word in zip(["", *command.typed], command.typed, strict=False):
        if not word.strip() or re.fullmatch(r"--[\w-]+=\s*", word):
            where = word or (f"behind {before}" if before else "as the first word")
            command.error(f"{where}: there is no value (is a shell variable not set?); give one")


# --- from flags to settings ---------------------------------------------------------------------


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


# --- the commands -------------------------------------------------------------------------------


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


def evaluate_parser() -> Parser:
    command = parser(
        "Score a run's best checkpoint, or a checkpoint file, on one device.", EVALUATE
    )
    command.add_argument(
        "run_or_checkpoint",
        metavar="RUN_OR_CHECKPOINT",
        help="run folder, its name, or a .ckpt file",
    )
    command.add_argument(
        "--split",
        choices=("val", "test", "train"),
        help="default: test if the data has one, else val",
    )
    command.add_argument(
        "--predictions", type=Path, metavar="FILE.csv", help="write the prediction of each image"
    )
    command.add_argument(
        "settings",
        nargs="*",
        metavar="data.key=value",
        help="settings of the data, such as data.root",
    )
    return command


def check_data_parser() -> Parser:
    command = parser(
        "Look at every image of a data set for what would stop or falsify a run on it. Exit code 1 "
        "if there is such a thing. Stopped, the same command goes on where it was.",
        CHECK_DATA,
    )
    command.add_argument("root", metavar="ROOT", type=Path, help="folder of images, or of lists")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="of index.html, report.json and the cache; default: data_check/<name of ROOT>",
    )
    command.add_argument(
        "--fix-list",
        type=Path,
        metavar="FILE",
        help="write the images to leave out with data.exclude=FILE",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="find copies by their bytes alone, not pictures that were saved anew",
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode; default: one a core"
    )
    command.add_argument(
        "settings",
        nargs="*",
        metavar="data.key=value",
        help="settings of the data, such as data.name, data.split_seed or data.group_by",
    )
    return command


def jobs_parser() -> Parser:
    command = parser("Look after runs: list, status, logs, cancel, resume, drill, sync.", JOBS)
    command.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> Parser:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.flags = command.flags  # argparse reports an unknown flag to the outer parser
        return one

    listing = add("list", "runs with their state, epoch, best top-1 and time left")
    listing.add_argument("--sweep", metavar="NAME", help="only its runs, as a table of results")
    add("status", "one run: state, reason, epoch, restarts, what is wrong").add_argument(
        "name", metavar="RUN"
    )
    logs = add("logs", "the log of a rank; if the run failed, the first error comes first")
    logs.add_argument("name", metavar="RUN")
    logs.add_argument("-f", "--follow", action="store_true", help="as it grows, until the job ends")
    logs.add_argument(
        "--rank", type=int, metavar="R", help="default: the rank that failed first, else 0"
    )
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="default: the last 100")
    add("cancel", "end a job, or take it out of the queue").add_argument("name", metavar="RUN")
    resume = add("resume", "continue a run where it stopped, with other settings if wanted")
    resume.add_argument(
        "words",
        nargs="*",
        metavar="RUN [key=value ...]",
        help="the run, and settings to change, such as epochs=30 data.micro_batch_size=16",
    )
    resume.add_argument("--sweep", metavar="NAME", help="all of its runs that are not done")
    resume.add_argument(
        "--new-code", action="store_true", help="use the code as it is now, not the run's snapshot"
    )
    _add_allow_change(resume)
    drill = add("drill", "preempt a running job for real, and compare what comes back")
    drill.add_argument("name", metavar="RUN")
    sync = add("sync", "upload what runs recorded offline, also while they are running")
    sync.add_argument("name", metavar="RUN", nargs="*", help="default: all")
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
    _add_allow_change(command)
    command.add_argument("settings", nargs="*", metavar="key=value", help=SETTINGS_HELP)


def _add_allow_change(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-change",
        action="store_true",
        help="continue a run even with another seed, batch size, learning rate, ...",
    )
