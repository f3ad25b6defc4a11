"""Faults of a configuration: each is one line, "key=value: what is wrong; what to do", and all are
raised together."""

import difflib
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from clf.atomic import Unwritten

SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSW")


@dataclass
class Findings:
    """What a check found: `faults`, which stop a run, and `notes`, which may be intended."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add what another check found."""
        self.faults += other.faults
        self.notes += other.notes


class ConfigError(ValueError):
    """All faults of a configuration, one per line; `faults` is the list of them."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        lines = (fault.replace("\n", "\n  ") for fault in self.faults)
        super().__init__(
            f"{count} in the configuration:\n" + "\n".join(f"- {line}" for line in lines)
        )


def show(value: Any) -> str:
    """A value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{show(item)}" for key, item in value.items()) + "}"
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))


def printable(text: str) -> str:
    """The text with the bytes of a file's name that are no UTF-8 as \\xNN, so that it can be
    written anywhere."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """`printable`, and on one line: line breaks, tabs and other control characters as \\n, \\t,
    \\x1b, so that a name breaks no table and steers no terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in printable(text))


def nearest(word: str, valid: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names that are most similar to `word`, ignoring case; the first of equally similar ones
    comes first."""
    likeness = {
        name: difflib.SequenceMatcher(None, name.lower(), word.lower()).ratio() for name in valid
    }
    close = [name for name in likeness if likeness[name] >= cutoff]
    return sorted(close, key=lambda name: -likeness[name])[:count]


def did_you_mean(word: str, valid: Iterable[str], write: str = "{}") -> str:
    """The question "; did you mean x?" where a valid name is near what was typed, else "".

    Args:
        write: how the name is typed, such as "--model={}"
    """
    guess = nearest(word, valid)
    return f"; did you mean {write.format(guess[0])}?" if guess else ""


def one_a_key(faults: Iterable[str]) -> list[str]:
    """The first fault of each key, since a wrong type would be reported again for its default."""
    seen: set[str] = set()
    kept = []
    for fault in faults:
        key = fault.split("=")[0].split(":")[0]
        if key not in seen or "=" not in fault.split(":")[0]:
            kept.append(fault)
        seen.add(key)
    return kept


def is_for_the_user(error: BaseException) -> bool:
    """Whether one of our own checks raised it, so that its message alone says what to do."""
    if isinstance(error, ConfigError | Unwritten):
        return True
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    frame = traceback.extract_tb(error.__traceback__)[-1]
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    module = str(last.tb_frame.f_globals.get("__name__", ""))
    return module.startswith(("clf.", "slurm.")) and (frame.line or "").startswith("raise")
