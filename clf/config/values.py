"""Single values: what a setting takes, in words, and what breaks it."""

import math
import re
import shlex
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

from clf.config.about import ABOVE_0, about
from clf.config.faults import did_you_mean, show
from clf.config.registry import entries
from clf.config.signatures import default_of

WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    list[str]: "a list of texts",
    dict[str, str]: "names and values, {NAME: value}",
    dict[str, Any]: "names and values, {NAME: value}",
    list[dict[str, Any]]: "a list of [{_target_: package.module.Name, argument: value}]",
    Any: "any value",
}


def takes(entry: Field[Any]) -> str:
    """What a setting takes, such as "a whole number of at least 1 or null"."""
    hint, optional = _without_none(entry.type)
    if text := about(entry).takes:
        return text + (" or null" if optional else "")
    if names := choices(entry):
        return f"one of {', '.join(names)}" + (" or null" if optional else "")
    return (
        WORDS.get(hint, getattr(hint, "__name__", str(hint)))
        + limits(entry)
        + (" or null" if optional else "")
    )


def expected(entry: Field[Any], key: str) -> str:
    """The same with an example."""
    example = example_of(entry, key)
    hint, optional = _without_none(entry.type)
    text = about(entry).takes or WORDS.get(hint, str(hint)) + limits(entry)
    text += " or null" if optional else ""
    return text + (f", such as {example}" if example else "")


def example_of(entry: Field[Any], key: str) -> str:
    """A setting as it could be typed: its default, or the example of its kind; "" without one."""
    default = default_of(entry)
    value = default if isinstance(default, bool | int | float) else default or about(entry).example
    if not isinstance(value, bool | int | float | str | list) or value == "???":
        return ""
    return shlex.quote(f"{key}={show(value)}")


def choices(entry: Field[Any]) -> tuple[str, ...]:
    """The names that a setting may be; () where any value of its type will do."""
    said = about(entry)
    if said.group is not None:
        return tuple(sorted(entries(said.group)))
    return said.choices or ()


def limits(entry: Field[Any]) -> str:
    """The limits of a field in words, such as " of at least 1"; empty where there are none."""
    low, high = about(entry).low, about(entry).high
    if low is None:
        return ""
    if low == ABOVE_0:
        return " above 0" if high == math.inf else f" above 0 and at most {high:g}"
    return f" of at least {low:g}" if high == math.inf else f" from {low:g} to {high:g}"


def kind(value: Any) -> str:
    """A value with the name of its type, as YAML has it."""
    kinds = {str: "the text", bool: "the truth value", int: "the whole number", float: "the number"}
    if value is None:
        return "null"
    if value == "":
        return "nothing"
    other = "the list" if isinstance(value, list) else "the dictionary"
    return f"{kinds.get(type(value), other)} {show(value)}"


def limit_faults(node: Any, prefix: str = "") -> Iterator[str]:
    """What breaks the limits, choices and patterns of a dataclass's fields."""
    for entry in fields(node):
        value, key = getattr(node, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from limit_faults(value, f"{key}.")
        elif (fault := _limit_fault(key, entry, value)) is not None:
            yield f"{key}={show(value)}: {fault}"


def _limit_fault(key: str, entry: Field[Any], value: Any) -> str | None:
    said, names = about(entry), choices(entry)
    if names and value is not None and value not in names:
        return f"expected one of {', '.join(names)}{did_you_mean(str(value), names)}"
    if any(not text.isprintable() for text in texts(value)):
        # a newline would become a line of a job script
        return "holds a line break or control character; take it out"
    if said.pattern and value is not None and not re.fullmatch(said.pattern, value, re.ASCII):
        return (
            "holds a character that has no place here, or nothing; expected something such as "
            + shlex.quote(f"{key}={said.example}")
        )
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not math.isfinite(number):
            return "expected a finite number"
        if said.low is None or number is None:
            continue
        if not isinstance(number, int | float) or not said.low <= number <= said.high:
            return f"expected a number{limits(entry)}"
    return None


def texts(value: Any) -> list[str]:
    """The texts in a value, those inside lists and dictionaries included."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in texts(one)]
    if isinstance(value, list | tuple):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


def _without_none(hint: Any) -> tuple[Any, bool]:
    """A type without None, and whether it had it."""
    parts = getattr(hint, "__args__", ())
    if type(None) not in parts:
        return hint, False
    others = [part for part in parts if part is not type(None)]
    return (others[0] if len(others) == 1 else hint), True
