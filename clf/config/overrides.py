"""Command-line texts such as `data.batch_size=64` or `model=resnet50`, read in Hydra's grammar."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clf.config.assign import Setting
from clf.config.networks import find
from clf.config.registry import entries

ONE_VALUE = (
    "several values where a run takes one; write a list as {key}=[{text}], or submit a run for "
    "each value with --sweep {key}={text}"
)


@dataclass
class Overrides:
    """The settings that were typed. If a key is given twice, the last one counts."""

    settings: list[Setting] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse(texts: Sequence[str]) -> Overrides:
    """`key=value` texts in Hydra's grammar."""
    found = Overrides()
    settings: dict[str, Setting] = {}
    for text in texts:
        setting, fault = _parse_one(text)
        if fault:
            found.faults.append(fault)
        if setting is None:
            continue
        before = settings.pop(setting.key, None)
        if before is not None and before.value != setting.value:
            found.notes.append(
                f"{setting.key} is given twice: {text} counts, {setting.key}={before.text} does not"
            )
        settings[setting.key] = setting
    found.settings = list(settings.values())
    return found


def _parse_one(override: str) -> tuple[Setting | None, str]:
    """The setting, or None and the fault."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    key, equals, text = override.partition("=")
    if not equals or not key:
        remedy = "write key=value, such as epochs=20 or data.batch_size=64"
        if override in entries("model") or find(override) is not None:
            remedy = f"a model is chosen by --model {override}"
        return None, f"{override}: not a setting; {remedy}"
    if key.startswith(("+", "~")):
        known = f"{key.lstrip('+~')}={text or 'VALUE'}"
        return None, f"{override}: every key is there already; write {known}"
    value: Any = _as_path(text)
    try:
        parsed = OverridesParser.create().parse_override(override)
        assert parsed.type is OverrideType.CHANGE
        if not parsed.is_sweep_override():
            value = parsed.value()
        elif value is None:
            return None, f"{override}: {ONE_VALUE.format(key=key, text=text)}"
    except HydraException as error:
        if value is None:
            reason = str(error).split("\n")[0]
            return None, (
                f"{override}: cannot be read ({reason}); put the value in quotes: "
                f"'{key}=\"{text}\"'"
            )
    return Setting(key, value, text), ""


def sweep(texts: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Each key of a sweep with its values, from texts such as `key=1,2,3` and `key=range(0,5)`;
    and the faults."""
    values: dict[str, list[str]] = {}
    faults: list[str] = []
    for text in texts:
        key, equals, listed = text.partition("=")
        try:
            if not (key and equals and listed):
                raise ValueError("write key=first,second")
            if key in values:
                raise ValueError(f"{key} is swept twice; list all of its values once")
            values[key] = _swept(text, listed)
        except ValueError as error:
            faults.append(f"--sweep {text}: {error}; such as --sweep model.learning_rate=1e-4,3e-4")
    return values, faults


def _swept(text: str, listed: str) -> list[str]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(text)
        many = parsed.is_sweep_override()
        values = list(parsed.sweep_string_iterator()) if many else [listed]
    except HydraException as error:
        raise ValueError(str(error).split("\n")[0]) from error
    typed = listed.split(",")
    if len(typed) == len(values):  # Hydra would write 1e-4 as 0.0001
        values = [one.strip() for one in typed]
    if len(set(values)) < len(values):
        raise ValueError("the same value twice; each makes a run of its own")
    return values


def _as_path(text: str) -> str | None:
    """The text if it is a path that Hydra's grammar cannot read, such as ~/crops or /data/a,b."""
    return text if text.startswith(("~", "/", "./", "../")) else None
