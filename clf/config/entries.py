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
    "optimizer": ("model", "optim/*.py"),
    "schedule": ("model", "optim/*.py"),
    "loss": ("model", "models/losses.py"),
    "data": ("data", "data/*.py"),
}
# Group -> how many arguments the toolkit passes to a function of it, by position.
ARGUMENTS = {"optimizer": 2, "schedule": 2, "loss": 3, "data": 1}
# Group -> what a function of it gets besides, if it has a parameter of that name.
OFFERED = {
    "loss": ("class_shares_C", "mixed"),
    "optimizer": ("not_hidden",),
    "schedule": ("epochs",),
}
NODES: dict[str, type] = {"model": ModelConfig, "data": DataConfig}


@dataclass(frozen=True)
class Entry:
    """A registered class or function: where it is, and the settings that it adds."""

    group: str
    name: str
    target: str  # module.name
    settings: dict[str, tuple[Any, Any]]  # name -> (type, dataclass field)
    asks: tuple[str, ...] = ()  # which of `OFFERED` it gets
    logs: Any = None  # what a model class says that it logs itself, as it stands there
    whole_weights: bool = False  # an optimizer that needs each weight in one piece
    needs: str | None = None  # a package that an installation may lack
    is_network: bool = False  # a plain network, and not a model with loss and metrics


def entry_of(
    named: Callable[..., Any], group: str, name: str, target: str, declared: dict[str, Any]
) -> Entry:
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
    asks = () if is_class else _asked(named, group, target)
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
    logs = getattr(named, "logs", None)
    return Entry(group, name, target, settings, asks, logs, **declared)


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
    return Entry("model", name, target, settings, is_network=True)


def _asked(function: Callable[..., Any], group: str, target: str) -> tuple[str, ...]:
    """What a function gets besides the arguments of its group.

    Raises:
        ValueError: it does not take those, or asks for something that there is not
    """
    count = ARGUMENTS.get(group, 0)
    try:
        inspect.signature(function).bind_partial(*range(count))
    except TypeError:
        raise ValueError(
            f"@register: {target} takes too few positional arguments: what is registered in "
            f"group {group!r} is called with {count}. Its own settings are keyword-only, after a *"
        ) from None
    offered = OFFERED.get(group, ())
    parameters = list(inspect.signature(function).parameters.values())
    further = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD][count:]
    for one in further:
        if offered and one.default is one.empty and one.name not in offered:
            raise ValueError(
                f"@register: {target} asks for {one.name}; beside {count} arguments a function of "
                f"group {group!r} can have {' and '.join(offered)}. Its own settings are "
                "keyword-only, after a *"
            )
    return tuple(one.name for one in further if one.name in offered)
