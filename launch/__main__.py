"""`clf`, the command that pip installs: `clf train` is launch/train.py, and so for each command.
`python -m launch` is the same. `--help` imports a command's words alone.
"""

import difflib
import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

from launch.command import answer_help, run_command
from launch.commands import commands, module_of, words_of
from launch.typed import PROGRAM

ROOT = Path(__file__).resolve().parents[1]
USAGE = """\
usage: clf COMMAND ...

Train image classifiers, on one device or on many nodes under SLURM.

{commands}

clf COMMAND --help    its flags and examples
clf --version         the version, and where its code is
"""


def main() -> int:
    """Exit code 2: no such command, or the user stands in other code; else the command's own."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(USAGE.format(commands=_table()), end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(_version())
        return 0
    name = words[0].replace("_", "-")
    if name not in commands():
        return _fail(_no_such(words[0], name))
    sys.argv = [f"{PROGRAM} {name}", *words[1:]]  # what messages and suggestions begin with
    answer_help(words_of(name)())
    if name != "completion" and (fault := _other_code(name)):
        return _fail(fault)
    return importlib.import_module(f"launch.{module_of(name)}").main()


def _table() -> str:
    known = commands()
    width = max(map(len, known))
    return "\n".join(f"  {name.ljust(width)}  {text}" for name, text in known.items())


def _no_such(typed: str, name: str) -> str:
    near = difflib.get_close_matches(name, commands(), 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{typed}: no such command; {hint}See {PROGRAM} --help"


def _other_code(name: str) -> str | None:
    """What is wrong if the user stands in a checkout, and this is another copy of the code: what
    is edited there would not run."""
    package = find_spec("clf")
    home = Path(package.origin).resolve().parents[1] if package and package.origin else None
    if home != ROOT:
        return (
            f"this command is in {ROOT}, but Python finds the package clf in {home}; take the one "
            "that should not count out of PYTHONPATH"
        )
    here = Path.cwd()
    checkout = next((path for path in (here, *here.parents) if _is_checkout(path)), None)
    if checkout is None or checkout.resolve() == ROOT:
        return None
    return (
        f"it would run the code in {ROOT}, but the working directory is in {checkout}, which has "
        "code of its own, perhaps another version.\n"
        f"  to run the code here:       python {checkout}/launch/{module_of(name)}.py\n"
        f"  to make it what clf runs:   pip install --no-deps -e {checkout}\n"
        "  to run the installed code:  go to another folder"
    )


def _is_checkout(folder: Path) -> bool:
    names = ("launch/command.py", "clf/run.py", "slurm/job.py", "pyproject.toml")
    return all((folder / name).is_file() for name in names)


def _fail(message: str) -> int:
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    return 2


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("clf")
    except PackageNotFoundError:  # python -m launch in a checkout
        number = "not installed"
    return f"{PROGRAM} {number}, {ROOT}"


if __name__ == "__main__":
    run_command(main)
