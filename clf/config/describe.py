"""All settings as a table: `python launch/submit.py --settings [GROUP]`, and docs/settings.md.

python -m clf.config.describe > docs/settings.md
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass
from typing import Any

from clf.config.about import about
from clf.config.assign import keys, run_schema
from clf.config.compose import Composed
from clf.config.faults import ConfigError, did_you_mean, show
from clf.config.networks import find
from clf.config.registry import GROUPS, entries, owner
from clf.config.schema import RunConfig
from clf.config.signatures import default_of
from clf.config.values import takes

PAGE = """# Settings

Every setting, written `key=value` on the command line or as YAML in a recipe.
`python launch/submit.py --settings` prints them with what the chosen files change. This page is
printed from `clf/config/schema.py` and from the signatures of what is registered, by
`python -m clf.config.describe`.
"""


@dataclass(frozen=True)
class Row:
    """One setting, in words."""

    key: str
    takes: str  # type and limits
    default: str
    meaning: str
    value: str = ""  # where it is not the default
    source: str = ""  # what changed it: a file, or the command line


def settings_table(composed: Composed, group: str | None = None) -> list[Row]:
    """The settings of a run, with those that its files and overrides change.

    Args:
        group: "model", "data.augment", or one setting, "model.weights"; None: all

    Raises:
        ConfigError: no such group, or what is wrong with the settings that were given
    """
    if composed.faults or composed.cfg is None:
        raise ConfigError(composed.faults)
    defaults = run_schema(composed.settings)
    known, groups = keys(defaults)
    if group is not None and group not in groups | known.keys():
        raise ConfigError([f"--settings {group}: no such group; {_instead(group, groups)}"])
    rows = []
    for key, entry in known.items():
        if group in (None, key) or key.startswith(f"{group}."):
            value, default = _at(composed.cfg, key), _at(defaults, key)
            changed = {} if value == default else _change(composed, key, value)
            rows.append(_row(key, entry, default, **changed))
    return rows


def _instead(word: str, groups: set[str]) -> str:
    """What lists the settings that were meant by a word that is no group."""
    for name in ("optimizer", "schedule", "loss"):
        if word in entries(name):
            return f"--settings model model.{name}={word} lists its settings"
    if word in entries("model") or find(word) is not None:
        return f"--settings model --model {word} lists its settings"
    node, _, name = word.rpartition(".")
    if choice := owner(node, name):
        return f"it is a setting of {choice}"
    return f"expected one of {', '.join(sorted(groups))}" + did_you_mean(word, sorted(groups))


def page() -> str:
    """docs/settings.md: a table for each group, and one for each choice that has settings."""
    defaults = RunConfig()
    known, groups = keys(defaults)
    parts = [PAGE]
    for group in ("", *sorted(groups)):
        rows = [
            _row(key, entry, _at(defaults, key))
            for key, entry in known.items()
            if key.rpartition(".")[0] == group
        ]
        parts += [f"## {group or 'The run'}\n", _table(rows)]
    for group, (node, _) in GROUPS.items():
        for entry in entries(group).values():
            rows = [
                _row(f"{node}.{name}", _typed(one, kind), default_of(one))
                for name, (kind, one) in entry.settings.items()
            ]
            if rows:
                parts += [f"## {group} {entry.name}\n", _table(rows)]
    return "\n".join(parts)


def _row(key: str, entry: Field[Any], default: Any, **changed: str) -> Row:
    return Row(key, takes(entry), show(default), about(entry).meaning, **changed)


def _change(composed: Composed, key: str, value: Any) -> dict[str, str]:
    """The value and what set it: the last setting of that key, or of a group that holds it."""
    for setting in reversed(composed.settings):
        if key == setting.key or key.startswith(f"{setting.key}."):
            source = setting.source.strip(" ()").removeprefix("in ") or "command line"
            return {"value": show(value), "source": source}
    return {"value": show(value)}


def _at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = getattr(node, name)
    return node


def _typed(entry: Any, kind: Any) -> Field[Any]:
    """Give a field, which belongs to no dataclass yet, its type."""
    entry.type = kind
    return entry


def _table(rows: Sequence[Row]) -> str:
    return (
        "\n".join(["| setting | takes | default | meaning |", "|---|---|---|---|", *_lines(rows)])
        + "\n"
    )


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        cells = (f"`{row.key}`", _plain(row.takes), f"`{row.default}`", _plain(row.meaning))
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """With what Markdown would take for HTML or for emphasis, such as <NNN> and _target_, as it
    stands."""
    return re.sub(r"\b_\w+_\b", lambda word: word[0].replace("_", "\\_"), text.replace("<", "&lt;"))


if __name__ == "__main__":
    try:
        print(page(), end="", flush=True)
    except BrokenPipeError:  # the reader has gone; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
