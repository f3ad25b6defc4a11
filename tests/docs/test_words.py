"""The settings, flags and files that README.md and docs/ name are there, and every block is one
that the tests of the commands or of the programs read."""

import argparse
import re
from collections.abc import Iterator
from functools import cache

import pytest

from clf.config.assign import lay
from clf.config.compose import read
from clf.config.overrides import parse
from launch.commands import commands, words_of
from tests.docs.pages import GENERATED, ROOT, blocks, spans

SETTING = re.compile(r"[a-z][a-z_]*(\.[a-z_0-9]+)*=[^\s\"]*")
# Values that stand for any: FILE, NAME, COLUMN ...; and those that are cut short.
PLACEHOLDER = re.compile(r"=(|\.\.\.|.*\b[A-Z]{3,}\b.*|\[\{.*|\{.*)$")
# Not one setting; refused, as its row says; of the network that docs/extending.md writes.
NO_SETTINGS = {"key=value", "seed=1,2", "model.width=48"}
LANGUAGES = {"bash", "console", "text", "python", "yaml", "dockerfile"}
# Of sbatch, docker, pip and clf itself.
OTHER_FLAGS = {"--ntasks-per-node", "--test-only", "--init", "--user", "--no-deps", "--version"}
OTHER_FLAGS |= {"--signal", "--full"}  # of scancel
# Who runs the programs of a page.
PROGRAMS = {
    "docs/extending.md": "tests/test_extending.py",
    "docs/shipping.md": "tests/launch/test_export.py",
}
FILE = re.compile(r"(?<![\w/.])((?:clf|launch|slurm|configs|tests|docs)/[\w./*-]*[\w*/])")
# One that the reader is told to write, and one that the page says there is not.
EXAMPLES = {"configs/slurm/vision.yaml", "configs/optimizer/"}


@cache
def choices() -> dict[str, list[str]]:
    """Of each setting that a choice brings, the choices, such as model.optimizer=sgd of
    model.momentum, from the page that is generated."""
    found: dict[str, list[str]] = {}
    choice = ""
    for line in (ROOT / GENERATED).read_text().split("\n"):
        if line.startswith("## "):
            group, _, name = line.removeprefix("## ").partition(" ")
            key = group if group in ("data", "model") else f"model.{group}"
            choice = f"{key}={name}" if name and group != "The" else ""
        elif choice and (row := re.match(r"\| `([\w.]+)`", line)):
            found.setdefault(row[1], []).append(choice)
    return found


def settings() -> Iterator[tuple[str, str]]:
    """Where it stands, and each `key=value` of the code spans."""
    for page, line, span in spans():
        words = span.split(" ")
        if all(SETTING.fullmatch(word) for word in words):
            yield from ((f"{page}:{line}", word) for word in words)


def faults(setting: str) -> list[str]:
    """What is wrong with a setting, at its best with the choice that it belongs to."""
    key, _, value = setting.partition("=")
    chosen = choices().get(key, []) or (["model=convnext_tiny"] if key.startswith("model.") else [])
    if key in ("model", "data", "recipe", "slurm", "strategy", "tracking") or chosen:
        tried = [read([*([choice] if choice else []), setting]).faults for choice in chosen or [""]]
        return min(tried, key=len)
    return lay(parse([setting]).settings)[1]


def is_plain(word: str) -> bool:
    return word not in NO_SETTINGS and not PLACEHOLDER.search(word)


@pytest.mark.parametrize("setting", sorted({text for _, text in settings() if is_plain(text)}))
def test_a_setting_that_a_page_names_can_be_set_so(setting: str) -> None:
    where = [place for place, text in settings() if text == setting]
    assert not faults(setting), where


def test_a_placeholder_stands_behind_a_setting_that_exists() -> None:
    known = set(re.findall(r"^\| `([\w.]+)`", (ROOT / GENERATED).read_text(), re.M))
    known |= {"model", "data", "recipe", "slurm", "strategy", "tracking"}
    for where, text in settings():
        if text not in NO_SETTINGS and PLACEHOLDER.search(text):
            assert text.partition("=")[0] in known, f"{where}: {text}"


def test_a_file_that_a_page_names_exists() -> None:
    missing = [
        f"{page}:{line}: {path}"
        for page, line, span in spans()
        for path in FILE.findall(span)
        if path not in EXAMPLES and not list(ROOT.glob(path.rstrip("/")))
    ]
    assert not missing


def test_a_block_has_a_language_and_so_a_test_that_reads_it() -> None:
    others = [f"{one.page}:{one.line}" for one in blocks() if one.language not in LANGUAGES]
    assert not others, f"write ```bash, ```console (with $ and output) or one of {LANGUAGES}"
    python = {one.page for one in blocks() if one.language == "python"}
    assert python == PROGRAMS.keys(), "name the test that runs the programs of a page in PROGRAMS"
    for page, test in PROGRAMS.items():
        assert page.rpartition("/")[2] in (ROOT / test).read_text()


def test_a_flag_that_a_page_names_is_one_of_the_commands() -> None:
    known = {"--help"}
    for name in commands():
        known |= flags_of(words_of(name)())
    missing = [
        f"{page}:{line}: {span}"
        for page, line, span in spans()
        for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", span)
        if flag not in known | OTHER_FLAGS
    ]
    assert not missing


def flags_of(command: argparse.ArgumentParser) -> set[str]:
    """Those of its sub-commands too."""
    found: set[str] = set()
    for action in command._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                found |= flags_of(one)
    return found
