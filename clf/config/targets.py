"""Which classes and functions a `_target_` may name, found out without importing them."""

import ast
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

from clf.config.faults import nearest
from clf.config.source import NO_TIMM, folder, parsed

# Packages whose classes a config may name without being asked
TRUSTED = ("clf", "torchvision", "timm")


def trusted(target: str, packages: Sequence[str] = ()) -> bool:
    """Whether `_target_` names something of `TRUSTED` or of the `trusted_packages`."""
    return target_fault(target, packages) is None


def check_trusted(target: str, packages: Sequence[str] = ()) -> None:
    """ValueError if `_target_` may not be built."""
    if (fault := target_fault(target, packages)) is not None:
        raise ValueError(f"_target_={target}: {fault}")


def target_fault(target: str, packages: Sequence[str] = ()) -> str | None:
    """What is wrong with a `_target_`, or None. Reads files; imports nothing, runs nothing.

    Hydra would follow `clf.module.os.system` into another package. So what stands before the last
    dot must be a module, and the last name must not be one that the module merely imported.
    """
    allowed = [*TRUSTED, *packages]
    if not any(f"{target}.".startswith(f"{package}.") for package in allowed):
        return (
            f"not a trusted package (trusted are {', '.join(allowed)}); "
            f"if it is your own: trusted_packages=[{target.split('.')[0]}]"
        )
    if target.startswith("timm.") and folder("timm") is None:
        return NO_TIMM
    module, _, name = target.rpartition(".")
    spec = _find(module)
    if spec is None or not name:
        return (
            f"no module {module or target} can be found from here; write package.module.ClassName"
        )
    if spec.origin is None or not spec.origin.endswith(".py"):
        return None  # a compiled module cannot be looked into; the import will show it
    own, foreign, opaque = _names(Path(spec.origin), module.split(".")[0])
    if name in foreign:
        return (
            f"{name} is not defined in {module} but imported there from elsewhere; name the "
            "module it is in"
        )
    if name in own or opaque:
        return None
    guess = nearest(name, sorted(own))
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
    """Names of the module's own package, those from elsewhere, and whether a `*` hides some that
    are not in a file beside it."""
    own: set[str] = set()
    foreign: set[str] = set()
    opaque = False
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            own.add(node.name)
        elif isinstance(node, ast.Import):
            foreign |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = node.level > 0 or (node.module or "").split(".")[0] == package
            if inside and any(alias.name == "*" for alias in node.names):
                beside = path.parent / f"{node.module}.py"
                hidden = node.level != 1 or not beside.is_file()
                inner, _, also = (set(), set(), True) if hidden else _names(beside, package)
                own |= inner
                opaque |= also
            (own if inside else foreign).update(alias.asname or alias.name for alias in node.names)
    return own - {"*"}, foreign - own, opaque
