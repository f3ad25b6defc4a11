"""The snapshot holds all of the user's code that a job imports; a missing module is a fault."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clf.config import RunConfig
from clf.run_folder import RunFolder, read_commit
from slurm.snapshot import missing_modules, snapshot_code, write_commit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of PYTHONPATH, for files of the user's."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    return folder


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def snapshot(target: Path, *modules: str) -> list[str]:
    """The user's files in a snapshot."""
    snapshot_code(target / "nothing", target, modules)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def test_modules_that_a_module_imports_through_others_are_there(
    place: Path, tmp_path: Path
) -> None:
    write(
        place,
        u_models="import os, numpy\nfrom u_layers import Layer\n",
        u_layers="def late():\n    import u_deep.inner as x\n",
        u_deep__inner="try:\n    import u_optional\nexcept ImportError:\n    pass\n",
        u_deep__beside="",
        u_optional="",
        u_unused="",
    )
    (place / "u_deep" / "__init__.py").touch()
    (place / "u_deep" / "table.json").write_text("{}")
    (place / "u_deep" / "__pycache__").mkdir()
    (place / "u_deep" / "__pycache__" / "x.pyc").touch()
    assert snapshot(tmp_path / "code", "u_models") == [
        *("u_deep/__init__.py", "u_deep/beside.py", "u_deep/inner.py", "u_deep/table.json"),
        *("u_layers.py", "u_models.py", "u_optional.py"),
    ]


def test_of_a_module_within_a_package_the_whole_package_is_there(
    place: Path, tmp_path: Path
) -> None:
    write(
        place,
        u_pkg__models__nets="from ..layers import Layer\nfrom . import heads\nfrom ... import no\n",
        u_pkg__models__heads="",
        u_pkg__layers="import u_helper\n",
        u_pkg__other="from . import layers",
        u_helper="",
    )
    (place / "u_pkg" / "__init__.py").touch()
    (place / "u_pkg" / "models" / "__init__.py").touch()
    assert snapshot(tmp_path / "code", "u_pkg.models") == [
        *("u_helper.py", "u_pkg/__init__.py", "u_pkg/layers.py", "u_pkg/models/__init__.py"),
        *("u_pkg/models/heads.py", "u_pkg/models/nets.py", "u_pkg/other.py"),
    ]


def test_of_a_folder_without_init_only_the_code_is_copied(place: Path, tmp_path: Path) -> None:
    write(place, u_models="import u_space.one\n", u_space__one="", u_space__sub__two="")
    (place / "u_space" / "image.png").write_bytes(b"0" * 100)
    assert snapshot(tmp_path / "code", "u_models") == [
        *("u_models.py", "u_space/one.py", "u_space/sub/two.py"),
    ]


def test_what_is_installed_or_ours_is_not_copied(place: Path, tmp_path: Path) -> None:
    write(place, u_models="import json, yaml, PIL.Image, clf.models.base, launch.train\n")
    assert snapshot(tmp_path / "code", "u_models", "clf.models.resnet") == ["u_models.py"]


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("import u_gone", "u_gone"),
        ("from u_gone.inner import x", "u_gone.inner"),
        ("def late():\n    import u_gone", "u_gone"),
        ("import u_pkg.gone", "u_pkg.gone"),
        ("from u_pkg.gone import x", "u_pkg.gone"),
        ("from u_pkg import gone", None),  # perhaps a name of u_pkg
        ("import u_pkg.there", None),
        ("import json.decoder, numpy.linalg, clf.batch", None),
        ("try:\n    import u_gone\nexcept ImportError:\n    u_gone = None", None),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import u_gone", None),
    ],
)
def test_an_import_of_what_is_nowhere_is_a_fault_with_file_and_name(
    source: str, missing: str | None, place: Path
) -> None:
    write(place, u_models="from u_layers import x\n", u_layers=source, u_pkg__there="")
    (place / "u_pkg" / "__init__.py").touch()
    faults = missing_modules(RunConfig(trusted_packages=["u_models"]))
    if missing is None:
        assert faults == []
        return
    (fault,) = faults
    assert fault.startswith(
        f"trusted_packages=[u_models]: {place}/u_layers.py imports {missing}, which is neither "
        "installed nor in the repository's root, the working directory or a folder of PYTHONPATH"
    )


def test_a_file_of_the_package_that_the_run_does_not_import_may_lack_something(
    place: Path,
) -> None:
    write(place, u_pkg__old_experiment="import u_gone\n")
    (place / "u_pkg" / "__init__.py").touch()
    assert missing_modules(RunConfig(trusted_packages=["u_pkg"])) == []
    cfg = RunConfig(trusted_packages=["u_pkg"])
    cfg.model._target_ = "u_pkg.old_experiment.Net"
    assert len(missing_modules(cfg)) == 1


MODELS = """
from my_layers import WORD
from my_package.deep import layer
print("imported", WORD, layer.WORD, __file__, flush=True)
"""


