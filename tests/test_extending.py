"""Every example of docs/extending.md runs exactly as printed, from a folder of the user's own.

All commands run in one process, which imports torch once; training ones with `--smoke`.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SMALL = ["--smoke", "strategy.accelerator=cpu", "data.threads=1", "tracking.log_every=1"]
RUN_ALL = """
import contextlib, io, json, pathlib, runpy, sys, traceback
sys.path.insert(0, ROOT)
from launch import submit, train

answers = {}
for name, script, words in COMMANDS:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            if script == "submit.py":
                code = submit.main(words)
            elif script == "train.py":
                code = train.main(words)
            else:
                sys.argv = [script, *words]
                runpy.run_path(script, run_name="__main__")
                code = 0
    except BaseException:
        code, said = 1, io.StringIO(said.getvalue() + traceback.format_exc())
    answers[name] = (code, said.getvalue())
pathlib.Path("answers.json").write_text(json.dumps(answers))
"""


@dataclass(frozen=True)
class Example:
    name: str
    files: dict[str, str]
    command: list[str]


def examples() -> list[Example]:
    """The sections of the page: its files, each named above its block, and its command."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        files = dict(re.findall(r"`([\w.]+)`:\n\n```\w+\n(.*?)```", text, re.DOTALL))
        (command,) = re.findall(r"\n```bash\npython (.*?)\n```", text, re.DOTALL)
        found.append(Example(title.rpartition(" ")[2].lower(), files, words(command)))
    return found


def words(command: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|(\S+)', command)]


@dataclass(frozen=True)
class Outcome:
    folder: Path
    code: int
    said: str

    @property
    def config(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    @property
    def checkpoint(self) -> dict[str, Any]:
        return torch.load(self.folder / "checkpoints" / "last.ckpt", weights_only=True)

    @property
    def columns(self) -> list[str]:
        return (self.folder / "metrics.csv").read_text().split("\n")[0].split(",")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    home = tmp_path_factory.mktemp("home")
    (home / "prefixed").mkdir()
    rng = np.random.default_rng(0)
    for place in range(30):
        pixels = rng.integers(256, size=(32, 32, 3), dtype=np.uint8)
        name = f"{('cat', 'dog', 'owl')[place % 3]}_{place:04d}.png"
        Image.fromarray(pixels).save(home / "prefixed" / name)
    commands = []
    for example in examples():
        for file, text in example.files.items():
            (home / file).write_text(text)
        script, *typed = example.command
        script = Path(script).name
        if script == "submit.py" and "--dry-run" not in typed:
            mode = "offline" if example.name == "w&b" else "disabled"
            typed += [*SMALL, "--name", example.name.replace("&", ""), f"tracking.mode={mode}"]
            script = "train.py"
        commands.append((example.name, script, typed))
    program = f"ROOT, COMMANDS = {str(ROOT)!r}, {commands!r}\n{RUN_ALL}"
    subprocess.run([sys.executable, "-c", program], cwd=home, check=True, timeout=600)
    answers = json.loads((home / "answers.json").read_text())
    return {
        name: Outcome(home / "runs" / name.replace("&", ""), code, said)
        for name, (code, said) in answers.items()
    }


def test_nothing_that_users_add_every_week_takes_more_than_three_files() -> None:
    counts = re.findall(r"^\| \[[^\]]*\]\(#[^)]*\) \| (\d)", PAGE, re.MULTILINE)
    assert len(counts) == len(examples()) == 13
    assert all(int(count) <= 3 for count in counts)


@pytest.mark.parametrize("name", [example.name for example in examples()])
def test_the_example_runs_as_it_stands_on_the_page(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].code == 0, outcomes[name].said
    if name not in ("command", "option"):
        status = json.loads((outcomes[name].folder / "status.json").read_text())
        assert status["state"] == "finished"


def test_the_network_has_the_width_that_was_set(outcomes: dict[str, Outcome]) -> None:
    state = outcomes["network"].checkpoint["state_dict"]
    assert state["network.0.0.weight"].shape == (24, 3, 3, 3)


def test_the_optimizer_the_schedule_and_the_loss_have_their_settings(
    outcomes: dict[str, Outcome],
) -> None:
    (optimizer,) = outcomes["optimizer"].checkpoint["optimizer_states"]
    assert {group["alpha"] for group in optimizer["param_groups"]} == {0.95}
    (schedule,) = outcomes["schedule"].checkpoint["lr_schedulers"]
    assert schedule["end_factor"] == 0.2
    assert outcomes["loss"].checkpoint["hyper_parameters"]["poly_epsilon"] == 1.5


def test_the_metric_the_gradients_norm_and_the_picture_are_recorded(
    outcomes: dict[str, Outcome],
) -> None:
    assert "val/acc_worst" in outcomes["metric"].columns
    assert "val/auc" in outcomes["number"].columns
    assert outcomes["number"].config["checkpoint"]["monitor"] == "val/auc"
    assert "train/gradient_norm" in outcomes["callback"].columns
    assert list(outcomes["w&b"].folder.rglob("media/images/first_filter*.png"))


def test_the_reader_the_transform_and_the_recipe_are_in_the_runs_config(
    outcomes: dict[str, Outcome],
) -> None:
    classes = json.loads((outcomes["reader"].folder / "labels_mapping.json").read_text())
    assert classes == {"cat": 0, "dog": 1, "owl": 2}
    assert outcomes["reader"].config["data"]["separator"] == "_"
    (transform,) = outcomes["augmentation"].config["data"]["augment"]["transforms"]
    assert transform == {"_target_": "my_transforms.Invert", "p": 0.1}
    recipe = outcomes["recipe"].config
    assert (recipe["seed"], recipe["model"]["optimizer"], recipe["model"]["momentum"]) == (
        1,
        "sgd",
        0.9,
    )
    assert recipe["data"]["augment"]["horizontal_flip"] == 0.0


def test_the_command_counts_and_the_option_reaches_the_config(
    outcomes: dict[str, Outcome],
) -> None:
    assert "0 124 18" in outcomes["command"].said
    assert "comment: third try" in outcomes["option"].said
