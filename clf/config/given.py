"""One setting as it was given, and its value by the type of the setting: a text takes what stands
in the file or on the command line, and a value that is left out is a fault."""

import shlex
import types
import typing
from dataclasses import Field, dataclass
from typing import Any

from clf.config.about import about
from clf.config.faults import show
from clf.config.values import choices, example_of, takes
from clf.config.words import as_text, has_several, split, value

# What all runs of a sweep share: they ask for the same nodes and go into one folder.
NOT_SWEPT = ("name", "runs_dir", "nodes", "gpus", "slurm", "recipe")


@dataclass
class Setting:
    """One `key=value`, and where it comes from."""

    key: str
    value: Any
    text: str | None = None  # what was typed after "="; None if it came from a file
    source: str = ""  # " (in configs/recipe/mine.yaml)"
    texts: Any = None  # the value with each number and truth value as text; None: not known

    @property
    def given(self) -> str:
        """`key=value` as it was typed, or as it would be."""
        return f"{self.key}={show(self.value) if self.text is None else self.text}"

    @property
    def choice(self) -> Any:
        """The value as the name of a choice, such as that of a model."""
        return self.value if self.text is None or isinstance(self.value, dict) else self.texts


def inside(setting: Setting) -> list[Setting]:
    """The settings of a group that were given together."""
    known = setting.texts if isinstance(setting.texts, dict) else {}
    return [
        Setting(f"{setting.key}.{name}", value, source=setting.source, texts=known.get(name))
        for name, value in setting.value.items()
    ]


def typed(entry: Field[Any], is_whole: bool, setting: Setting) -> Any:
    """The value as its setting takes it: where that is a text, or holds texts, what stands in the
    file or on the command line, and no number that could be read from it.

    Args:
        is_whole: False for a part of the setting, such as slurm.env.NAME
    """
    hint = _hint(entry, is_whole)
    if hint is str and setting.text is not None:
        return as_text(setting.text)
    if hint in (str, list[str], dict[str, str]):
        return _as_texts(setting.value, setting.texts)
    if about(entry).as_written:
        several = setting.text is not None and has_several(setting.text)
        return setting.text if several else _as_written(setting.value, setting.texts)
    return setting.value


def unfit(entry: Field[Any], is_whole: bool, setting: Setting) -> str | None:
    """The fault of a value that no type would mend: there is none, or there are several."""
    return _several(entry, is_whole, setting) or _empty(entry, is_whole, setting)


def _several(entry: Field[Any], is_whole: bool, setting: Setting) -> str | None:
    text, hint = setting.text, _hint(entry, is_whole)
    if text is None or not has_several(text) or (hint is str and not choices(entry)):
        return None
    if about(entry).as_written and not is_whole:
        return None
    if typing.get_origin(hint) is list:
        return f"{setting.given}: several values without brackets; write " + shlex.quote(
            f"{setting.key}=[{text}]"
        )
    return several_fault(setting.key, text)


def several_fault(key: str, text: str) -> str:
    """The fault of several values for a setting that takes one."""
    one = split(text)[0]
    if key.split(".")[0] in NOT_SWEPT:
        return f"{key}={text}: several values where a run takes one; write one, {key}={one}"
    return (
        f"{key}={text}: several values where a run takes one; write one, or submit a run for each: "
        f"launch/submit.py --sweep {shlex.quote(f'{key}={text}')}"
    )


def _empty(entry: Field[Any], is_whole: bool, setting: Setting) -> str | None:
    is_text = _hint(entry, is_whole) is str
    if entry.type == dict[str, str] and not is_whole and setting.value == "":
        return None  # a variable of the environment may be empty
    if setting.text is not None:
        word = as_text(setting.text)
        return empty_fault(setting, entry) if word is not None and not word.strip() else None
    blank = is_text and isinstance(setting.value, str) and not setting.value.strip()
    return empty_fault(setting, entry) if blank else left_out(setting, entry)


def left_out(setting: Setting, entry: Field[Any] | None = None) -> str | None:
    """The fault of a key in a file with nothing behind its colon, such as `root:`."""
    return empty_fault(setting, entry) if setting.value is None and setting.texts == "" else None


def empty_fault(setting: Setting, entry: Field[Any] | None = None) -> str:
    """The fault of a value that is left out, as by a shell variable that is not set."""
    key, null, example = setting.key, "", ""
    if entry is not None:
        takes_any = entry.type is Any and not about(entry).takes
        null = " or null" if takes_any or "null" in takes(entry) else ""
        example = f", such as {one}" if (one := example_of(entry, key)) else ""
    if setting.text is None:
        return f"{key}: there is no value{setting.source}; give one{null}, or take the line out"
    return (
        f"{setting.given}: there is no value (is a shell variable not set?); give one{null}"
        f"{example}, or leave it out"
    )


def in_brackets(entry: Field[Any], is_whole: bool, setting: Setting) -> str:
    """What to type where a single text was given for a list of them, "; write ..."."""
    if _hint(entry, is_whole) != list[str] or setting.text is None:
        return ""
    word = as_text(setting.text)
    if not word or word[0] == "{":
        return ""
    whole = word if isinstance(value(word), list) else f"[{word}]"
    return "; write " + shlex.quote(f"{setting.key}={whole}")


def _hint(entry: Field[Any], is_whole: bool) -> Any:
    """The type of a setting or of a part of it, without None."""
    parts = [one for one in typing.get_args(entry.type) if one is not type(None)]
    is_optional = isinstance(entry.type, types.UnionType) and len(parts) == 1
    hint = parts[0] if is_optional else entry.type
    if is_whole:
        return hint
    return str if hint in (list[str], dict[str, str]) else Any


def _as_texts(value: Any, known: Any) -> Any:
    """A value with each number and truth value as the text that stands there."""
    if isinstance(value, dict):
        known = known if isinstance(known, dict) else {}
        return {show(name): _as_texts(one, known.get(name)) for name, one in value.items()}
    if isinstance(value, list):
        known = known if isinstance(known, list) and len(known) == len(value) else value
        return [_as_texts(one, text) for one, text in zip(value, known, strict=True)]
    if isinstance(value, bool | int | float):
        return known if isinstance(known, str) else show(value)
    return value


def _as_written(value: Any, known: Any) -> Any:
    """A value in which a number that is not written as Python would, such as 007, is a text."""
    if isinstance(value, dict):
        known = known if isinstance(known, dict) else {}
        return {name: _as_written(one, known.get(name)) for name, one in value.items()}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return known if is_number and isinstance(known, str) and known != show(value) else value
