"""Write the completion of `clf` for a shell.

clf completion bash > ~/.local/share/bash-completion/completions/clf

The script is static: it is made from the parsers of all commands, so a shell that completes starts
no Python. Names of runs are what lies in `runs/` when Tab is pressed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.completion import completion_parser
    from launch.command import answer_help

    answer_help(completion_parser())

from clf.config.compose import read
from clf.config.describe import settings_table
from clf.config.files import ConfigFiles
from clf.config.networks import all_choices
from launch.arguments.completion import completion_parser
from launch.arguments.parser import parse
from launch.arguments.run import FLAGS
from launch.command import run_command
from launch.commands import commands, words_of
from launch.terminal.screen import exit_code
from launch.typed import PROGRAM

RUNS = "ls runs 2>/dev/null"
# For readline: no space behind `epochs=`, and names of files where nothing else fits.
BASH = f"""
_{PROGRAM}() {{
  _shtab_{PROGRAM} "$@"
  if [[ ${{COMPREPLY[0]-}} == *= ]]; then compopt -o nospace; fi
}}
complete -o bashdefault -o default -F _{PROGRAM} {PROGRAM}"""


def main(argv: list[str] | None = None) -> int:
    return exit_code(_write, parse(completion_parser(), argv))


def _write(arguments: argparse.Namespace) -> int:
    import shtab

    program = argparse.ArgumentParser(PROGRAM)
    subparsers = program.add_subparsers(dest="command", metavar="COMMAND")
    known = _known_words()
    for name, text in commands().items():
        words = words_of(name)()
        _complete_by_name(words, known)
        subparsers.add_parser(name, help=text, parents=[words], add_help=False)
    print(shtab.complete(program, arguments.shell))
    if arguments.shell == "bash":
        print(BASH)
    return 0


def _known_words() -> dict[str, list[str]]:
    """What stands for a placeholder: settings by their key, and for a flag of a group its files."""
    files, settings = ConfigFiles(), [row.key for row in settings_table(read([]))]
    groups = {group: files.options(group) for group in files.groups}
    groups["model"] = [*dict.fromkeys(groups["model"] + all_choices())]
    words = {flag: groups[key] for flag, (key, _, _) in FLAGS.items() if key in groups}
    words["key=value"] = [f"{key}=" for key in settings]
    words["data.key=value"] = [f"{key}=" for key in settings if key.startswith("data.")]
    return words


def _complete_by_name(command: argparse.ArgumentParser, known: dict[str, list[str]]) -> None:
    """Say of each argument what completes it, by its flag or by its placeholder in `--help`."""
    import shtab

    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                _complete_by_name(one, known)
            continue
        placeholder = str(action.metavar or "")
        names = [name for name in (*action.option_strings, placeholder) if name in known]
        marked: Any = action
        if names:
            action.choices = known[names[0]]
        elif placeholder.startswith(("RUN", "NAME")) or "--name" in action.option_strings:
            marked.complete = shtab.cmd(RUNS)
        elif placeholder.startswith(("FILE", "PATH")):
            marked.complete = shtab.FILE
        elif placeholder in ("DIR", "FOLDER", "ROOT"):
            marked.complete = shtab.DIRECTORY


if __name__ == "__main__":
    run_command(main)
