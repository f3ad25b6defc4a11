"""The commands that there are: each file beside this one that ends by running itself. So a new
command is a file here, and one with its words in arguments/.
"""

import argparse
import importlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from launch.typed import command_name

HERE = Path(__file__).resolve().parent
ENDING = "\n    run_command(main)"


def commands() -> dict[str, str]:
    """Name, such as `check-data` -> the first sentence of the file, which says what it does."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        text = path.read_text(encoding="utf-8")
        if text.rstrip().endswith(ENDING):
            first = text.partition('"""')[2].partition('"""')[0].split("\n\n")[0]
            found[command_name(path.name)] = " ".join(first.split()).rstrip(".")
    return found


def module_of(name: str) -> str:
    return name.replace("-", "_")


def words_of(name: str) -> Callable[[], argparse.ArgumentParser]:
    """The function that makes a command's parser: `train_parser` of `launch/arguments/train.py`,
    or of `run.py` there."""
    module = module_of(name)
    file = module if find_spec(f"launch.arguments.{module}") else "run"
    return getattr(importlib.import_module(f"launch.arguments.{file}"), f"{module}_parser")
