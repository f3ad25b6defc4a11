"""The packages import each other in one direction only: launch -> slurm -> clf."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for top in ("clf", "launch", "slurm") for path in (ROOT / top).rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, at_import_only: bool = False) -> set[str]:
    """Dotted names that a file imports; all of them, or those outside functions and
    TYPE_CHECKING."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if at_import_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if (
            at_import_only
            and isinstance(node, ast.If)
            and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8")))
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


ASSEMBLY = ("clf.run", "clf.scoring")
FORBIDDEN = [  # (importer, what it must not import)
    ("clf", ("launch", "slurm", "submitit", "argparse")),
    ("slurm", ("launch",)),
    (
        "clf.data",
        ("clf.models", "clf.metrics.counts", "clf.tracking", *ASSEMBLY, "clf.optim"),
    ),
    ("clf.models", ("clf.data", "clf.tracking", *ASSEMBLY)),
    ("clf.metrics.counts", ("clf.data", "clf.models", "clf.tracking", *ASSEMBLY)),
    ("clf.report", ("clf.data", "clf.models", "clf.metrics.counts", "clf.tracking", *ASSEMBLY)),
    ("clf.tracking", ("clf.report", "clf.data", "clf.models", "clf.metrics.counts", *ASSEMBLY)),
    (
        "clf.config",
        (
            "clf.data",
            "clf.models",
            "clf.tracking",
            "clf.parallel",
            "clf.run",
            "clf.scoring",
            "clf.plan",
        ),
    ),
    ("launch", ("submitit", "hydra", "omegaconf", "lightning", "wandb")),
    ("launch.runs", ("launch.terminal", "launch.arguments", "launch.command")),
    ("launch.terminal", ("launch.arguments", "launch.command")),
]


@pytest.mark.parametrize(("importer", "forbidden"), FORBIDDEN, ids=[row[0] for row in FORBIDDEN])
def test_a_layer_can_be_read_and_changed_without_those_above_it(
    importer: str, forbidden: tuple[str, ...]
) -> None:
    files = [path for path in SOURCES if within(module_of(path), (importer,))]
    assert files
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imports(path)
        if within(name, forbidden)
    ]
    assert broken == []


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("wandb", ("clf.tracking",)),
        ("submitit", ("slurm.submitit_adapter",)),
        ("deepspeed", ("clf.parallel.zero", "clf.parallel.deepspeed_internals")),
        ("hydra", ("clf.config", "clf.models.build")),
    ],
)
def test_a_library_stays_behind_the_one_place_that_hides_it(
    library: str, home: tuple[str, ...]
) -> None:
    users = [path for path in SOURCES if any(within(name, (library,)) for name in imports(path))]
    assert [module_of(path) for path in users if not within(module_of(path), home)] == []


INTERNALS = ("clf.parallel.lightning_internals", "clf.parallel.deepspeed_internals")
# Hydra's key; named tuples' API; what the manual of Python's sys and os describes.
PUBLIC = {"_target_", "_replace", "_asdict", "_fields", "_make", "_current_frames", "_exit"}


def private_uses(path: Path) -> list[str]:
    """Private names that a file takes from somebody else: imported, or attributes of anything but
    `self`, `cls`, `super()` and what the project itself defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    uses = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_itself and not (node.attr in own and "super()" in ast.unparse(node.value)):
                uses.append(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and not within(node.module or "", ("clf",)):
            uses += [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            uses += [name for name in names if isinstance(name, str) and is_private(name)]
    return uses


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def test_private_parts_of_other_libraries_are_used_in_the_files_that_check_for_them() -> None:
    inside = [path for path in SOURCES if module_of(path) in INTERNALS]
    assert [len(private_uses(path)) >= 2 for path in inside] == [True, True]
    outside = [path for path in SOURCES if within(module_of(path), ("clf",)) if path not in inside]
    assert {module_of(path): uses for path in outside if (uses := private_uses(path))} == {}


def ours(path: Path) -> set[str]:
    """The files of ours that a file imports, late imports included."""
    known = {module_of(source) for source in SOURCES}
    return {name for name in imports(path) if name in known and name != module_of(path)}


def room_of(module: str) -> str:
    """launch, slurm, or the part of clf that a file is in."""
    top, *rest = module.split(".")
    return f"{top}.{rest[0]}" if top == "clf" and rest else top


def test_no_file_and_no_room_imports_itself_through_others() -> None:
    files = {module_of(path): ours(path) for path in SOURCES}
    rooms: dict[str, set[str]] = {}
    for module, imported in files.items():
        room = room_of(module)
        rooms.setdefault(room, set()).update({room_of(name) for name in imported} - {room})
    for graph in (files, rooms):
        TopologicalSorter(graph).prepare()  # CycleError names the circle
    assert len(rooms) <= 21


def test_only_launch_and_slurm_assemble_a_run() -> None:
    users = [path for path in SOURCES if "clf.run" in imports(path)]
    assert users
    assert all(within(module_of(path), ("launch", "slurm")) for path in users)


def test_what_acts_on_runs_returns_its_results_and_prints_nothing() -> None:
    files = [path for path in SOURCES if within(module_of(path), ("launch.runs",))]
    assert files
    printing = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "print"
    ]
    assert printing == []


# They import torch, or are needed for one message that most commands never print.
LATE = {"clf.run", "clf.scoring", "clf.models.export", "clf.config.assign"}


def test_the_commands_import_our_own_packages_at_the_top_of_each_file() -> None:
    ours = ("clf", "launch", "slurm")
    late = [
        f"{path.relative_to(ROOT)} imports {name} late"
        for path in SOURCES
        if within(module_of(path), ("launch",)) and "benchmarks" not in path.parts
        for name in imports(path) - imports(path, at_import_only=True)
        if within(name, ours) and not within(name, tuple(LATE))
    ]
    assert late == []


def test_the_submitting_side_answers_without_waiting_for_torch() -> None:
    light = [
        "clf.config",
        "clf.batch",
        "clf.plan",
        "clf.config.compose",
        "clf.config.rules",
        "clf.config.device_rules",
        "clf.config.registry",
        "clf.data.index",
        "clf.metrics.measures",
    ]
    light += ["clf.run_folder", "clf.tracking.tables"]
    light += [name for path in SOURCES if within(name := module_of(path), ("launch", "slurm"))]
    heavy = "{'torch', 'torchvision', 'lightning', 'wandb'} & set(sys.modules)"
    program = (
        "import sys, importlib\n"
        f"for name in {light!r}:\n    importlib.import_module(name)\n"
        f"print({heavy})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_the_settings_and_the_data_are_known_to_a_command_before_it_loads_what_reads_them() -> None:
    heavy = "{'numpy', 'PIL', 'yaml', 'omegaconf', 'hydra', 'sklearn'} & set(sys.modules)"
    program = f"import sys, clf.plan, clf.data.digits\nprint({heavy})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
