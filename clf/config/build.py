"""Builds the objects that a setting describes as `{_target_: package.module.Name, argument: 1}`."""

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any

from clf.config.targets import target_fault


def build(description: dict[str, Any], trusted_packages: Sequence[str], key: str) -> Any:
    """The object; `key` names the setting in messages.

    Raises:
        ValueError: a class or function outside the trusted packages, or it does not take the
        arguments
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    targets = list(targets_in(description, key))
    if not isinstance(description, dict) or "_target_" not in description:
        raise ValueError(
            f"{key}={description}: expected {{_target_: package.module.Name, argument: value}}"
        )
    for place, target in targets:
        if fault := target_fault(target, trusted_packages):
            raise ValueError(f"{place}={target}: {fault}")
    try:
        return instantiate(description, _convert_="all")
    except InstantiationException as error:
        reason = str(error.__cause__ or error).split("\n")[0]
        raise ValueError(f"{key}: {description['_target_']} was not built: {reason}") from error


def targets_in(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` in a dataclass, dictionary or list: the key that it is under, and its
    value."""
    if is_dataclass(node):
        node = vars(node)
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "_target_":
                yield f"{key}._target_".lstrip("."), str(value)
            else:
                yield from targets_in(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list | tuple):
        for place, value in enumerate(node):
            yield from targets_in(value, f"{key}.{place}")
