"""The code that a job runs: a copy in the run folder, so that editing the checkout never changes a
queued job.

    faults = missing_modules(cfg)  # before anything is queued
    snapshot_code(root, run / "code", user_modules(cfg))

Beside our own packages the copy holds the user's: of each module that a configuration names the
whole top-level package, and every local module that one of these imports, directly or through
others. A module is local if it is in the repository's root, the working directory or a folder of
PYTHONPATH. Everything else is installed, and the job finds it where this process does. Imports are
read from the sources; nothing is executed.
"""

import ast
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from clf.atomic import write_folder
from clf.config import RunConfig
from clf.config.faults import show
from clf.config.files import IS_INSTALLED, ROOT
from clf.run_folder import RunFolder

CODE = ("launch", "clf", "configs", "slurm", "pyproject.toml")  # what every job needs
INSTALLED_CODE = ("launch", "clf", "slurm")  # the rest of what lies beside them is anybody's
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")
INSTALLED = ("site-packages", "dist-packages")
GIT_TIMEOUT_S = 10  # a repository on a slow disk must not hold up a submission


@dataclass(frozen=True)
class Import:
    """A dotted name that a file imports."""

    name: str
    needed: bool  # False: within `try`, `if` or `with`, or perhaps an attribute and no module


def snapshot_code(source: Path, target: Path, modules: Sequence[str] = ()) -> None:
    """Copy what a job runs. A snapshot that is there already stays: the run goes on with the code
    that it began with.

    Args:
        source: the repository, or the folder that the package is installed in
        modules: names of the user's modules, such as `trusted_packages` holds
    """
    if not target.exists():
        write_folder(target, lambda folder: _copy(source, folder, modules))


def write_commit(source: Path, path: Path) -> None:
    """Write which Git commit the code in `source` is: {"commit": 40 hex digits, "changed": whether
    tracked files there differ from it}. No file, if Git does not know the code.

    Neither the repository's address, which can hold a password, nor names of files are written.
    """
    head = _git(source, "rev-parse", "HEAD", "HEAD:./clf")  # the second fails where clf is no part
    path.unlink(missing_ok=True)
    if head is not None:
        edits = _git(source, "status", "--porcelain", "--untracked-files=no", "--", ".")
        changed = None if edits is None else bool(edits.strip())
        RunFolder.write_json(path, {"commit": head.split()[0], "changed": changed})


def _git(source: Path, *arguments: str) -> str | None:
    """What Git prints; None if it fails, takes too long or is not installed."""
    command = ["git", "--no-optional-locks", "-C", str(source), *arguments]
    # Within a hook of Git these name another repository.
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=GIT_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def user_modules(cfg: RunConfig) -> list[str]:
    """The user's modules that the configuration names."""
    named = [*cfg.trusted_packages, cfg.model._target_.rpartition(".")[0]]
    return [name for name in dict.fromkeys(named) if name]


def missing_modules(cfg: RunConfig) -> list[str]:
    """A fault for each module that a module of the user's imports and that exists nowhere.

    Imports within functions count, since they would end the job hours later; those within `try`,
    `if` or `with` do not.
    """
    return [
        f"trusted_packages={show(cfg.trusted_packages)}: {file} imports {name}, which is neither "
        "installed nor in the repository's root, the working directory or a folder of PYTHONPATH; "
        "install it, or add the folder that holds it to PYTHONPATH"
        for file, name in _missing(user_modules(cfg))
    ]


def _copy(source: Path, target: Path, modules: Sequence[str]) -> None:
    for name in INSTALLED_CODE if IS_INSTALLED else CODE:
        if (source / name).exists():
            _copy_path(source / name, target / name)
    for top, spec in _local_specs(modules).items():
        if spec.origin is None:  # a folder without __init__.py may hold anything beside the code
            for _, file in _sources(top, spec):
                _copy_path(file, target / file.relative_to(_base(spec, file)))
            continue
        for path in _paths(spec):
            _copy_path(path, target / path.name)
    for path in target.rglob("*"):  # a copy has the source's mode
        path.chmod(path.stat().st_mode & 0o700)


