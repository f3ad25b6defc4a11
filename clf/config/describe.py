"""Every setting as a row: `settings_table("model")`. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any

from clf.config.compose import read
from clf.config.faults import show
from clf.config.rules import limits


@dataclass(frozen=True)
class SettingRow:
    """A setting as a person reads it."""

    key: str
    type: str
    default: str
    value: str
    limits: str
    meaning: str
    source: str  # the file that changed it, or ""


def settings_table(group: str | None = None, overrides: Sequence[str] = ()) -> list[SettingRow]:
    """The settings of a group such as "model", or all."""
    cfg = read(overrides).cfg
    rows = [] if cfg is None else list(_rows(cfg))
    return [row for row in rows if group is None or f"{row.key}.".startswith(f"{group}.")]


def _rows(node: Any, prefix: str = "") -> Iterator[SettingRow]:
    for entry in fields(node):
        key, value = f"{prefix}{entry.name}", getattr(node, entry.name)
        if is_dataclass(value):
            yield from _rows(value, f"{key}.")
        else:
            kind = getattr(entry.type, "__name__", str(entry.type))
            yield SettingRow(key, kind, show(_default(entry)), show(value), limits(entry), "", "")


def _default(entry: Field[Any]) -> Any:
    return entry.default_factory() if entry.default_factory is not MISSING else entry.default
