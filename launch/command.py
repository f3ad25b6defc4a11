"""How each command begins and ends. Imports nothing of ours, so that `--help` answers at once."""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run_command(main: Callable[[], int]) -> NoReturn:
    """End the process with the exit code of `main`, without a traceback where the reader of a pipe
    has gone, as in `jobs.py list | head`."""
    try:
        try:
            code: object = main()
        except SystemExit as leaving:  # argparse, after --help
            code = leaving.code
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)  # type: ignore[arg-type]


def answer_help(parser: argparse.ArgumentParser) -> None:
    """Answer `--help` if that was typed; before a command imports what it needs to act."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        run_command(lambda: bool(parser.parse_args()))
