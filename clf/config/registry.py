"""`@register(name="mynet")` makes a model class selectable as `--model mynet`, parameters typed.

The class's `__init__` signature becomes a dataclass that extends `clf.config.ModelConfig`, kept as
a Hydra ConfigStore node. The class lives in a package listed in `trusted_packages`; importing that
package must import the class.
"""

import ast
import difflib
import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, fields, make_dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from clf.config.schema import ModelConfig

TRUSTED = ("clf", "torchvision")  # packages whose classes a config may name without being asked
BASES = {"model": ModelConfig}  # group of configs/ -> what its classes' parameters extend
AnyClass = TypeVar("AnyClass", bound=type)


@dataclass(frozen=True)
class Entry:
    """A registered class: where it is, and the dataclass of its parameters."""

    target: str
    schema: type


_entries: dict[tuple[str, str], Entry] = {}  # (group, name) -> entry


def register(name: str, group: str = "model") -> Callable[[AnyClass], AnyClass]:
    """Class decorator: the class can be chosen as `group=name`.

    Args:
        name: what is typed after `--model`
        group: folder of configs/; "model" is the one there is

    Raises:
        ValueError: the name is taken by another class, or the signature cannot take every key of
        the group
    """
    if group not in BASES:
        raise ValueError(f"@register(group={group!r}): expected one of {', '.join(BASES)}")

    def add(cls: AnyClass) -> AnyClass:
        target = f"{cls.__module__}.{cls.__qualname__}"
        taken = _entries.get((group, name))
        if taken is not None and taken.target != target:
            raise ValueError(
                f"@register(name={name!r}): the {group} {name!r} is already {taken.target}; "
                f"give {target} another name"
            )
        schema = signature_schema(cls, target, BASES[group])
        _entries[group, name] = Entry(target, schema)
        from hydra.core.config_store import ConfigStore  # 0.3 s, which --help need not wait for

        ConfigStore.instance().store(group=group, name=name, node=schema)
        return cls

    return add


def registered(group: str = "model") -> dict[str, Entry]:
    """Name -> entry of all classes registered so far."""
    return {name: entry for (of, name), entry in _entries.items() if of == group}


def schema_of(target: str) -> type:
    """The dataclass of the parameters of `_target_`; ModelConfig where it is not registered."""
    return next(
        (entry.schema for entry in _entries.values() if entry.target == target), ModelConfig
    )


def signature_schema(cls: type, target: str, base: type) -> type:
    """`base`'s fields and the parameters that `cls.__init__` adds, with the class's own defaults.

    A class that takes `**kwargs` is taken to hand them to its parent, so the parents' parameters
    count as well.
    """
    parameters, passes_on = _parameters(cls)
    known: dict[str, Field[Any]] = {f.name: f for f in fields(base)}
    refused = [name for name in known if name not in parameters and name != "_target_"]
    if refused and not passes_on:
        raise ValueError(
            f"@register: {target}.__init__ does not take {', '.join(refused)}, which every run "
            "sets. "
            "Add **kwargs and hand them to super().__init__(**kwargs)"
        )
    made: list[Any] = [("_target_", str, field(default=target))]
    for name, (hint, default) in parameters.items():
        if name not in known:
            if (described := _described(hint, default)) is not None:
                made.append((name, *described))
        elif (
            default is not inspect.Parameter.empty
        ):  # the class's own default, the group's type and limits
            made.append((name, known[name].type, _field(default, dict(known[name].metadata))))
    return make_dataclass(f"{cls.__name__}Config", made, bases=(base,))


def _parameters(cls: type) -> tuple[dict[str, tuple[Any, Any]], bool]:
    """Name -> (annotation, default), nearest class first; and whether any name is taken."""
    found: dict[str, tuple[Any, Any]] = {}
    for parent in cls.__mro__:
        init = parent.__dict__.get("__init__")
        if init is None:
            continue
        hints = _hints(init)
        passes_on = False
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind is parameter.VAR_KEYWORD:
                passes_on = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(name, (hints.get(name, parameter.annotation), parameter.default))
        if not passes_on:
            return found, False
    return found, True


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except NameError:  # known to a type checker only: such a parameter takes anything
        return {}


