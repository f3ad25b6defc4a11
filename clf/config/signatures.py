"""The settings that a class or function states in its signature, as fields of a dataclass.

Of a class every parameter of `__init__` is a setting, its parents' too where it passes `**kwargs`
on. Of a function the keyword-only parameters are; the others are what the toolkit passes.

Modules of `clf` import torch, which a login node should not wait for. Their signatures are read
from the source: a stub of each class and function, with the same parameters and an empty body.
"""

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from clf.config.about import About

Parameter = tuple[Any, Any]  # annotation, default
NO_DEFAULT = "???"  # OmegaConf's mark of a value that must be given


@dataclass(frozen=True)
class Signature:
    """The parameters by name, and whether any other name is accepted too."""

    parameters: dict[str, Parameter]
    takes_any: bool
    meanings: dict[str, str]  # from the docstring's "Args:"


def signature(made: Callable[..., Any], all_named: bool = False) -> Signature:
    """The settings that a class or function states.

    Args:
        all_named: of a function every parameter is one, as of a class
    """
    if not inspect.isclass(made):
        stated = dict(_parameters(made, keyword_only=not all_named))
        return Signature(stated, False, _meanings(made))
    parameters: dict[str, Parameter] = {}
    meanings: dict[str, str] = {}
    for parent in made.__mro__:
        init = parent.__dict__.get("__init__")
        if init is None or parent is object:
            continue
        kinds = [one.kind for one in inspect.signature(init).parameters.values()]
        parameters = dict(_parameters(init)) | parameters
        meanings = _meanings(parent) | _meanings(init) | meanings
        if parent.__dict__.get("takes_every_setting"):
            break
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return Signature(parameters, False, meanings)
    return Signature(parameters, True, meanings)


def as_field(parameter: Parameter, meaning: str = "") -> tuple[Any, Any] | None:
    """(type, dataclass field), in a type that OmegaConf checks, else Any.

    None for a default that no YAML file can hold, such as a function: the class keeps it.
    """
    hint, default = parameter
    about, hint = _about(hint)
    if not about.meaning:
        about = about._replace(meaning=meaning)
    if typing.get_origin(hint) is Literal and all(
        isinstance(value, str) for value in typing.get_args(hint)
    ):
        about, hint = about._replace(choices=typing.get_args(hint)), str
    if isinstance(default, _Unknown):
        return None
    if isinstance(hint, _Unknown):
        hint = Any
    if hint is inspect.Parameter.empty:
        hint = type(default) if isinstance(default, bool | int | float | str) else Any
    if default is inspect.Parameter.empty:
        default = NO_DEFAULT
    if isinstance(default, tuple):
        default = list(default)
    entry = field_of(default, about)
    return next(((kind, entry) for kind in (hint, Any) if _holds(kind, entry)), None)


def field_of(default: Any, about: About) -> Any:
    """A dataclass field with this default and description."""
    metadata = {"about": about}
    if isinstance(default, list | dict | set):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(entry: Any) -> Any:
    """The default of a dataclass field."""
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def stubs(paths: list[Path]) -> Iterator[tuple[Any, dict[str, Any], Path]]:
    """Each `@register(...)`ed class or function of the files as (stub, the decorator's arguments,
    file). Nothing of the files is run but the defaults and annotations of their parameters."""
    nodes: dict[str, ast.ClassDef] = {}
    registered: list[tuple[ast.ClassDef | ast.FunctionDef, dict[str, Any], Path]] = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if "@register(" not in text and "class " not in text:
            continue
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef):
                nodes[node.name] = node
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                registered += [(node, arguments, path) for arguments in _registrations(node)]
    names = _Names()
    for node, arguments, path in registered:
        yield _stub(node, nodes, names), arguments, path


def _registrations(node: ast.ClassDef | ast.FunctionDef) -> Iterator[dict[str, Any]]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "register":
            yield {word.arg or "": ast.literal_eval(word.value) for word in decorator.keywords}


