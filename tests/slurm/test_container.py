"""The images that run a job. They are built where there is an engine (.ci/run), and linted by `make
check`; here the two descriptions are held against each other and against the project."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from clf.config.schema import ContainerConfig

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECTIONS = {"files", "environment", "post", "test", "runscript", "help"}


def dockerfile() -> list[tuple[str, str]]:
    """Instructions with their text, comments left out, lines that go on joined."""
    text = "\n".join(
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")
    )
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in lines if line.strip()]


def definition() -> dict[str, list[str]]:
    """Sections of apptainer.def, and its header as the section ""; lines that go on joined."""
    sections: dict[str, list[str]] = {"": []}
    name = ""
    text = re.sub(r"\\\n\s*", "", (ROOT / "apptainer.def").read_text())
    for line in text.splitlines():
        if line.startswith("%"):
            name = line[1:].strip()
            assert name not in sections, f"two sections {name}"
            sections[name] = []
        elif line.strip() and not line.lstrip().startswith("#"):
            sections[name].append(line.strip())
    return sections


def installs(text: str) -> list[list[str]]:
    """The words of each command that installs something."""
    commands = [shlex.split(part) for part in re.split(r"&&|;|\n", text)]
    return [words for words in commands if "install" in words]


def test_both_images_hold_the_same_packages() -> None:
    docker = dict(dockerfile())
    apptainer = definition()
    header = dict(line.split(": ") for line in apptainer[""])
    assert (header["Bootstrap"], header["From"]) == ("docker", docker["FROM"])
    run = "\n".join(text for name, text in dockerfile() if name == "RUN")
    assert installs(run) == installs("\n".join(apptainer["post"]))
    assert any("DS_BUILD_OPS=0" in text for name, text in dockerfile() if name == "ENV")
    assert "export DS_BUILD_OPS=0" in apptainer["post"]


def test_the_images_take_what_is_locked_and_every_extra_of_a_user() -> None:
    (packages,) = [
        words for words in installs("\n".join(definition()["post"])) if "--requirement" in words
    ]
    assert packages[packages.index("--constraint") + 1] == "requirements.lock"
    extras = {
        after for word, after in zip(packages, packages[1:], strict=False) if word == "--extra"
    }
    assert extras == PROJECT["optional-dependencies"].keys() - {"bench", "docs", "test", "check"}


def test_the_images_get_all_parts_of_the_project() -> None:
    copied = {word for name, text in dockerfile() if name == "COPY" for word in text.split()[:-1]}
    named = {line.split()[0] for line in definition()["files"]}
    sent = re.findall(r"^!(\S+)", (ROOT / ".dockerignore").read_text(), re.M)
    assert copied == named == set(sent)
    assert {"clf", "launch", "slurm", "configs", "pyproject.toml", "requirements.lock"} <= named
    assert all((ROOT / name).exists() for name in named)


def test_whoever_starts_an_image_gets_clf_and_is_not_root() -> None:
    instructions = dockerfile()
    names = [name for name, _ in instructions]
    assert dict(instructions)["ENTRYPOINT"] == '["clf"]'
    users = [text for name, text in instructions if name == "USER"]
    assert users == ["1000"]
    assert "RUN" not in names[names.index("USER") :]  # nothing is built after that
    sections = definition()
    assert sections.keys() - {""} == SECTIONS
    assert sections["runscript"] == ['exec clf "$@"']
    assert PROJECT["scripts"]["clf"]


@pytest.mark.parametrize("name", ["Dockerfile", "apptainer.def"])
def test_a_job_finds_the_python_that_it_asks_an_image_for(name: str) -> None:
    assert ContainerConfig().python == "python"  # which the base image has, with all packages
    base = re.search(r"^(?:FROM|From:) (\S+)", (ROOT / name).read_text(), re.M)
    assert base is not None
    version = base[1].removeprefix("python:").partition("-")[0]
    assert version in PROJECT["requires-python"].replace(">=", "").split(",")
