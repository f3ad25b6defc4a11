"""`@register(name=...)`: classes and functions that a setting chooses by name.

    @register(name="mynet")                      # --model mynet
    class MyNet(BaseClassificationModel): ...

    @register(name="sgd", group="optimizer")     # model.optimizer=sgd
    def sgd(groups, learning_rate, *, momentum: float = 0.9): ...    # model.momentum=0.95

What the signature adds becomes settings of the same node, typed, with their defaults (see
`clf.config.signatures`). Those of `clf` are known without importing them. Your own must be in a
package listed in `trusted_packages`, and importing that package must import them.

A model may also be a plain `torch.nn.Module` class, or a function that returns one: the parameter
`num_classes` says how many outputs it has, and the others are its settings. Beside what is
registered, `model` may be any network of torchvision and timm (`clf.config.networks`).
"""

import functools
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Any, TypeVar

from clf.config.about import about
from clf.config.entries import GROUPS, NODES, Entry, entry_of
from clf.config.faults import nearest
from clf.config.networks import of_target as network_of
from clf.config.networks import settings as network_settings
from clf.config.signatures import NO_DEFAULT, default_of, field_of, stubs
from clf.metrics.measures import NOTHING

PACKAGE = Path(__file__).resolve().parents[1]
NAME = r"[A-Za-z][\w.-]*"  # one word on a command line, and text in a YAML file
AUTO = "auto"  # data.name of a folder whose reader is chosen by what it holds
Named = TypeVar("Named", bound=Callable[..., Any])


_schemas: dict[tuple[str, ...], type] = {}  # (node, *choices) -> dataclass
_entries: dict[tuple[str, str], Entry] = {}  # (group, name) -> entry, of modules that are imported
_waiting: list[tuple[Callable[..., Any], str, str, dict[str, Any]]] = []  # of `clf`, not read yet


def register(
    name: str, group: str = "model", *, whole_weights: bool = False, needs: str | None = None
) -> Callable[[Named], Named]:
    """Decorator that lets a class or function be chosen by its name.

    Args:
        name: what is typed, after `--model` or `model.optimizer=`
        group: one of `GROUPS`
        whole_weights: of an optimizer: a step depends on a weight as a whole (its norm, its
            singular values), so that ZeRO, which cuts weights into pieces, would change it
        needs: a package without which it cannot be used, if an installation may lack it

    Raises:
        ValueError: the name is taken, or the signature cannot take what the toolkit gives
    """
    if group not in GROUPS:
        raise ValueError(f"@register(group={group!r}): expected one of {', '.join(GROUPS)}")
    if not isinstance(name, str) or not re.fullmatch(NAME, name, re.ASCII):
        raise ValueError(
            f"@register(name={name!r}): expected letters, digits, '_', '-' and '.', beginning with "
            "a letter, such as my_net"
        )

    declared = {"whole_weights": whole_weights, "needs": needs}

    def add(named: Named) -> Named:
        if not hasattr(named, "__qualname__"):
            raise ValueError(
                f"@register(name={name!r}): expected a class or a function, got a "
                f"{type(named).__name__}; put it into a function"
            )
        if named.__module__.startswith(f"{PACKAGE.name}."):
            # Read later, so that commands start sooner.
            _waiting.append((named, group, name, declared))
        else:
            _add(named, group, name, declared)
        return named

    return add


def _add(named: Callable[..., Any], group: str, name: str, declared: dict[str, Any]) -> None:
    target = f"{named.__module__}.{named.__qualname__}"
    taken = find(group, name)
    if taken is None:
        _entries[group, name] = entry_of(named, group, name, target, declared)
    elif taken.target == target and (group, name) in _entries:
        # A notebook's cell was run again, perhaps with other parameters.
        _entries[group, name] = entry_of(named, group, name, target, declared)
        _schemas.clear()
    elif taken.target != target:
        raise ValueError(
            f"@register(name={name!r}): the {group} {name!r} is already {taken.target}; "
            f"give {target} another name"
        )


def find(group: str, name: str) -> Entry | None:
    """The entry of a registered name, if there is one."""
    return entries(group).get(name)


def of_target(target: str) -> Entry | None:
    """The entry of the model that a `_target_` builds: a registered one, or a library's network."""
    own = (entry for entry in entries("model").values() if entry.target == target)
    if (found := next(own, None)) is not None:
        return found
    network = network_of(target)
    if network is None:
        return None
    settings = network_settings(network)
    return Entry("model", network.choice, network.target, settings, is_network=True)


def entries(group: str) -> dict[str, Entry]:
    """Name -> entry: those of `clf`, and of all modules that are imported so far."""
    while _waiting:
        _add(*_waiting.pop())
    imported = {name: entry for (of, name), entry in _entries.items() if of == group}
    return {**of_clf(group), **imported}


def load(group: str, name: str) -> Callable[..., Any]:
    """The class or function itself; imports its module.

    Raises:
        ValueError: there is none of that name
    """
    entry = find(group, name)
    if entry is None:
        known = sorted(entries(group))
        guess = nearest(name, known)
        raise ValueError(
            f"no {group} is called {name!r}; expected one of {', '.join(known)}"
            + (f"; did you mean {guess[0]}?" if guess else "")
        )
    module, _, attribute = entry.target.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def own_settings(group: str, name: str, node: Any) -> dict[str, Any]:
    """The values, from a node (a dataclass or a mapping), of the settings that an entry adds."""
    entry, values = find(group, name), node if isinstance(node, Mapping) else vars(node)
    return {key: values[key] for key in (entry.settings if entry else {}) if key in values}