class _Unknown:
    """Stands for a name of a module that is not imported; not a value that a YAML file can hold."""

    def _same(self, *args: Any, **kwargs: Any) -> "_Unknown":
        return self

    __getattr__ = __getitem__ = __or__ = __ror__ = __call__ = _same


class _Names(dict[str, Any]):
    """Where stubs are made: builtins, what annotations are written with, and stubs so far."""

    def __init__(self) -> None:
        super().__init__(Annotated=Annotated, Any=Any, Literal=Literal, About=About, Path=Path)

    def __missing__(self, name: str) -> Any:
        builtins = __builtins__ if isinstance(__builtins__, dict) else vars(__builtins__)
        return builtins.get(name, _Unknown())


def _stub(
    node: ast.ClassDef | ast.FunctionDef, classes: dict[str, ast.ClassDef], names: _Names
) -> Any:
    if node.name not in names:
        if isinstance(node, ast.FunctionDef):
            names[node.name] = _emptied(node, names)
        else:
            names[node.name] = _class_stub(node, classes, names)
    return names[node.name]


def _class_stub(node: ast.ClassDef, classes: dict[str, ast.ClassDef], names: _Names) -> type:
    """A class with the docstring, `__init__` and `logs` alone, and those bases that have stubs."""
    known = [base.id for base in node.bases if isinstance(base, ast.Name) and base.id in classes]
    bases = tuple(_stub(classes[name], classes, names) for name in known)
    content: dict[str, Any] = {"__doc__": ast.get_docstring(node)}
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            content["__init__"] = _emptied(part, names)
        elif isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == "logs" and part.value:
            content["logs"] = ast.literal_eval(part.value)
    return type(node.name, bases, content)


def _emptied(node: ast.FunctionDef, names: _Names) -> Any:
    """The function with its parameters and docstring alone."""
    doc = node.body[:1] if ast.get_docstring(node) is not None else []
    empty = ast.FunctionDef(node.name, node.args, [*doc, ast.Pass()], [])
    module = ast.fix_missing_locations(ast.Module([empty], []))
    before = names.get(node.name)
    exec(compile(module, node.name, "exec"), {}, names)  # of our own source
    function = names.pop(node.name)
    if before is not None:
        names[node.name] = before
    return function


def _parameters(
    function: Callable[..., Any], keyword_only: bool = False
) -> Iterator[tuple[str, Parameter]]:
    hints = _hints(function)
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    for name, parameter in inspect.signature(function).parameters.items():
        wanted = named[1:] if keyword_only else named
        if parameter.kind in wanted and name != "self":
            yield name, (hints.get(name, parameter.annotation), parameter.default)


def _hints(function: Any) -> dict[str, Any]:
    """Name -> type. Where only a type checker knows the type the parameter takes anything, and the
    others keep their types."""
    function = inspect.unwrap(function)
    hints: dict[str, Any] = {}
    for name, hint in getattr(function, "__annotations__", {}).items():
        alone = type("alone", (), {"__annotations__": {name: hint}})
        try:
            hints |= typing.get_type_hints(alone, function.__globals__, include_extras=True)
        except (NameError, TypeError, AttributeError):
            hints[name] = Any
    return hints


def _about(hint: Any) -> tuple[About, Any]:
    """What an `Annotated` type says, and the type itself."""
    if typing.get_origin(hint) is not Annotated:
        return About(), hint
    kind, *notes = typing.get_args(hint)
    return next((note for note in notes if isinstance(note, About)), About()), kind


def _meanings(documented: Any) -> dict[str, str]:
    text = inspect.getdoc(documented) or ""
    _, _, listed = text.partition("Args:\n")
    entry = re.compile(r"^ {4}([\w, ]+): (.*(?:\n {6,}.*)*)", re.MULTILINE)
    return {
        name.strip(): " ".join(meaning.split())
        for names, meaning in entry.findall(listed.split("\n\n")[0])
        for name in names.split(",")
    }


def _holds(hint: Any, entry: Field[Any]) -> bool:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.structured(make_dataclass("probe", [("value", hint, entry)]))
    except (OmegaConfBaseException, ValueError, TypeError):
        return False
    return True