def _described(hint: Any, default: Any) -> tuple[Any, Any] | None:
    """(type, dataclass field) of a parameter, in a type that OmegaConf checks, else Any.

    None for a default that no YAML file can hold, such as a function: the class keeps it.
    """
    from omegaconf import MISSING

    metadata: dict[str, Any] = {}
    if typing.get_origin(hint) is Literal and all(
        isinstance(v, str) for v in typing.get_args(hint)
    ):
        metadata, hint = {"choices": typing.get_args(hint)}, str
    if hint is inspect.Parameter.empty:
        hint = type(default) if isinstance(default, bool | int | float | str) else Any
    if default is inspect.Parameter.empty:
        default = MISSING
    if isinstance(default, tuple):
        default = list(default)
    made = _field(default, metadata)
    return next(((kind, made) for kind in (hint, Any) if _holds(kind, made)), None)


def _holds(hint: Any, made: Any) -> bool:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.structured(make_dataclass("probe", [("value", hint, made)]))
    except (OmegaConfBaseException, ValueError, TypeError):
        return False
    return True


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if isinstance(default, list | dict | set):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


# --- what a `_target_` may name -------------------------------------------------------------------


def trusted(target: str, packages: Sequence[str] = ()) -> bool:
    """Whether `_target_` names something of `clf`, `torchvision` or the `trusted_packages`."""
    return target_fault(target, packages) is None


def check_trusted(target: str, packages: Sequence[str] = ()) -> None:
    """ValueError if `_target_` may not be built."""
    if (fault := target_fault(target, packages)) is not None:
        raise ValueError(f"_target_={target}: {fault}")


def target_fault(target: str, packages: Sequence[str] = ()) -> str | None:
    """What is wrong with a `_target_`, or None. Reads files; imports nothing, runs nothing.

    Hydra would follow `clf.module.os.system` into another package: so what stands before the last
    dot must be a
    module, and the last name must not be one that the module merely imported from elsewhere.
    """
    allowed = [*TRUSTED, *packages]
    if not any(f"{target}.".startswith(f"{package}.") for package in allowed):
        return (
            f"not a trusted package (trusted are {', '.join(allowed)}); "
            f"if it is your own: trusted_packages=[{target.split('.')[0]}]"
        )
    module, _, name = target.rpartition(".")
    spec = _find(module)
    if spec is None or not name:
        return (
            f"no module {module or target} can be found from here; write package.module.ClassName"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None  # a compiled module cannot be looked into; building the model will tell
    own, foreign, opaque = _names(Path(spec.origin), module.split(".")[0])
    if name in foreign:
        return (
            f"{name} is not defined in {module} but imported there from elsewhere; name the "
            "module it is in"
        )
    if name in own or opaque:
        return None
    guess = difflib.get_close_matches(name, own, 1)
    return f"no {name} in {module}" + (f"; did you mean {guess[0]}?" if guess else "")


def _find(module: str) -> ModuleSpec | None:
    """The module's file, without importing its parents."""
    if not module:
        return None
    spec: ModuleSpec | None = None
    path: Sequence[str] | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        # find_spec of a top package imports nothing, and it knows editable installs too.
        spec = find_spec(name) if depth == 1 else PathFinder.find_spec(name, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _names(path: Path, package: str) -> tuple[set[str], set[str], bool]:
    """Names of the module's own package, those from elsewhere, and whether `*` hides some."""
    own: set[str] = set()
    foreign: set[str] = set()
    opaque = False
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Import):
            foreign |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0 or (node.module or "").split(".")[0] == package
            opaque |= inside and any(alias.name == "*" for alias in node.names)
            (own if inside else foreign).update(alias.asname or alias.name for alias in node.names)
    return own, foreign - own, opaque
