"""Settings as people type and write them: a text stays the text that stands there, what is left
out is a fault, and a list may hold spaces, commas and equals signs. Right values are written by
hand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from clf.config import ConfigError, RunConfig
from clf.config.compose import CONFIG_DIR
from clf.config.saved import load, save
from clf.plan import compose, examine, resolve

ROOT = Path(__file__).resolve().parents[2]


def at(cfg: RunConfig, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = node[name] if isinstance(node, dict) else getattr(node, name)
    return node


def recipe(tmp_path: Path, text: str) -> str:
    (tmp_path / "mine.yaml").write_text(text)
    return f"recipe={tmp_path}/mine.yaml"


@pytest.mark.parametrize(
    "key",
    ["model.weights", "data.root", "runs_dir", "name", "data", "model", "recipe", "strategy"]
    + ["model.optimizer", "epochs", "gpus", "tracking.tags", "slurm.time", "slurm.options.gres"],
)
@pytest.mark.parametrize("value", ["", "''"])
def test_a_shell_variable_that_is_not_set_is_a_fault(key: str, value: str) -> None:
    (fault,) = examine([f"{key}={value}"]).faults
    assert fault.startswith(f"{key}={value}: there is no value (is a shell variable not set?)")


def test_a_key_of_a_file_with_nothing_behind_it_is_a_fault_and_null_is_none(tmp_path: Path) -> None:
    text = "data:\n  root:\nmodel:\n  weights:\ntracking:\nruns_dir: ''\n"
    faults = examine([recipe(tmp_path, text)]).faults
    assert [fault.split(":")[0] for fault in faults] == [
        "model.weights",
        "data.root",
        "tracking",
        "runs_dir",
    ]
    assert all(f"there is no value (in {tmp_path}/mine.yaml); give one" in one for one in faults)
    cfg = compose([recipe(tmp_path, "data: {root: null}\nmodel: {weights: ~}\n")])
    assert (cfg.data.root, cfg.model.weights) == (None, None)


def test_a_variable_of_the_jobs_environment_may_be_empty() -> None:
    assert compose(["slurm.env={A: '', B: x}"]).slurm.env == {"A": "", "B": "x"}
    assert compose(["slurm.env.A="]).slurm.env == {"A": ""}


@pytest.mark.parametrize(
    "words",
    [("submit.py", "--model", ""), ("train.py", "--data", ""), ("evaluate.py", "")]
    + [("evaluate.py", "x", "--predictions", ""), ("jobs.py", "status", "")]
    + [("jobs.py", "--runs-dir=", "list"), ("jobs.py", "list", "--sweep", "")],
)
def test_an_empty_word_is_a_fault_of_every_command(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    from launch.arguments.evaluate import evaluate_parser
    from launch.arguments.jobs import parse_jobs
    from launch.arguments.parser import parse
    from launch.arguments.run import submit_parser, train_parser

    script, *typed = words
    parsers = {
        "submit.py": submit_parser,
        "train.py": train_parser,
        "evaluate.py": evaluate_parser,
    }
    with pytest.raises(SystemExit, match="2"):
        parse_jobs(typed) if script == "jobs.py" else parse(parsers[script](), typed)
    assert "there is no value (is a shell variable not set?)" in capsys.readouterr().err


TEXTS = ["0123", "1e5", "1E3", "yes", "no", "on", "off", "true", "007", "0x1F", "1_000", "12:00:00"]
TEXTS += [".5", "1.0", "2026-01-01", "+1", "1e-4", "False"]
TEXT_SETTINGS = ["tracking.project", "tracking.entity", "tracking.group", "slurm.account"]
TEXT_SETTINGS += ["slurm.qos", "slurm.reservation"]


@pytest.mark.parametrize("first", range(0, len(TEXTS), len(TEXT_SETTINGS)))
def test_a_text_setting_has_the_text_that_stands_in_the_file_or_on_the_command_line(
    first: int, tmp_path: Path
) -> None:
    given = dict(zip(TEXT_SETTINGS, TEXTS[first:], strict=False))
    named = ", ".join(f"N{place}: {text}" for place, text in enumerate(TEXTS))
    listed = ", ".join(TEXTS)
    words = [f"{key}={text}" for key, text in given.items()]
    lines = {group: [f"{group}:"] for group in ("tracking", "slurm")}
    for key, text in given.items():
        group, _, name = key.partition(".")
        lines[group].append(f"  {name}: {text}")
    lines["tracking"].append(f"  tags: [{listed}]")
    lines["slurm"].append(f"  env: {{{named}}}")
    typed = compose([*words, f"tracking.tags=[{listed}]", f"slurm.env={{{named}}}"])
    written = compose([recipe(tmp_path, "\n".join([*lines["tracking"], *lines["slurm"]]))])
    for cfg in (typed, written):
        assert {key: at(cfg, key) for key in given} == given
        assert cfg.tracking.tags == TEXTS
        assert list(cfg.slurm.env.values()) == TEXTS
    save(resolve(typed), tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == typed


def test_an_option_of_sbatch_is_what_stands_there_but_for_true_and_plain_numbers() -> None:
    cfg = compose(["slurm.options={comment: 007, nice: 100, exclusive: true, begin: 1e5}"])
    expected = {"comment": "007", "nice": 100, "exclusive": True, "begin": "1e5"}
    assert cfg.slurm.options == expected


def test_a_file_of_configs_has_its_texts_too(tmp_path: Path) -> None:
    configs = shutil.copytree(CONFIG_DIR, tmp_path / "configs")
    (configs / "slurm" / "mine.yaml").write_text("account: 0123\nqos: 1e5\npartition: on\n")
    cfg = compose(["slurm=mine"], config_dir=configs)
    assert (cfg.slurm.account, cfg.slurm.qos, cfg.slurm.partition) == ("0123", "1e5", "on")


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("1e-4", "model.learning_rate", 0.0001),
        ("1E-4", "model.learning_rate", 0.0001),
        ("5e-1", "model.learning_rate", 0.5),
        (".5", "model.learning_rate", 0.5),
        ("12:00:00", "slurm.time", 720),
        ("0:30:00", "slurm.time", 30),
        ("1-0", "slurm.time", 1440),
        ("60", "slurm.time", 60),
        ("010", "epochs", 10),
        ("yes", "model.pretrained", True),
        ("off", "model.pretrained", False),
        ("No", "debug", False),
        ("null", "slurm.account", None),
    ],
)
def test_a_number_a_time_and_a_truth_value_are_what_people_mean_by_them(
    text: str, key: str, expected: Any, tmp_path: Path
) -> None:
    *groups, name = key.split(".")
    lines = [f"{'  ' * depth}{group}:" for depth, group in enumerate(groups)]
    lines.append(f"{'  ' * len(groups)}{name}: {text}")
    file = recipe(tmp_path, "\n".join(lines))
    for words in ([f"{key}={text}"], [file]):
        found = at(compose(words), key)
        assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("slurm.setup=[source ~/x.sh, export A=1]", ["source ~/x.sh", "export A=1"]),
        ("slurm.setup=[module load cuda]", ["module load cuda"]),
        ('slurm.setup=[it\'s one, echo "a, b"]', ["it's one", 'echo "a, b"']),
        ("slurm.setup=['a, b', \"c = d\"]", ["a, b", "c = d"]),
        ("slurm.setup=[test -f x && . x, echo $(date)]", ["test -f x && . x", "echo $(date)"]),
        ("slurm.setup=[]", []),
        ("slurm.env={A: x=1, B: a b, C: 'd, e'}", {"A": "x=1", "B": "a b", "C": "d, e"}),
        ("slurm.env.FLAGS=--a=1,--b", {"FLAGS": "--a=1,--b"}),
        ("slurm.options.comment=a, b", {"comment": "a, b"}),
        ("slurm.nodelist=node[1-2,5]", "node[1-2,5]"),
        ("slurm.constraint=[a100*2&h100]", "[a100*2&h100]"),
        ("slurm.mail_type=END,FAIL", "END,FAIL"),
        ("slurm.partition=cpu,gpu", "cpu,gpu"),
        ("data.stage_dir=/a,b = c", "/a,b = c"),
        ("data.stage_dir=~", "~"),
        ('data.stage_dir=my "own" {a}', 'my "own" {a}'),
        ("tracking.project='two words'", "two words"),
        ("tracking.project='null'", "null"),
        ("data.augment.crop_scale=[1e-1, 1]", [0.1, 1.0]),
        ("callbacks=[{_target_: lightning.pytorch.Timer, a: [1, {b: null}]}]", None),
    ],
)
def test_a_value_is_what_stands_behind_the_equals_sign(word: str, expected: Any) -> None:
    examined = examine([word])
    assert examined.cfg is not None
    if expected is None:
        own = {"_target_": "lightning.pytorch.Timer", "a": [1, {"b": None}]}
        assert examined.cfg.callbacks == [own]
        return
    key = word.partition("=")[0]
    key = key.rpartition(".")[0] if key.count(".") > 1 and "augment" not in key else key
    assert at(examined.cfg, key) == expected
    assert "expected" not in "".join(examined.faults)


def test_a_checkpoint_of_others_may_have_an_equals_sign_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    torch.save({"fc.weight": torch.ones(2, 2)}, tmp_path / "log" / "epoch=9-step=80.ckpt")
    cfg = resolve(compose(["model.weights=log/epoch=9-step=80.ckpt"]))
    assert cfg.model.weights == f"{tmp_path}/log/epoch=9-step=80.ckpt"


@pytest.mark.parametrize("more", [[], ["model.interval=epoch"], ["model.schedule=linear"]])
def test_one_epoch_works_as_typed_with_the_default_warm_up(more: list[str]) -> None:
    examined = examine(["epochs=1", *more])
    assert (examined.faults, examined.notes) == ([], [])


def test_a_folder_as_a_recipe_is_told_from_a_file_that_is_missing(tmp_path: Path) -> None:
    def fault(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            compose([f"recipe={path}"])
        return caught.value.faults[0]

    run = tmp_path / "run"
    run.mkdir()
    assert f"recipe={run}: is a folder, and holds no YAML file; give a YAML file" in fault(run)
    (run / "a.yaml").write_text("epochs: 3\n")
    assert "is a folder; it holds a.yaml; give a YAML file" in fault(run)
    (run / "config.yaml").write_text("epochs: 3\n")
    assert fault(run).endswith(f"is a folder; give its file, recipe={run}/config.yaml")
    assert compose([f"recipe={run}/config.yaml"]).epochs == 3
    assert "no such file; looked for" in fault(tmp_path / "none")


COMMANDS = [
    "launch/submit.py --settings model",
    "launch/submit.py --help",
    "launch/submit.py --dry-run strategy.accelerator=cpu",
    "launch/train.py --list-models resnet",
    "launch/train.py epochs=ten",
    "launch/evaluate.py --help",
    "launch/jobs.py list",
    "launch/check_data.py none",
    "launch/benchmark.py --help",
    "-m clf.config.describe",
]


def test_no_command_ends_in_a_traceback_when_the_reader_of_its_output_has_gone(
    tmp_path: Path,
) -> None:
    """As in `submit.py --settings 2>&1 | head -1`. Python's own words would go to the same pipe, so
    they are kept by the file that it writes its traceback to."""
    program = (
        "import runpy, sys, traceback\n"
        "said = open(sys.argv.pop(1), 'a')\n"
        "sys.excepthook = lambda *error: traceback.print_exception(*error, file=said)\n"
        "sys.unraisablehook = lambda one: print(one, file=said)\n"
        "how = runpy.run_module if sys.argv[1] == '-m' else runpy.run_path\n"
        "sys.argv = sys.argv[2:] if sys.argv[1] == '-m' else sys.argv[1:]\n"
        "how(sys.argv[0], run_name='__main__')\n"
    )
    faults = tmp_path / "faults"
    started = []
    for command in COMMANDS:
        reader, writer = os.pipe()
        os.close(reader)
        words = [sys.executable, "-c", program, str(faults), *command.split()]
        started.append(subprocess.Popen(words, cwd=ROOT, stdout=writer, stderr=writer))
        os.close(writer)
    codes = [process.wait(timeout=120) for process in started]
    assert all(code in (0, 1, 2) for code in codes), dict(zip(COMMANDS, codes, strict=True))
    assert faults.read_text() == ""
