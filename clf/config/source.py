"""Constants and signatures read from the source of an installed library, which is never imported.

What cannot be known without running it is left out.
"""

import ast
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NO_TIMM = "timm is not installed; pip install timm"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which takes up to 0.2 s for the longest ones."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def folder(package: str) -> Path | None:
    """The folder of an installed package; None if it is not installed."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


@dataclass(frozen=True)
class Argument:
    """A parameter that a function accepts.

    Attributes:
        hint: its type as the source writes it; "" if it does not say one
        default: None where it has none, or none that is a constant
        bound: the function sets it itself, so that it cannot be passed
    """

    hint: str
    default: Any
    bound: bool = False


class Source:
    """The functions, classes and constants of a file.

    Args:
        constants: names that the file imports, with their values
    """

    def __init__(self, path: Path, constants: Mapping[str, Any] | None = None) -> None:
        self.functions: dict[str, ast.FunctionDef] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.assigned: dict[str, ast.expr] = {}
        self.constants = dict(constants or {})
        for node in parsed(path).body:
            if isinstance(node, ast.FunctionDef):
                self.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
            else:
                for name, value in assignments(node):
                    again = name in self.assigned and name in _names(value)
                    if not again:  # x = made_of(x) gives what x is, as any call of one argument
                        self.assigned[name] = value

    # --- values ---

    def values(self) -> dict[str, Any]:
        """The constants that the file defines."""
        return {name: self.value(node) for name, node in self.assigned.items()}

    def value(self, node: ast.expr, local: Mapping[str, Any] | None = None) -> Any:
        """What an expression stands for, as plain values; None where that is not known.

        A call gives its keywords as a dictionary, or its one argument; a call of a function of the
        file, what the function returns. `Enum.MEMBER` gives "MEMBER".
        """
        known = local or {}
        match node:
            case ast.Constant():
                return node.value
            case ast.Tuple() | ast.List():
                return [self.value(one, known) for one in node.elts]
            case ast.Dict():
                return self._dictionary(node.keys, node.values, known)
            case ast.Name(id=name):
                if name in known or name in self.constants:
                    return known.get(name, self.constants.get(name))
                return self.value(self.assigned[name]) if name in self.assigned else None
            case ast.Attribute():
                return node.attr
            case ast.UnaryOp(op=ast.USub()):
                operand = self.value(node.operand, known)
                return -operand if isinstance(operand, int | float) else None
            case ast.BinOp(op=ast.Div() | ast.Mult() as operator):
                pair = self.value(node.left, known), self.value(node.right, known)
                return _computed(operator, *pair)
            case ast.Call():
                return self._call(node, known)
        return None

    def _dictionary(
        self, keys: list[ast.expr | None], values: list[ast.expr], known: Mapping[str, Any]
    ) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for key, node in zip(keys, values, strict=True):
            value = self.value(node, known)
            if key is not None:
                made[self.value(key, known)] = value
            elif isinstance(value, dict):
                made |= value
        return made

    def _call(self, node: ast.Call, known: Mapping[str, Any]) -> Any:
        given = self._dictionary(
            [ast.Constant(word.arg) if word.arg else None for word in node.keywords],
            [word.value for word in node.keywords],
            known,
        )
        arguments = [self.value(one, known) for one in node.args]
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in self.functions:
            return self._returned(self.functions[name], arguments, given)
        if name == "dict" and arguments and isinstance(arguments[0], dict):
            return {**arguments[0], **given}
        if given or name == "dict":
            return given
        return arguments[0] if arguments else None

    def _returned(self, function: Function, arguments: list[Any], given: dict[str, Any]) -> Any:
        last = function.body[-1]
        if not isinstance(last, ast.Return) or last.value is None:
            return None
        local: dict[str, Any] = {
            name: self.value(default) if default is not None else None
            for name, _, default in parameters(function)
        }
        names = [one.arg for one in function.args.args]
        local |= dict(zip(names, arguments, strict=False))
        local |= {name: value for name, value in given.items() if name in local}
        if function.args.kwarg is not None:
            rest = {name: value for name, value in given.items() if name not in local}
            local[function.args.kwarg.arg] = rest
        return self.value(last.value, local)

    # --- signatures ---

    def accepts(self, name: str, given: frozenset[str] = frozenset()) -> dict[str, Argument]:
        """The arguments of a function or class, those included that it passes on by `**kwargs` to
        others of this file; without what it sets itself, except numbers, which are marked.

        Args:
            given: parameters that whoever calls it fills
        """
        node: ast.AST = self.functions[name] if name in self.functions else self.classes[name]
        if isinstance(node, ast.ClassDef):
            inits = [one for one in node.body if getattr(one, "name", "") == "__init__"]
            node = inits[0] if inits else node
        if not isinstance(node, ast.FunctionDef):
            return {}
        found = {
            word: Argument(hint, self.value(default) if default is not None else None)
            for word, hint, default in parameters(node)
            if word not in given and word != "self"
        }
        if node.args.kwarg is None:
            return found
        refused: set[str] = set()
        passed_on: dict[str, Argument] = {}
        for call in calls(node.body):
            text = ast.unparse(call.func)
            names = [one.value for one in call.args if isinstance(one, ast.Constant)]
            if text in ("kwargs.pop", "kwargs.get") and names:
                default = self.value(call.args[1]) if len(call.args) > 1 else None
                found.setdefault(str(names[0]), Argument("", default))
            elif text.endswith("_named_param") and names:
                refused.add(str(names[0]))
            elif any(word.arg is None for word in call.keywords):
                passed_on = self._passed_on(call, text) | passed_on
        return {word: one for word, one in (passed_on | found).items() if word not in refused}

    def _passed_on(self, call: ast.Call, callee: str) -> dict[str, Argument]:
        """What a call with `**kwargs` accepts beside the arguments that it has."""
        node = self.functions.get(callee) or self.classes.get(callee)
        if node is None:
            return {}
        function: Any = node
        if isinstance(node, ast.ClassDef):
            function = next(one for one in node.body if getattr(one, "name", "") == "__init__")
        names = [word for word, _, _ in parameters(function) if word != "self"]
        words = {word.arg: self.value(word.value) for word in call.keywords if word.arg}
        bound = {
            word: Argument("", value, bound=True)
            for word, value in words.items()
            if type(value) in (int, float)
        }
        given = frozenset([*names[: len(call.args)], *words])
        return self.accepts(callee, given) | bound


def assignments(node: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """(name, value) of an assignment to plain names."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name):
                yield target.id, node.value
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id, node.value


def _computed(operator: ast.operator, left: Any, right: Any) -> Any:
    """A quotient or product of numbers, or a list repeated."""
    if isinstance(left, list) and type(right) is int and isinstance(operator, ast.Mult):
        return left * right
    if not isinstance(left, int | float) or not isinstance(right, int | float):
        return None
    if isinstance(operator, ast.Mult):
        return left * right
    return left / right if right else None


def _names(node: ast.expr) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def parameters(function: Function) -> Iterator[tuple[str, str, ast.expr | None]]:
    """(name, type as written, default) of every named parameter."""
    given = function.args
    missing = len(given.args) - len(given.defaults)
    defaults = [*[None] * missing, *given.defaults, *given.kw_defaults]
    for one, default in zip([*given.args, *given.kwonlyargs], defaults, strict=True):
        yield one.arg, ast.unparse(one.annotation) if one.annotation else "", default


def calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """The calls of a function's body, without those for weights that it would load."""
    for statement in body:
        if isinstance(statement, ast.If) and "weights" in ast.unparse(statement.test):
            continue
        yield from (node for node in ast.walk(statement) if isinstance(node, ast.Call))