@pytest.mark.parametrize("where", ["root", "pythonpath"])
def test_the_job_imports_from_the_snapshot_after_the_originals_are_gone(
    where: str, checkout: Path, tmp_path: Path
) -> None:
    place = checkout if where == "root" else tmp_path / "place"
    place.mkdir(exist_ok=True)
    write(place, my_models=MODELS, my_layers="WORD = 'one'\n", my_package__deep__layer="")
    (place / "my_package" / "deep" / "layer.py").write_text("from .. import WORD\n")
    (place / "my_package" / "__init__.py").write_text("WORD = 'two'\n")
    (place / "my_package" / "deep" / "__init__.py").touch()
    prepare = (
        "import sys; from launch.runs.folders import create, find_run; from clf.plan import *\n"
        "cfg = resolve(compose(['name=x', 'gpus=1', 'trusted_packages=[my_models]',\n"
        "    'strategy.accelerator=cpu']))\n"
        "create(cfg, find_run(cfg))"
    )
    submit = (
        "import sys; from pathlib import Path; from slurm.executor import submit\n"
        "from clf.config import RunConfig; from clf.resilience.lease import take\n"
        "cfg = RunConfig(gpus=1); cfg.strategy.accelerator = 'cpu'\n"
        "run = Path('runs/x').absolute()\n"
        "print(submit(cfg, run, take(run)).result())"
    )
    path = str(checkout) if where == "root" else f"{checkout}:{place}"
    environment = {**os.environ, "PYTHONPATH": path}

    def python(program: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python(prepare)
    for name in ("my_models.py", "my_layers.py"):
        (place / name).unlink()
    shutil.rmtree(place / "my_package")
    python(submit)
    code = tmp_path / "runs" / "x" / "code"
    (log,) = (tmp_path / "runs" / "x" / "logs").glob("*_0_log.out")
    assert f"imported one two {code}/my_models.py\n" in log.read_text()
    assert json.loads((tmp_path / "runs" / "x" / "status.json").read_text())["state"] == "finished"


def test_a_missing_module_is_reported_with_the_other_faults_and_nothing_is_made(
    checkout: Path, tmp_path: Path
) -> None:
    write(checkout, my_models="def late():\n    import my_layers_that_are_gone\n")
    command = [sys.executable, str(checkout / "launch" / "submit.py"), "--name", "x", "--dry-run"]
    done = subprocess.run(
        [*command, "trusted_packages=[my_models]"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"{checkout}/my_models.py imports my_layers_that_are_gone" in done.stderr
    assert not (tmp_path / "runs").exists()


NETWORK = """
from torch import nn
from clf.config.registry import register
from clf.models.base import BaseClassificationModel

@register(name="deepnet")
class DeepNet(BaseClassificationModel):
    def build_network(self):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(self.num_classes))
"""


def test_a_module_within_a_package_can_be_trusted_by_its_own_name(place: Path) -> None:
    write(place, u_trusted__models=NETWORK, u_trusted__other=NETWORK.replace("deepnet", "other"))
    (place / "u_trusted" / "__init__.py").touch()
    program = (
        "from clf.plan import compose\n"
        "words = ['trusted_packages=[u_trusted.models]']\n"
        "print(compose([*words, 'model=deepnet']).model._target_)\n"
        "try:\n    compose([*words, 'model._target_=u_trusted.other.DeepNet'])\n"
        "except ValueError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{place}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "u_trusted.models.DeepNet\n" in done.stdout, done.stderr
    assert "u_trusted.other.DeepNet: not a trusted package" in done.stdout


# --- the commit ---


def git(repository: Path, *arguments: str) -> str:
    person = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(repository), *person, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    (path / "clf").mkdir(parents=True)
    (path / "clf" / "run.py").write_text("first\n")
    git(path, "init", "--quiet")
    git(path, "remote", "add", "origin", "https://user:hunter2@example.org/private.git")
    git(path, "add", "clf")
    git(path, "commit", "--quiet", "--message", "first")
    return path


def test_a_run_knows_the_commit_of_its_code_and_whether_it_was_edited(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "of a hook"))
    head = (repository / ".git" / "refs" / "heads").rglob("*")
    commit = next(path.read_text().strip() for path in head if path.is_file())
    (repository / "notes.txt").write_text("not the project's\n")
    write_commit(repository, folder.commit)
    assert read_commit(folder.path) == {"commit": commit, "changed": False}
    (repository / "clf" / "run.py").write_text("edited\n")
    write_commit(repository, folder.commit)
    assert read_commit(folder.path) == {"commit": commit, "changed": True}
    assert "hunter2" not in folder.commit.read_text()


def test_code_that_git_does_not_know_has_no_commit(repository: Path, tmp_path: Path) -> None:
    """As where clf is installed into a virtual environment within somebody's repository."""
    folder = RunFolder.create(tmp_path / "run")
    folder.commit.write_text('{"commit": "of an earlier start"}')
    installed = repository / "venv" / "site-packages"
    (installed / "clf").mkdir(parents=True)
    for source in (installed, tmp_path):
        write_commit(source, folder.commit)
        assert read_commit(folder.path) == {}
