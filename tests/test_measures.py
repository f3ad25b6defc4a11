"""The single list of metrics: how a user's module adds to it, and everything that reads it."""

import csv
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score

from clf.config import ConfigError
from clf.metrics import measures
from clf.metrics.columns import class_accuracy, class_f1, class_precision
from clf.metrics.measures import line, measure, percent, reported
from clf.plan import compose
from tests import tiny

OWN = """
from clf.metrics.measures import measure


@measure("error", label="error", best="min")
def error(counts):
    return 1 - counts.correct_C.sum().double() / counts.support_C.sum()


@measure("balanced", label="balanced", best="max")
def balanced(counts):
    seen = counts.support_C > 0
    return (counts.correct_C[seen].double() / counts.support_C[seen]).mean()
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch) -> None:
    """What a test adds to the list is gone after it."""
    monkeypatch.setattr(measures, "_measures", dict(measures._measures))


@pytest.fixture
def own_module(tmp_path, monkeypatch) -> Iterator[str]:
    (tmp_path / "my_measures.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_measures"
    sys.modules.pop("my_measures", None)


def names() -> list[str]:
    return [one.name for one in reported()]


def test_a_users_own_measure_is_logged_monitored_and_shown(own_module, tmp_path: Path) -> None:
    cfg = compose([f"trusted_packages=[{own_module}]", "checkpoint.monitor=val/error"])
    run = tiny.config(str(tmp_path / "digits"), epochs=1, model={"warmup_epochs": 0})
    run.checkpoint = cfg.checkpoint
    scalars = tiny.fit(run, str(tmp_path / "run"))["scalars"]
    assert scalars["val/error"] == pytest.approx(1 - scalars["val/acc_top1"], abs=1e-6)
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/error", "val/error", "test/error", "test/balanced"} <= set(header)
    shown = line(scalars, "test")
    assert shown.index("macro F1 ") < shown.index("loss ") < shown.index("error ")
    assert f"balanced {100 * scalars['test/balanced']:.1f} %" in shown


@pytest.mark.parametrize(("monitor", "best"), [("val/acc_balanced", max), ("val/error", min)])
def test_the_best_checkpoint_is_that_of_the_monitored_measure(
    own_module, tmp_path: Path, monitor: str, best: Callable
) -> None:
    __import__(own_module)
    fast = {"warmup_epochs": 0, "learning_rate": 1e-2}
    cfg = tiny.config(str(tmp_path / "digits"), limit_batches=40, model=fast)
    cfg.checkpoint.monitor, logged = monitor, measures.logged_as(monitor)
    tiny.fit(cfg, str(tmp_path / "run"))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[logged]]
    values = [float(row[logged]) for row in rows]
    assert len(set(values)) > 1
    chosen = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert chosen["epoch"] == values.index(best(values))


def test_the_direction_of_a_users_own_measure_is_known(own_module) -> None:
    chosen = [f"trusted_packages=[{own_module}]", "checkpoint.monitor=val/error"]
    assert compose(chosen).checkpoint.mode is None
    assert measures.direction("val/error") == "min"
    with pytest.raises(ConfigError, match="checkpoint.mode=max: val/error is best at its minimum"):
        compose([*chosen, "checkpoint.mode=max"])


def test_a_measure_cannot_be_chosen_without_its_module() -> None:
    with pytest.raises(ConfigError, match="checkpoint.monitor=val/error: no such name is logged"):
        compose(["checkpoint.monitor=val/error"])


def test_a_measure_that_cannot_be_added_is_a_fault_of_the_configuration(own_module) -> None:
    path = Path(sys.path[0]) / "my_measures.py"
    for text, message in {
        OWN.replace('"error"', '"f1_macro"'): "belongs to clf.metrics.measures.macro_f1 already",
        OWN.replace('"error", l', '"acc_top7", l'): "belongs to clf.metrics.measures.top_k already",
        OWN.replace('"min"', '"low"'): r"best='low'.*: expected best=\"max\" or best=\"min\"",
        OWN.replace('"error", l', '"my error", l'): "expected letters, digits and underscores",
    }.items():
        path.write_text(text)
        sys.modules.pop(own_module, None)
        with pytest.raises(ConfigError, match=message):
            compose([f"trusted_packages=[{own_module}]"])
    assert names() == [*dict.fromkeys(names())]


def test_a_module_that_is_imported_twice_adds_its_measures_once(own_module) -> None:
    for _ in range(2):
        sys.modules.pop(own_module, None)
        __import__(own_module)
    assert names()[-2:] == ["error", "balanced"]


@pytest.mark.parametrize(
    ("top_k", "classes", "expected"),
    [(5, 5, False), (5, 3, False), (5, 6, True), (5, None, True), (1, 10, False), (3, 4, True)],
)
def test_a_top_k_that_says_nothing_is_not_reported(top_k, classes, expected) -> None:
    found = [one.name for one in reported(top_k, classes)]
    assert (f"acc_top{top_k}" in found[1:]) == expected
    assert len(found) == len(names()) - (not expected)


def test_of_five_classes_a_top_5_cannot_be_monitored(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "val"):
        for name in "abcde":
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "0.png")
    data = ["data=imagefolder", f"data.root={tmp_path}", "data.batch_size=2"]
    compose([*data, "checkpoint.monitor=val/acc_macro"])
    with pytest.raises(ConfigError) as error:
        compose([*data, "checkpoint.monitor=val/acc_top5"])
    assert "checkpoint.monitor=val/acc_top5: no such name is logged" in str(error.value)
    assert "val/acc_top5," not in str(error.value)
    compose([*data, "checkpoint.monitor=val/acc_top2", "model.top_k=2"])


@pytest.mark.parametrize("seed", range(5))
def test_the_columns_of_a_class_are_scikit_learns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 6, 30), rng.integers(2, 9, 30)
    support, counted = (np.bincount(values, minlength=9) for values in (labels, predicted))
    correct = np.bincount(labels[labels == predicted], minlength=9)
    counts = [tuple(map(int, one)) for one in zip(support, correct, counted, strict=True)]
    of_all = {"labels": range(9), "average": None, "zero_division": np.nan}
    for column, score, exists in (
        (class_f1, f1_score, support + counted > 0),
        (class_precision, precision_score, counted > 0),
    ):
        own, expected = [column(*one) for one in counts], score(labels, predicted, **of_all)
        assert [value is not None for value in own] == exists.tolist()
        np.testing.assert_allclose([v for v in own if v is not None], expected[exists])
    accuracy = [value for one in counts if (value := class_accuracy(*one)) is not None]
    assert np.mean(accuracy) == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_the_line_of_a_split_has_its_own_numbers_in_the_order_of_the_list() -> None:
    scalars = {
        "val/loss": 0.06249,
        "val/acc_top5": 1.0,
        "val/acc_top1": 0.9856,
        "val/precision_macro": 0.5,
        "val/ece": 0.5,
        "test/acc_top1": 0.1,
        "val/anything": 3.0,
        "epoch": 2.0,
    }
    assert line(scalars, "val") == "top-1 98.6 %   top-5 100.0 %   loss 0.06249"


def test_a_number_that_has_another_name_is_monitored_by_either(own_module) -> None:
    for name, logged in {"acc_balanced": "acc_macro", "recall_weighted": "acc_top1"}.items():
        assert compose([f"checkpoint.monitor=val/{name}"]).checkpoint.monitor == f"val/{name}"
        assert measures.logged_as(f"val/{name}") == f"val/{logged}"
        assert measures.direction(f"val/{name}") == "max"
    assert measures.logged_as("val/ece") == "val/ece"
    path = Path(sys.path[0]) / "my_measures.py"
    path.write_text(OWN.replace('"balanced", l', '"acc_balanced", l'))
    with pytest.raises(ConfigError, match="'acc_balanced'.*belongs to .*macro_accuracy already"):
        compose([f"trusted_packages=[{own_module}]"])


def test_a_share_that_does_not_exist_is_not_0() -> None:
    assert (percent(0.9712), percent(0.0)) == ("97.1 %", "0.0 %")
    assert percent(None) == percent(math.nan) == "n/a"


def test_a_measure_needs_a_direction() -> None:
    with pytest.raises(TypeError, match="best"):
        measure("one", label="one")  # type: ignore[call-arg]
