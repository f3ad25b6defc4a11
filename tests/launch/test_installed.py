"""`pip install .` gives a command that works anywhere: asked of a wheel, installed beside the
packages that the tests have."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from launch.commands import commands, words_of

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("clf", "launch", "slurm", "configs")
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since a build leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PARTS:
        ignore = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(folder)], cwd=source, check=True)
    (built,) = folder.glob("clf-*.whl")
    return built


@pytest.fixture(scope="module")
def clf(wheel: Path) -> Path:
    """The command, in an environment of its own that sees the packages of this one."""
    home = wheel.parent / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index"]
    subprocess.run([*pip, "--quiet", "--no-deps", str(wheel)], check=True)
    return home / "bin" / "clf"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: no checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return tmp_path


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run([*map(str, words)], capture_output=True, text=True, env=env, check=False)


def test_an_installed_package_lacks_no_file_of_the_checkout(wheel: Path) -> None:
    files = [path for part in PARTS for path in (ROOT / part).rglob("*") if path.is_file()]
    built = {path for path in files if "__pycache__" in path.parts or path.suffix == ".so"}
    wanted = {str(path.relative_to(ROOT)) for path in files if path not in built}
    inside = {f"clf/{name}" if name.startswith("configs/") else name for name in wanted}
    names = zipfile.ZipFile(wheel).namelist()
    compiled = {name for name in names if name.endswith(".so")}  # where there is a compiler
    assert compiled <= {name for name in names if name.startswith("clf/data/jpeg_region.")}
    assert {name for name in names if ".dist-info/" not in name} - compiled == inside


def test_help_names_every_command_and_loads_none_of_them(clf: Path, place: Path) -> None:
    done = run(clf, "--help")
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert (done.returncode, listed) == (0, list(commands()))
    assert {"submit", "train", "evaluate", "jobs", "benchmark", "check-data"} <= set(listed)
    assert max(map(len, done.stdout.splitlines())) <= 120
    python = clf.with_name("python")
    version = run(clf, "--version").stdout
    assert re.fullmatch(rf"clf \d\S+, {clf.parents[1]}/lib/\S+\n", version), version
    program = (
        "import sys; from launch.__main__ import main\n"
        "sys.argv = ['clf', '--help']; main()\n"
        "names = {'argparse', 'clf.config', 'slurm', 'numpy', 'omegaconf', 'torch'}\n"
        "print(names & set(sys.modules))"
    )
    assert run(python, "-c", program).stdout.endswith("{'argparse'}\n")


def test_a_job_of_an_installed_package_runs_its_own_copy_of_it(clf: Path, place: Path) -> None:
    size = ("limit_batches=1", "epochs=1", "data.image_size=32")
    alone = ("strategy.accelerator=cpu", "tracking=disabled")
    done = run(clf, "submit", "--gpus", "1", "--name", "mine", *size, *alone)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "clf evaluate runs/mine --predictions predictions.csv" in done.stdout
    code = place / "runs" / "mine" / "code"
    assert sorted(path.name for path in code.iterdir()) == ["clf", "launch", "slurm"]
    assert (code / "clf" / "configs" / "train.yaml").is_file()
    images = [path.name for path in (place / "cache" / "clf").glob("digits-*")]
    assert len(images) == 1  # and none among the installed packages


def test_clf_does_not_run_other_code_than_what_the_user_stands_in(
    clf: Path, place: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "pyproject.toml", checkout)
    monkeypatch.chdir(checkout / "configs")
    done = run(clf, "check-data", "/images")
    assert done.returncode == 2
    assert f"the working directory is in {checkout}, which has code of its own" in done.stderr
    assert f"python {checkout}/launch/check_data.py" in done.stderr
    assert f"pip install --no-deps -e {checkout}" in done.stderr
    assert run(clf, "completion", "bash").returncode == 0  # a shell may start here
    monkeypatch.chdir(checkout)
    assert run(sys.executable, "-m", "launch", "train", "--dry-run").returncode == 0  # its own


def test_a_mistyped_command_is_told_the_right_one(clf: Path, place: Path) -> None:
    done = run(clf, "trian")
    assert (done.returncode, done.stderr) == (
        2,
        "clf: trian: no such command; did you mean train? See clf --help\n",
    )
    assert run(clf, "check_data", "--help").stdout.startswith("usage: clf check-data ")
    assert "clf jobs list" in run(clf, "jobs", "--help").stdout


def test_messages_name_the_commands_as_they_are_typed(clf: Path, place: Path) -> None:
    done = run(clf, "train", "gpus=2", "strategy.accelerator=cpu")
    assert done.returncode == 2
    assert "or use clf submit" in done.stderr
    assert "See clf train --help" in run(clf, "train", "--batchsize", "3").stderr


@pytest.mark.parametrize("name", list(commands()))
def test_each_command_has_its_words_where_help_and_completion_look(name: str) -> None:
    assert words_of(name)().format_help().startswith("usage: ")


COMPLETE = """
source /dev/stdin
try() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _clf clf 2>/dev/null
  echo "${COMPREPLY[@]}"
}
"""


def test_the_shell_completes_commands_flags_settings_and_runs(clf: Path, place: Path) -> None:
    for name in ("first", "second"):
        (place / "runs" / name).mkdir(parents=True)
    script = run(clf, "completion", "bash").stdout
    asked = {
        "clf e": "evaluate",
        "clf train --smo": "--smoke",
        "clf train --strategy deepspeed_zero1": "deepspeed_zero1",
        "clf submit --model wide_resnet50": "wide_resnet50_2",
        "clf train --smoke data.batch": "data.batch_size=",
        "clf jobs st": "status",
        "clf jobs status ''": "first second",
        "clf evaluate f": "first",
        "clf evaluate first --split t": "test train",
    }
    program = COMPLETE + "\n".join(f"try {words}" for words in asked)
    done = subprocess.run(
        ["bash", "-c", program], input=script, capture_output=True, text=True, check=True
    )
    answers = [set(line.split()) for line in done.stdout.splitlines()]
    wanted = [set(text.split()) for text in asked.values()]
    assert all(some <= all_ for some, all_ in zip(wanted, answers, strict=True)), done.stdout
    for shell in ("zsh", "fish"):
        assert "wide_resnet50_2" in run(clf, "completion", shell).stdout
