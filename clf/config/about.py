"""What is stated about a setting beside its type and default: its meaning, limits and choices."""

import math
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple

ABOVE_0 = 1e-9  # the least number, where 0 itself would be wrong


class About(NamedTuple):
    """What a setting means and which values it takes. In a signature:
    `momentum: Annotated[float, About("share of the last step's direction", 0.0, 1.0)] = 0.9`."""

    meaning: str = ""
    low: float | None = None  # the least number that is allowed
    high: float = math.inf  # the largest one
    choices: tuple[str, ...] | None = None
    pattern: str | None = None  # must match the whole text, which goes into a job script
    example: str | None = None  # a text that matches the pattern
    group: str | None = None  # a name registered in this group, which brings its own settings
    takes: str | None = None  # what is allowed, where the type does not say it
    read: Callable[[str], Any] | None = None  # converts a text; returns None if it cannot
    as_written: bool = False  # a number in it that Python would write otherwise, 007, is a text


def setting(default: Any, meaning: str, low: float | None = None, **more: Any) -> Any:
    """A dataclass field with this default; the other arguments are those of `About`."""
    about = {"about": About(meaning, low, **more)}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=about)
    return field(default=default, metadata=about)


def about(entry: Any) -> About:
    """What is stated about a dataclass field."""
    return entry.metadata.get("about") or About()
