"""The parser of every command: flags and settings in any order, and advice for a mistyped flag."""

import argparse
import difflib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from launch.typed import as_typed

FLAG_LIKENESS = 0.75  # of a mistyped flag to the one that is suggested, 0 to 1


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
        self.exit(2, as_typed(f"{self.prog}: {message}\nSee {self.prog} --help\n"))

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
        epilog=as_typed(f"examples:\n{examples}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def parse(command: Parser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Flags and settings in any order."""
    command.typed = list(sys.argv[1:] if argv is None else argv)
    refuse_empty(command)
    return command.parse_intermixed_args(command.typed)


def refuse_empty(command: Parser) -> None:
    """A shell variable that is not set must not mean this folder, or no weights at all. (For an
    empty `key=` the configuration says it.)"""
    for before, word in zip(["", *command.typed], command.typed, strict=False):
        if not word.strip() or re.fullmatch(r"--[\w-]+=\s*", word):
            where = word or (f"behind {before}" if before else "as the first word")
            command.error(f"{where}: there is no value (is a shell variable not set?); give one")


def add_run_or_checkpoint(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run_or_checkpoint",
        metavar="RUN_OR_CHECKPOINT",
        help="run folder, its name, or a .ckpt file",
    )


def add_data_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "settings",
        nargs="*",
        metavar="data.key=value",
        help="settings of the data, such as data.root",
    )
