"""How each command begins and ends, and the commands that it suggests to type next.

This file imports nothing that acts or shows, so that `--help` answers at once.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from clf.parallel.light_imports import lighten_imports
from launch.arguments.run import SLURM_FLAGS
from launch.typed import sibling, this_command


def run_command(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`, without a traceback where the reader of a pipe
    has gone, as in `jobs.py list | head`, and after Ctrl-C, which is code 130."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of `answer_help`
        signal.signal(signal.SIGINT, signal.default_int_handler)
    lighten_imports()
    try:
        try:
            code: object = main()
        except SystemExit as leaving:  # argparse, after --help
            code = leaving.code
        except KeyboardInterrupt:
            code = 128 + signal.SIGINT
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)  # type: ignore[arg-type]


def answer_help(parser: argparse.ArgumentParser) -> None:
    """Answer `--help` if that was typed; before a command imports what it needs to act. Until
    `run_command`, Ctrl-C ends the process without a word: there is nothing to say yet."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if {"-h", "--help"} & set(sys.argv[1:]):
        run_command(lambda: parser.parse_args() is None)


def again(name: str, argv: Sequence[str]) -> str:
    """This command once more, for the run of that name."""
    named = any(word == "--name" or word.startswith(("--name=", "name=")) for word in argv)
    return f"{this_command()} {shlex.join([*argv, *([] if named else ['--name', name])])}"


def debug_command(argv: Sequence[str]) -> str:
    """The run of a submit.py in one process, under a name of its own."""
    flags = ("--name", "--nodes", "--gpus", *SLURM_FLAGS)
    with_value = tuple(f"{flag}=" for flag in flags) + ("name=", "nodes=", "gpus=")
    kept = [
        word
        for before, word in zip(["", *argv], argv, strict=False)
        if word not in flags and before not in flags
        if not word.startswith(with_value) and word != "--follow"
    ]
    return f"{sibling('train.py')} {shlex.join([*kept, '--debug'])}"
