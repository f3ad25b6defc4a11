"""Command-line texts such as `data.batch_size=64` or `model=resnet50`, and values of a sweep."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from clf.config.given import Setting
from clf.config.networks import find
from clf.config.registry import entries
from clf.config.words import MANY, PAIRS, split, value, written


@dataclass
class Overrides:
    """The settings that were typed. If a key is given twice, the last one counts."""

    settings: list[Setting] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def parse(texts: Sequence[str]) -> Overrides:
    """`key=value` texts; `clf.config.words` says how a value is read."""
    found = Overrides()
    settings: dict[str, Setting] = {}
    whole, found.faults = _rejoined(list(texts))
    for text in whole:
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


def _rejoined(texts: list[str]) -> tuple[list[str], list[str]]:
    """The texts, without those that a shell has cut at the spaces of a list; and the faults."""
    kept, faults = [], []
    while texts:
        text = texts.pop(0)
        opening = text.partition("=")[2][:1]
        end = PAIRS.get(opening, "")
        if opening in ("[", "{") and not text.endswith(end):
            last = next((i for i, one in enumerate(texts) if one.endswith(end)), None)
            if last is not None:
                whole = " ".join([text, *texts[: last + 1]])
                del texts[: last + 1]
                faults.append(f"{whole}: cut at its spaces; write {shlex.quote(whole)}")
                continue
        kept.append(text)
    return kept, faults


def _parse_one(override: str) -> tuple[Setting | None, str]:
    """The setting, or None and the fault."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        remedy = "write key=value, such as epochs=20 or data.batch_size=64"
        if override in entries("model") or find(override) is not None:
            remedy = f"a model is chosen by --model {override}"
        return None, f"{override}: not a setting; {remedy}"
    if key.startswith(("+", "~")):
        known = f"{key.lstrip('+~')}={text or 'VALUE'}"
        return None, f"{override}: every key is there already; write {known}"
    return Setting(key, value(text), text, texts=written(text)), ""


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

    values = split(listed)
    if MANY.fullmatch(listed):
        try:
            parsed = OverridesParser.create().parse_override(text)
            values = list(parsed.sweep_string_iterator())
        except HydraException as error:
            raise ValueError(str(error).split("\n")[0]) from error
    if "" in values:
        raise ValueError("one of the values is empty")
    if len(set(values)) < len(values):
        raise ValueError("the same value twice; each makes a run of its own")
    return values
