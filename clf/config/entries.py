"""What the registry holds: a class or function that a setting chooses, and the settings that its
signature adds."""

import inspect
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import Field, dataclass, fields
from typing import Any

from clf.config.about import about
from clf.config.schema import DataConfig, ModelConfig
from clf.config.signatures import as_field, field_of, signature

# Group -> the node of the config that its settings join, and the files of clf that register in it.
GROUPS = {
    "model": ("model", "models/*.py"),
    "optimizer": ("model", "optim.py"),
    "schedule": ("model", "optim.py"),
    "loss": ("model", "models/losses.py"),
    "data": ("data", "data/*.py"),
}
# Group -> how many arguments the toolkit passes to a function of it, by position.
ARGUMENTS = {"optimizer": 2, "schedule": 2, "loss": 3, "data": 1}
NODES: dict[str, type] = {"model": ModelConfig, "data": DataConfig}


@dataclass(frozen=True)
class Entry:
    """A registered class or function: where it is, and the settings that it adds."""

    group: str
    name: str
    target: str  # module.name
    settings: dict[str, tuple[Any, Any]]  # name -> (type, dataclass field)


def entry_of(named: Callable[..., Any], group: str, name: str, target: str) -> Entry:
    """Read the signature. A class may change the default of a setting of its node."""
    known: dict[str, Field[Any]] = {one.name: one for one in fields(NODES[GROUPS[group][0]])}
    if group == "model" and is_network(named):
        return _network_entry(named, name, target, set(known))
    read = signature(named)
    is_class = isinstance(named, type)
    refused = [key for key in known if key not in read.parameters and key != "_target_"]
    if is_class and refused and not read.takes_any:
        raise ValueError(
            f"@register: {target}.__init__ does not take {', '.join(refused)}, which every run "
            "sets. Add **kwargs and hand them to super().__init__(**kwargs)"
        )
    if not is_class:
        _check_positions(named, group, target)
    settings: dict[str, tuple[Any, Any]] = {}
    for key, parameter in read.parameters.items():
        if key not in known:
            if (typed := as_field(parameter, read.meanings.get(key, ""))) is not None:
                settings[key] = typed
        elif not is_class:
            raise ValueError(
                f"@register(name={name!r}): {target} has a setting {key}, which is one of "
                f"{GROUPS[group][0]} already; give it another name"
            )
        elif parameter[1] is not inspect.Parameter.empty:
            settings[key] = (known[key].type, field_of(parameter[1], about(known[key])))
    return Entry(group, name, target, settings)


def is_network(made: Callable[..., Any]) -> bool:
    """Whether a class or function builds a plain network, and not a model with loss and metrics."""
    if not isinstance(made, type):
        return True
    of_torch = any(
        one.__name__ == "Module" and one.__module__.startswith("torch.nn") for one in made.__mro__
    )
    return of_torch and not getattr(made, "takes_every_setting", False)


def _network_entry(
    named: Callable[..., Any], name: str, target: str, taken: AbstractSet[str]
) -> Entry:
    """Every parameter but `num_classes` is a setting of its own."""
    read = signature(named, all_named=True)
    if "num_classes" not in read.parameters:
        raise ValueError(
            f"@register(name={name!r}): {target} does not take num_classes, the number of outputs; "
            "give it the parameter num_classes"
        )
    settings: dict[str, tuple[Any, Any]] = {}
    for key, parameter in read.parameters.items():
        if key == "num_classes":
            continue
        if key in taken:
            raise ValueError(
                f"@register(name={name!r}): {target} has a parameter {key}, which is a setting of "
                "every model already; give it another name"
            )
        if (typed := as_field(parameter, read.meanings.get(key, ""))) is not None:
            settings[key] = typed
    return Entry("model", name, target, settings)


def _check_positions(function: Callable[..., Any], group: str, target: str) -> None:
    """ValueError if a function does not take what the toolkit passes to it."""
    count = ARGUMENTS.get(group, 0)
    try:
        inspect.signature(function).bind_partial(*range(count))
    except TypeError:
        raise ValueError(
            f"@register: {target} takes too few positional arguments: what is registered in "
            f"group {group!r} is called with {count}. Its own settings are keyword-only, after a *"
        ) from None
