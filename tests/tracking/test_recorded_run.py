"""A whole run with W&B offline, read back: what the dashboard gets without being asked."""

import csv
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from clf import run
from clf.atomic import private_files
from clf.config import TrackingConfig
from clf.predictions import Predictions
from clf.run_folder import RunFolder
from clf.tracking.charts import MOST_CLASSES, OTHERS, evaluation_charts, per_class_table
from clf.tracking.tables import PerClassRow
from tests import tiny
from tests.tracking.recording import offline_runs, records

FAST = {"learning_rate": 0.02, "warmup_epochs": 0}
COMMIT = {"commit": "c0ffee" * 6 + "c0ff", "changed": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    """Two epochs of a few steps, and the final test."""
    place = tmp_path_factory.mktemp("recorded")
    folder = RunFolder.create(place / "runs" / "one")
    with private_files():
        folder.write_json(folder.commit, COMMIT)
    cfg = tiny.config(str(place / "digits"), limit_batches=40, model=FAST)
    cfg.tracking = TrackingConfig(mode="offline", log_every=1, checkpoints="best")
    # An earlier test that put the environment back may have put back W&B's process of then, too.
    os.environ.pop("WANDB_SERVICE", None)
    before = os.umask(0o022)  # what a shell has
    with patch("os.fsync"):
        run.fit(cfg, folder.path, progress=False, job="77")
    assert os.umask(before) == 0o022, "the rest of the program is the caller's"
    return folder


@pytest.fixture(scope="module")
def recorded(folder) -> list[dict[str, Any]]:
    (start,) = offline_runs(folder)
    return records(start)


def test_every_file_of_the_run_is_private_by_itself(folder):
    """A folder that is opened to others later, or copied, shows none of them."""
    paths = [path for path in folder.path.rglob("*") if not path.is_symlink()]
    assert {path.suffix for path in paths} >= {".ckpt", ".csv", ".json", ".npz", ".jpg", ".wandb"}
    open_to_others = [
        f"{path.relative_to(folder.path)} {path.stat().st_mode & 0o777:o}"
        for path in (folder.path, *paths)
        if path.stat().st_mode & 0o077
    ]
    assert open_to_others == []


def test_commit_and_job_are_part_of_the_config(recorded):
    (begin,) = (record["run"] for record in recorded if record["type"] == "run")
    config = begin["config"]["update"]
    about = {name: config[name] for name in ("git_commit", "git_changed", "job_id")}
    assert about == {"git_commit": COMMIT["commit"], "git_changed": True, "job_id": "77"}


def test_the_gradient_norm_and_the_waiting_share_are_curves(recorded):
    rows = [record["history"]["item"] for record in recorded if record["type"] == "history"]
    for name in ("train/grad_norm", "train/waiting_share", "train/images_per_second"):
        steps = [row["trainer/global_step"] for row in rows if name in row]
        assert steps == list(range(20)), name


def table(folder: RunFolder, name: str) -> list[dict[str, Any]]:
    """The rows of the last table of a name."""
    files = offline_runs(folder)[0].glob(f"files/media/table/{name}_*.json")
    last = max(files, key=lambda path: int(path.name.rsplit("_", 2)[1]))
    content = json.loads(last.read_text())
    return [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]


def per_class(folder: RunFolder, name: str) -> list[dict[str, str]]:
    with (folder.per_class / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def predictions(folder) -> Predictions:
    return Predictions.read(folder.predictions_of("test"))


def test_the_validation_table_says_what_changed_since_the_epoch_before(folder):
    first, second = (per_class(folder, f"val_epoch00{epoch}.csv") for epoch in (1, 2))
    assert "delta" not in first[0], "the files of two epochs give it"
    rows = table(folder, "val/per_class")
    assert [*rows[0]] == ["class", "support", "correct", "accuracy", "delta", "predicted",
                          "precision", "recall", "f1"]  # fmt: skip
    changes = [
        float(now["accuracy"]) - float(before["accuracy"])
        for before, now in zip(first, second, strict=True)
    ]
    assert any(changes)
    assert [row["delta"] for row in rows] == pytest.approx(changes)
    assert "delta" not in table(folder, "test/per_class")[0], "it is of the best epoch's weights"


def test_the_confusion_matrix_is_that_of_the_final_evaluation(folder, predictions):
    rows = table(folder, "test/confusion_matrix_table")
    C = len(predictions.classes)
    expected = np.zeros((C, C))
    for label, predicted in zip(predictions.labels_N, predictions.predicted_N, strict=True):
        expected[label, predicted] += 1
    found = [[row["Actual"], row["Predicted"], row["nPredictions"]] for row in rows]
    names = predictions.classes
    assert found == [[names[i], names[j], expected[i, j]] for i in range(C) for j in range(C)]


def test_the_bars_are_the_accuracies_of_the_table_worst_first(folder):
    expected = {
        row["class"]: float(row["accuracy"] or "nan") for row in per_class(folder, "test.csv")
    }
    rows = table(folder, "test/class_accuracy_table")
    assert [row["accuracy"] for row in rows] == sorted(row["accuracy"] for row in rows)
    assert {row["class"]: row["accuracy"] for row in rows} == pytest.approx(
        {name: accuracy for name, accuracy in expected.items() if accuracy == accuracy}
    )


def test_the_calibration_line_is_accuracy_over_confidence(folder, predictions):
    confidence, points = predictions.confidence_N, []
    for m in range(15):
        within = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if within.any():
            right = (predictions.labels_N == predictions.predicted_N)[within]
            points.append([confidence[within].mean(), right.mean()])
    rows = table(folder, "test/calibration_table")
    own = [[row["step"], row["lineVal"]] for row in rows if row["lineKey"] == "this run"]
    np.testing.assert_allclose(own, points, atol=1e-6)


def test_the_pictures_are_of_what_the_network_was_most_surely_wrong_about(recorded, predictions):
    rows = [record["history"]["item"] for record in recorded if record["type"] == "history"]
    (logged,) = [row for row in rows if "test/worst_pictures.captions" in row]
    names = predictions.classes
    wrong = [
        (-confidence, f"{names[label]} taken for {names[predicted]}", name)
        for label, predicted, confidence, name in zip(
            predictions.labels_N, predictions.predicted_N,
            predictions.confidence_N, predictions.images, strict=True,
        )
        if label != predicted
    ]  # fmt: skip
    captions = logged["test/worst_pictures.captions"]
    assert len(captions) == min(24, len(wrong))
    for caption, (_, words, name) in zip(
        captions, sorted(wrong, key=lambda one: one[0]), strict=False
    ):
        assert caption.startswith(words)
        assert caption.endswith(Path(name).name)


def test_the_best_checkpoint_is_an_artifact_that_a_later_upload_takes_from_its_place(
    recorded, folder
):
    artifacts = [record["artifact"] for record in recorded if record["type"] == "artifact"]
    (model,) = [artifact for artifact in artifacts if artifact["name"].startswith("model-")]
    (file,) = model["manifest"]["contents"]
    assert (file["path"], file["local_path"]) == ("best.ckpt", str(folder.best))


def test_of_many_classes_the_most_confused_are_shown_and_every_image_counts(tmp_path):
    C, N = 200, 3000
    draw = np.random.default_rng(3)
    labels_N = draw.integers(0, C, N)
    predicted_N = np.where(draw.random(N) < 0.9, labels_N, draw.integers(0, C, N))
    labels_N[:500], predicted_N[:500] = 150, 7
    some = Predictions(
        "val", [f"c{c}" for c in range(C)], [f"{n}.jpg" for n in range(N)], np.arange(N),
        labels_N, predicted_N, np.full((N, C), 1 / C, np.float32),
    )  # fmt: skip
    charts = evaluation_charts(some, tmp_path)
    assert "val/worst_pictures" not in charts, "there are no pictures"
    cells = charts["val/confusion_matrix"].table.data
    assert len(cells) == MOST_CLASSES**2
    assert sum(count for _, _, count in cells) == N
    assert max(cells, key=lambda cell: cell[2] * (cell[0] != cell[1]))[:2] == ["c150", "c7"]
    assert {OTHERS, "c7", "c150"} <= {label for label, _, _ in cells}
    assert len(charts["val/class_accuracy"].table.data) == MOST_CLASSES


def test_the_table_of_several_nodes_has_their_counts_too():
    def row(correct: int) -> PerClassRow:
        return PerClassRow("owl", 8, correct, 7, {"n1": (4, 1), "n2": (4, correct - 1)})

    table = per_class_table([row(4), PerClassRow("new", 0, 0, 0, row(4).nodes)], [row(2)])
    assert table.columns[3:5] == ["accuracy", "delta"]
    assert table.columns[-4:] == ["support/n1", "correct/n1", "support/n2", "correct/n2"]
    assert table.data[0] == ["owl", 8, 4, 0.5, 0.25, 7, 4 / 7, 0.5, 8 / 15, 4, 1, 4, 3]
    assert table.data[1][3:5] == [None, None]