def call(group: str, name: str, node: Any, *given: Any, **offered: Any) -> Any:
    """What a registered function returns for the arguments of its group, its own settings in a node
    and those of `offered` that it asks for.

    Raises:
        ValueError: there is none of that name
    """
    function, entry = load(group, name), find(group, name)
    asked = {key: offered[key] for key in (entry.asks if entry else ())}
    return function(*given, **own_settings(group, name, node), **asked)


def node_schema(node: str, values: Mapping[str, Any]) -> type:
    """The dataclass of a node with the settings of all that its values choose.

    Args:
        node: "model" or "data"
        values: those that choose something, such as {"_target_": ..., "optimizer": "sgd"};
            the others have their defaults

    Raises:
        ValueError: two of the chosen ones have a setting of the same name
    """
    base = NODES[node]
    chosen = _chosen(base, values)
    key = (node, *(f"{entry.group}:{entry.target}" for entry in chosen))
    if key not in _schemas:
        _schemas[key] = _extended(node, base, chosen)
    return _schemas[key]


def _extended(node: str, base: type, chosen: list[Entry]) -> type:
    own: dict[str, tuple[Any, Any]] = {}
    first: dict[str, Entry] = {}  # the choice that brought a setting
    for entry in chosen:
        for name, (kind, stated) in entry.settings.items():
            before = first.setdefault(name, entry)
            # A model class may give a setting of its optimizer, schedule or loss another default.
            # A network takes the value itself.
            is_default = before.group == "model" and not before.is_network
            if before is not entry and not is_default:
                raise ValueError(
                    f"{node}.{name}: {before.target} and {entry.target} both have a setting of "
                    f"that name, so one value would set both; rename it in {before.target}, or "
                    f"choose another {entry.group} than {entry.name}"
                )
            own[name] = (kind, _with_default(own[name][1], stated) if name in own else stated)
    added = [(name, *typed) for name, typed in own.items()]
    registered = [entry for entry in chosen if network_of(entry.target) is None]
    modules = [entry.target.rpartition(".")[0] for entry in registered]

    def reduce(self: Any) -> Any:
        return _unpickled, (node, modules, vars(self))

    if not own:
        return base
    return make_dataclass(base.__name__, added, bases=(base,), namespace={"__reduce__": reduce})


def _with_default(of_class: Any, stated: Any) -> Any:
    """The setting `stated`, with the model class's default if the class has one."""
    default = default_of(of_class)
    return stated if default == NO_DEFAULT else field_of(default, about(stated))


def _unpickled(node: str, modules: list[str], values: dict[str, Any]) -> Any:
    """Rebuild a pickled node, whose dataclass this process may not have created yet."""
    for module in modules:
        if not module.startswith(f"{PACKAGE.name}."):
            importlib.import_module(module)  # which registers
    return node_schema(node, values)(**values)


def complete(node: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a node; those that are not given have their defaults.

    Raises:
        TypeError: a name is not a setting of what is chosen
    """
    made = node_schema(node, given)
    names = [one.name for one in fields(made)]
    if unknown := [name for name in given if name not in names]:
        guess = nearest(unknown[0], names)
        raise TypeError(
            f"no setting of {node} is called {unknown[0]!r}"
            + (f"; did you mean {guess[0]!r}?" if guess else "")
        )
    return {**vars(made()), **given}


def logged_by(target: str) -> Any:
    """What a model class declares as logged by itself: its `logs`, which may be wrong."""
    for entry in entries("model").values():
        if entry.target == target:
            return NOTHING if entry.logs is None else entry.logs
    module, _, name = target.rpartition(".")  # a class of a trusted package, not registered
    return getattr(getattr(sys.modules.get(module), name, None), "logs", NOTHING)


def reader_with(values: Mapping[str, Any]) -> str:
    """For data.name=auto: the reader that has most of the given settings as its own, or "auto"."""
    own = {name: len(entry.settings.keys() & values) for name, entry in entries("data").items()}
    best = max(own, key=lambda name: own[name], default=AUTO)
    return best if own.get(best) else AUTO


def owner(node: str, name: str) -> str | None:
    """The choices that would have a setting of this name, such as "model.optimizer=sgd" or
    "model.optimizer=lars, muon or sgd"."""
    for group, (of, _) in GROUPS.items():
        known = entries(group) if of == node else {}
        names = sorted(one for one, entry in known.items() if name in entry.settings)
        if names:
            key = next((one.name for one in fields(NODES[of]) if about(one).group == group), None)
            choices = " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            return f"{of}.{key}={choices}" if key else f"{group}={choices}"
    return None


def _chosen(base: type, values: Mapping[str, Any]) -> list[Entry]:
    found: list[Entry | None] = []
    for one in fields(base):
        value = values.get(one.name, one.default)
        if one.name == "_target_":
            found.append(of_target(str(value)))
        elif group := about(one).group:
            found.append(find(group, value) if isinstance(value, str) else None)
    return [entry for entry in found if entry is not None]


@functools.cache
def of_clf(group: str) -> dict[str, Entry]:
    """The entries that files of `clf` register, read from their source."""
    found = {}
    for stub, words, path in stubs(sorted(PACKAGE.glob(GROUPS[group][1]))):
        if words.get("group", "model") == group:
            module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
            target = f"{module}.{stub.__qualname__}"
            name, declared = words.pop("name"), {k: v for k, v in words.items() if k != "group"}
            found[name] = entry_of(stub, group, name, target, declared)
    return found
