"""Command-line texts such as `data.batch_size=64` or `model=resnet50`, read in Hydra's grammar.

Every function gives what it could make and a list of the faults it met, to be reported together.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clf.config.assign import Setting
from clf.config.faults import nearest, show
from clf.config.registry import registered

ONE_VALUE = "several values where a run takes one; write a list as {key}=[{text}]"


def parse(overrides: Sequence[str]) -> tuple[list[Setting], list[str]]:
    """`key=value` texts in Hydra's grammar."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    settings: dict[str, Setting] = {}
    faults: list[str] = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            faults.append(
                f"{override}: not a setting; write key=value, such as epochs=20 or "
                "data.batch_size=64"
            )
            continue
        if key.startswith(("+", "~")):
            faults.append(
                f"{override}: every key is there already; write "
                f"{key.lstrip('+~')}={text or 'VALUE'}"
            )
            continue
        try:
            parsed = parser.parse_override(override)
            assert parsed.type is OverrideType.CHANGE
            value: Any = parsed.value()
            if parsed.is_sweep_override():
                value = _as_path(text)
                if value is None:
                    faults.append(f"{override}: {ONE_VALUE.format(key=key, text=text)}")
                    continue
        except HydraException as error:
            value = _as_path(text)
            if value is None:
                reason = str(error).split("\n")[0]
                faults.append(
                    f"{override}: cannot be read ({reason}); put the value in quotes: "
                    f"'{key}=\"{text}\"'"
                )
                continue
        before = settings.get(key)
        if before is not None and before.value != value:
            faults.append(f"{override}: also given as {key}={before.text}; keep one of them")
            continue
        settings[key] = Setting(key, value, text)
    return list(settings.values()), faults


def sweep(texts: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Keys with the values that each is to take, of `key=1,2,3` and `key=range(0,5)` texts."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    values: dict[str, list[str]] = {}
    faults: list[str] = []
    for text in texts:
        key, equals, listed = text.partition("=")
        try:
            if not (key and equals and listed):
                raise ValueError("write key=first,second")
            if key in values:
                raise ValueError(f"{key} is swept twice; list all of its values once")
            parsed = parser.parse_override(text)
            many = parsed.is_sweep_override()
            found = list(parsed.sweep_string_iterator()) if many else [listed]
            typed = listed.split(",")
            if len(typed) == len(found):  # Hydra would write 1e-4 as 0.0001
                found = [one.strip() for one in typed]
            if len(set(found)) < len(found):
                raise ValueError("the same value twice; each makes a run of its own")
            values[key] = found
        except (HydraException, ValueError) as error:
            reason = str(error).split("\n")[0]
            faults.append(
                f"--sweep {text}: {reason}; such as --sweep model.learning_rate=1e-4,3e-4"
            )
    return values, faults


def _as_path(text: str) -> str | None:
    """A path that is no value in Hydra's grammar, such as ~/crops or /data/a,b."""
    return text if text.startswith(("~", "/", "./", "../")) else None


def split_choices(
    settings: list[Setting], config_dir: Path
) -> tuple[dict[str, str], list[Setting], list[str]]:
    """Choices of an option (model=resnet50) apart from plain values, and unknown options."""
    groups = {path.name for path in config_dir.iterdir() if path.is_dir()}
    choices: dict[str, str] = {}
    values: list[Setting] = []
    faults: list[str] = []
    for setting in settings:
        if setting.key not in groups or isinstance(setting.value, dict):
            values.append(setting)
            continue
        valid = options(setting.key, config_dir)
        if setting.value is None and setting.key == "recipe":
            continue
        if setting.value in valid:
            choices[setting.key] = str(setting.value)
            continue
        guess = nearest(str(setting.value), valid)
        hint = f"; did you mean {setting.key}={guess[0]}?" if guess else ""
        faults.append(
            f"{setting.key}={show(setting.value)}: no such {setting.key}; expected one of "
            f"{', '.join(valid)}{hint}"
        )
    return choices, values, faults


def options(group: str, config_dir: Path) -> list[str]:
    """What can be chosen in a group such as "model": its files and the registered classes."""
    return sorted(
        {path.stem for path in (config_dir / group).glob("*.yaml")} | set(registered(group))
    )
