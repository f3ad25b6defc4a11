"""The main promises, tested as a user meets them: by typing commands and reading files and screens.

One run through `launch/submit.py` serves most tests; it takes real digits, a real ResNet18 and two
CPU processes where a promise is about ranks.
"""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["epochs=2", "data.batch_size=64", "tracking.log_every=5"]


def command(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run a command of launch/ as a person would; its output is shown when a test fails."""
    script, *rest = words
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *rest],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    print(done.stdout, done.stderr)
    return done


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def submitted(place) -> subprocess.CompletedProcess:
    return command("submit.py", "--model", "resnet18", "--name", "first", *SMALL, cwd=place)


@pytest.fixture(scope="module")
def run(place, submitted) -> Path:
    assert submitted.returncode == 0
    return place / "runs" / "first"


@pytest.fixture(scope="module")
def evaluated(place, run) -> tuple[subprocess.CompletedProcess, list[dict[str, str]]]:
    done = command("evaluate.py", str(run), "--predictions", "predictions.csv", cwd=place)
    assert done.returncode == 0
    return done, read_csv(place / "predictions.csv")


def test_a_run_ends_with_the_table_the_folder_and_what_to_type_next(submitted, run):
    assert submitted.returncode == 0
    for epoch in (1, 2):
        assert re.search(rf"^epoch   {epoch}   val top-1 .* train loss ", submitted.stdout, re.M)
    for expected in ("accuracy", "support", "f1", "run folder  runs/first", "launch/evaluate.py"):
        assert expected in submitted.stdout
    assert "report      runs/first/report.html" in submitted.stdout
    assert (run / "report.html").is_file()


def test_the_run_folder_holds_all_that_the_run_was(run):
    for name in (
        "config.yaml",
        "labels_mapping.json",
        "metrics.csv",
        "status.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "per_class/val.csv",
        "per_class/test.csv",
        "code/clf/run.py",
        "logs",
        "wandb",
    ):
        assert (run / name).exists(), name
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert json.loads((run / "labels_mapping.json").read_text()) == {str(i): i for i in range(10)}
    assert run.stat().st_mode & 0o077 == 0, "a run folder is private"


def test_table_in_wandb_equals_csv_equals_sklearns_confusion_matrix(run, evaluated):
    _, predictions = evaluated
    labels = [row["label"] for row in predictions]
    predicted = [row["predicted"] for row in predictions]
    classes = [str(i) for i in range(10)]
    matrix = confusion_matrix(labels, predicted, labels=classes)

    rows = read_csv(run / "per_class" / "test.csv")
    assert [row["class"] for row in rows] == classes
    np.testing.assert_array_equal([int(row["support"]) for row in rows], matrix.sum(axis=1))
    np.testing.assert_array_equal([int(row["correct"]) for row in rows], matrix.diagonal())
    np.testing.assert_array_equal([int(row["predicted"]) for row in rows], matrix.sum(axis=0))
    scores = precision_recall_fscore_support(labels, predicted, labels=classes)
    for name, score in zip(("precision", "recall", "f1"), scores, strict=False):
        np.testing.assert_allclose([float(row[name]) for row in rows], score, atol=1e-6)
    accuracy = matrix.diagonal() / matrix.sum(axis=1)
    np.testing.assert_allclose([float(row["accuracy"]) for row in rows], accuracy, atol=1e-6)

    (table_file,) = (run / "wandb").glob("**/files/media/table/test/per_class*.json")
    table = json.loads(table_file.read_text())
    counts, shares = ["support", "correct", "accuracy", "predicted"], ["precision", "recall", "f1"]
    assert table["columns"] == ["class", *counts, *shares]
    for row, cells in zip(rows, table["data"], strict=True):
        assert [row["class"], *map(float, list(row.values())[1:])] == pytest.approx(cells)


def test_evaluate_gives_the_runs_own_final_numbers(run, evaluated):
    done, predictions = evaluated
    final = json.loads((run / "status.json").read_text())["metrics"]
    right = [row["label"] == row["predicted"] for row in predictions]
    assert final["test/acc_top1"] == pytest.approx(np.mean(right), abs=1e-6)
    for name in ("test/loss", "test/acc_top1", "test/acc_top5", "test/acc_macro", "test/f1_macro"):
        assert f"{final[name]:.6f}" in done.stdout, name


def test_metrics_csv_has_every_promised_number(run):
    rows = read_csv(run / "metrics.csv")
    filled = {name for row in rows for name, value in row.items() if value}
    promised = {f"{stage}/loss" for stage in ("train", "val", "test")}
    promised |= {f"{stage}/acc_top1" for stage in ("train", "val", "test")}
    promised |= {"val/precision_macro", "val/recall_macro", "test/f1_weighted", "test/ece"}
    promised |= {"val/acc_top5", "test/acc_top5", "val/acc_macro", "train/images_per_second"}
    assert promised <= filled
    assert any(name.startswith("lr") for name in filled)
    epochs = {row["epoch"] for row in rows if row["epoch"]}
    assert epochs == {"1", "2"}


def test_the_same_seed_gives_the_same_weights_at_any_number_of_threads(place, run):
    import torch

    other = ["--name", "threads", "data.threads=0", "tracking.mode=disabled", *SMALL]
    assert command("train.py", *other, cwd=place).returncode == 0
    load = {"map_location": "cpu", "weights_only": True}
    first = torch.load(run / "checkpoints" / "last.ckpt", **load)["state_dict"]
    second = torch.load(place / "runs/threads/checkpoints/last.ckpt", **load)["state_dict"]
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_two_ranks_count_every_image_once(place):
    name = ["--name", "ranks", "--gpus", "2", "strategy.accelerator=cpu"]
    settings = ["epochs=1", "model.warmup_epochs=0", "data.batch_size=64", "tracking.mode=disabled"]
    assert command("submit.py", *name, *settings, cwd=place).returncode == 0
    run = place / "runs" / "ranks"
    rows = read_csv(run / "per_class" / "test.csv")
    assert command("evaluate.py", str(run), "--predictions", "r.csv", cwd=place).returncode == 0
    predictions = read_csv(place / "r.csv")
    for row in rows:
        own = [p for p in predictions if p["label"] == row["class"]]
        assert int(row["support"]) == len(own)
        assert int(row["correct"]) == sum(p["predicted"] == row["class"] for p in own)


def test_a_killed_run_goes_on_where_it_was(place):
    """Killed after its first epoch, the run ends with the weights of an uninterrupted one."""
    import torch

    whole = ["--name", "whole", "epochs=3", "data.batch_size=64", "tracking.mode=disabled"]
    assert command("train.py", *whole, cwd=place).returncode == 0
    cut = ["--name", "cut", *whole[2:]]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch/train.py"), *cut],
        cwd=place,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    last = place / "runs/cut/checkpoints/last.ckpt"
    try:
        wait_for(lambda: last.is_file() or process.poll() is not None)
    finally:
        process.kill()
        process.wait()
    assert command("train.py", *cut, cwd=place).returncode == 0
    load = {"map_location": "cpu", "weights_only": True}
    expected = torch.load(place / "runs/whole/checkpoints/last.ckpt", **load)
    resumed = torch.load(last, **load)
    assert resumed["global_step"] == expected["global_step"]
    for name, value in expected["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    steps = [int(row["step"]) for row in read_csv(place / "runs/cut/metrics.csv")]
    assert steps == sorted(steps), "rows of the interrupted start were not replaced"


def wait_for(condition, seconds: float = 300) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
