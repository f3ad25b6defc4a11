"""Our commands as the user types them: `python launch/train.py` in a checkout, `clf train` where
the package is installed.

Texts everywhere name the files of launch/; where `clf` was typed, `as_typed` turns them into its
commands when they are shown. This file imports nothing of ours, so that `--help` answers at once.
"""

import re
import shlex
import sys
from pathlib import Path

PROGRAM = "clf"
_HERE = Path(__file__).resolve().parent
_SCRIPT = re.compile(r"(?:\bpython )?\blaunch/(\w+)\.py\b|(?<![\w/.-])(\w+)\.py(?= [a-z])")


def by_program() -> bool:
    """Whether this process was started by `clf`; `launch/__main__.py` writes down what was
    typed."""
    return sys.argv[0].startswith(f"{PROGRAM} ")


def as_typed(text: str) -> str:
    """A text with our commands as its reader types them: `python launch/jobs.py list` and
    `jobs.py list` become `clf jobs list` where `clf` was typed."""
    return _SCRIPT.sub(_program, text) if by_program() else text


def sibling(script: str) -> str:
    """The beginning of another of our commands, such as `python launch/jobs.py` or `clf jobs`:
    beside the one that was typed, from wherever that was."""
    if by_program():
        return f"{PROGRAM} {command_name(script)}"
    beside = Path(sys.argv[0]).with_name(script)
    return f"python {shlex.quote(str(beside if beside.is_file() else Path('launch', script)))}"


def this_command() -> str:
    """The beginning of the command that was typed, such as `python launch/train.py`."""
    return sys.argv[0] if by_program() else f"python {shlex.quote(sys.argv[0])}"


def command_name(script: str) -> str:
    """`check-data` for `check_data.py`."""
    return script.removesuffix(".py").replace("_", "-")


def _program(found: re.Match[str]) -> str:
    script = f"{found[1] or found[2]}.py"
    return f"{PROGRAM} {command_name(script)}" if (_HERE / script).is_file() else found[0]
