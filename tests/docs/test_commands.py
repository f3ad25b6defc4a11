"""Every command of README.md and docs/ is run, and what the pages show is what it prints.

Those that need no SLURM are typed here, in one process. A command that trains is checked as it
stands with `--dry-run`, and then trains for one batch of a few small images on the CPU.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.arguments.benchmark import benchmark_parser
from tests.docs.home import filled, furnish
from tests.docs.pages import ROOT, Command, commands
from tests.docs.places import (
    BENCHMARK,
    ELSEWHERE,
    EXAMPLE,
    HERE,
    RECIPES,
    SETUP,
    bare,
    place,
    setup_fault,
)
from tests.docs.printed import differences

# Runs that pages call RUN and NAME.
TRAINED = "python launch/train.py --model shufflenet_v2_x0_5 --name {}"
SMALL = (
    *("limit_batches=1", "model.warmup_epochs=0", "mix.off_epochs=0", "model.pretrained=false"),
    *("data.image_size=32", "data.eval_resize=null", "data.batch_size=8", "data.threads=1"),
    *("strategy.accelerator=cpu", "tracking.mode=disabled"),
)
# They end without training.
SHOW = ("--dry-run", "--settings", "--list-models", "--help", "--sweep")
NOT_TRAINING = {"--nodes", "--gpus"}  # flags of submit.py, each with a value, that train.py lacks
ALL = commands()


@dataclass(frozen=True)
class Answer:
    code: int
    said: str


def trains(command: str) -> bool:
    script, *words = command.split()[1:]
    return script in ("launch/submit.py", "launch/train.py") and not set(words) & {*SHOW}


def as_typed(command: str) -> str:
    """What can be run as it stands: where it would train, or start several runs, it says what it
    would do."""
    has_end = not trains(command) and "--sweep" not in command
    return command if has_end else f"{command} --dry-run"


def in_small(command: str, number: int) -> str:
    """The same training on one device, with one batch of a few small images."""
    _, _, *words = shlex.split(command)
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if not {word, before} & NOT_TRAINING
    ]
    if "--name" not in kept:
        kept += ["--name", f"run{number}"]
    epochs = 2 if any(word.startswith("epochs=") for word in kept) else 1
    return f"python launch/train.py {shlex.join([*kept, *SMALL, f'epochs={epochs}'])}"


def here() -> list[str]:
    return list(dict.fromkeys(one.text for one in ALL if place(one) == HERE))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """By command, as typed and in small."""
    home = tmp_path_factory.mktemp("home")
    furnish(home)
    asked = [in_small(TRAINED.format(name), 0) for name in ("RUN", "NAME")]
    asked += [as_typed(text) for text in here()]
    asked += [
        in_small(one, place) for place, one in enumerate(here(), 1) if is_right_and_trains(one)
    ]
    typed = [shlex.split(filled(text, home))[1:] for text in asked]
    (home / "asked.json").write_text(
        json.dumps([(Path(script).stem, words) for script, *words in typed])
    )
    environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, str(ROOT / "tests/docs/worker.py"), "asked.json", "answers.json"],
        cwd=home,
        env=environment,
        check=True,
        timeout=600,
    )
    found = json.loads((home / "answers.json").read_text())
    return {text: Answer(*one) for text, one in zip(asked, found, strict=True)}


def is_right_and_trains(text: str) -> bool:
    """Not one of those whose page shows what is wrong with them."""
    shown = [line for one in ALL if one.text == text for line in one.shown]
    return trains(text) and not any("in the configuration:" in line for line in shown)


@pytest.mark.parametrize("text", here())
def test_the_command_does_what_its_page_says(answers: dict[str, Answer], text: str) -> None:
    typed = answers[as_typed(text)]
    for shown in (one.shown for one in ALL if one.text == text and one.shown):
        assert not differences(shown, typed.said), typed.said
    faults = [one.where for one in ALL if one.text == text and "configuration:" in str(one.shown)]
    assert typed.code == (2 if faults else 0), typed.said
    if is_right_and_trains(text):
        trained = answers[in_small(text, here().index(text) + 1)]
        assert trained.code == 0, trained.said
        assert "run folder  runs/" in trained.said, trained.said


@pytest.mark.parametrize("command", ALL, ids=lambda one: one.where)
def test_the_command_has_a_place_where_it_is_run(command: Command) -> None:
    advice = (
        f"{command.where}: nothing runs this command. Where it begins with `python launch/` it is "
        "run here by itself; else let a test run it and name the test in ELSEWHERE of "
        "tests/docs/places.py, with a text that the test holds"
    )
    assert place(command), advice
    if place(command) == SETUP:
        assert setup_fault(bare(command)) == "", command.where
    if place(command) == BENCHMARK:  # whole, it takes minutes; argparse ends where a flag is wrong
        benchmark_parser().parse_args(shlex.split(bare(command))[2:])
    if (text := bare(command)) in ELSEWHERE:
        file, proof = ELSEWHERE[text]
        assert proof in (ROOT / file).read_text(), f"{command.where}: {file} has no {proof}"


def test_no_entry_of_the_table_is_left_over() -> None:
    assert not ELSEWHERE.keys() - {bare(command) for command in ALL}
    assert (ROOT / EXAMPLE).is_file()
    assert RECIPES["demo"] in here()