def _copy_path(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(
            source, target, ignore=IGNORED, ignore_dangling_symlinks=True, dirs_exist_ok=True
        )
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _base(spec: ModuleSpec, file: Path) -> Path:
    """The folder of the search path that contains the package of a file."""
    return next(path.parent for path in _paths(spec) if path in file.parents)


def _local_specs(modules: Iterable[str]) -> dict[str, ModuleSpec]:
    """The top-level packages and files that hold these modules, and every local one that they
    import."""
    importlib.invalidate_caches()
    specs: dict[str, ModuleSpec] = {}
    waiting = [name.split(".")[0] for name in modules]
    while waiting:
        top = waiting.pop()
        if top in specs or (spec := _local_spec(top)) is None:
            continue
        specs[top] = spec
        for module, file in _sources(top, spec):
            waiting += [found.name.split(".")[0] for found in _imports(module, file)]
    return specs


def _missing(modules: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Each file that these modules lead to, with a name that it imports and that exists nowhere."""
    importlib.invalidate_caches()
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        for module, file in _executed(waiting.pop()):
            if module in seen:
                continue
            seen.add(module)
            for found in dict.fromkeys(_imports(module, file)):
                waiting.append(found.name)
                if found.needed and not _exists(found.name):
                    yield file, found.name


def _local_spec(top: str) -> ModuleSpec | None:
    """Where a top-level module of the user's is; None for ours and for what is installed."""
    if top in CODE or top in sys.stdlib_module_names:
        return None
    spec = PathFinder.find_spec(top) or PathFinder.find_spec(top, [os.getcwd()])
    if spec is None:
        return None
    folders = {path.parent.resolve() for path in _paths(spec)}
    return spec if folders and folders <= _local_folders() else None


def _local_folders() -> set[Path]:
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    folders = {Path(text).resolve() for text in [str(ROOT), os.getcwd(), *listed] if text}
    return {folder for folder in folders if folder.name not in INSTALLED}


def _paths(spec: ModuleSpec) -> list[Path]:
    """The folder of a package (the folders, where it has no __init__.py), or a module's file."""
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.has_location and spec.origin else []


def _sources(top: str, spec: ModuleSpec) -> Iterator[tuple[str, Path]]:
    """(name, file) of every module that is written in Python."""
    for path in _paths(spec):
        if path.suffix == ".py":
            yield top, path
        for file in path.rglob("*.py") if path.is_dir() else ():
            parts = file.relative_to(path.parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), file


def _executed(name: str) -> Iterator[tuple[str, Path]]:
    """(name, file) of the local modules that Python executes when it imports `name`."""
    for module, spec in _chain(name):
        if spec.origin is not None and spec.origin.endswith(".py"):
            yield module, Path(spec.origin)


def _chain(name: str) -> Iterator[tuple[str, ModuleSpec]]:
    """The local packages that lead to a module and the module itself, as far as they exist."""
    parts = name.split(".")
    spec = _local_spec(parts[0])
    for depth in range(1, len(parts) + 1):
        if spec is None:
            return
        yield ".".join(parts[:depth]), spec
        inside = spec.submodule_search_locations
        after = ".".join(parts[: depth + 1])
        spec = None if inside is None else PathFinder.find_spec(after, list(inside))


def _exists(name: str) -> bool:
    """Whether a module can be imported: a local one down to its last part, as files show it."""
    top = name.split(".")[0]
    if name in sys.modules or top in CODE or top in sys.stdlib_module_names:
        return True
    if _local_spec(top) is not None:
        return any(module == name for module, _ in _chain(name))
    return top in sys.modules or importlib.util.find_spec(top) is not None


def _imports(module: str, file: Path) -> Iterator[Import]:
    """What a file imports, with relative names made whole; nothing if it is no valid Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    yield from _imports_of(tree, package, True)


def _imports_of(node: ast.AST, package: str, needed: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, needed) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, *filter(None, [base])])
        if base:
            yield Import(base, needed)
            yield from (Import(f"{base}.{alias.name}", False) for alias in node.names)
    inside = needed and not isinstance(node, ast.Try | ast.If | ast.With)
    for child in ast.iter_child_nodes(node):
        yield from _imports_of(child, package, inside)
