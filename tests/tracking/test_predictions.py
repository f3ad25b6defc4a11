"""The predictions that a run leaves: those of every image of its final evaluation, once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from sklearn.metrics import confusion_matrix

from clf import run
from clf.batch import PADDING
from clf.data.datamodule import ClassificationDataModule
from clf.predictions import UNKNOWN, Predictions
from clf.run_folder import RunFolder
from clf.tracking.predictions import KeepPredictions
from tests import tiny


def some(**others: Any) -> Predictions:
    values: dict[str, Any] = {
        "split": "test",
        "classes": ["a\nb", "caf\udce9", "<script>"],  # the second is no UTF-8
        "images": ["x/1.jpg", "y \t/\udce9.jpg", "2", "ünï.png"],
        "indices_N": np.array([0, 1, 4, 7]),
        "labels_N": np.array([0, 2, UNKNOWN, 1]),
        "predicted_N": np.array([0, 1, 1, 1]),
        "probabilities_NC": np.eye(3, dtype=np.float32)[[0, 1, 1, 1]] * np.float32(0.9),
    }
    return Predictions(**values | others)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    some().write(tmp_path / "new" / "test.npz")
    found = Predictions.read(tmp_path / "new" / "test.npz")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["test.npz"]
    for name, value in vars(some()).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
        assert type(getattr(found, name)) is type(value)
    assert found.probabilities_NC.dtype == np.float32


def test_the_confusion_counts_images_whose_class_is_known() -> None:
    known = [0, 2, 1], [0, 1, 1]
    expected = confusion_matrix(*known, labels=[0, 1, 2])
    counts, spans = some().confusion(most=3)
    np.testing.assert_array_equal(counts, expected)
    assert spans == [[0, 1], [1, 2], [2, 3]]
    support, correct, predicted = some().class_counts()
    np.testing.assert_array_equal(support, expected.sum(axis=1))
    np.testing.assert_array_equal(correct, expected.diagonal())
    np.testing.assert_array_equal(predicted, expected.sum(axis=0))


def test_a_confusion_of_many_classes_adds_up_neighbours_and_never_counts_all_pairs() -> None:
    classes, images = 200_000, 1_000  # all pairs would take 320 GB
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, classes, (2, images))
    predictions = replace(some(), classes=["one"] * classes, labels_N=labels, predicted_N=predicted)
    counts, spans = predictions.confusion(most=50)
    np.testing.assert_array_equal(counts, confusion_matrix(labels // 4_000, predicted // 4_000))
    assert spans[1] == [4_000, 8_000]
    assert predictions.class_counts()[0].sum() == images


@pytest.mark.parametrize("damage", [b"", b"no NumPy file", None], ids=["empty", "text", "cut"])
def test_a_damaged_file_is_named_with_what_to_do(damage: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "test.npz"
    some().write(path)
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(ValueError, match="not a whole file of predictions .*evaluate.py") as error:
        Predictions.read(path)
    assert str(path) in str(error.value)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("predictions") / "digits"
    ClassificationDataModule(tiny.config(str(root)).data, 0).prepare_data()
    return root


@pytest.mark.parametrize("split", ["test", "val"])
def test_a_run_leaves_the_predictions_of_its_final_evaluation(
    split: str, digits: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    (tmp_path / "images").mkdir()
    for name in {"train", "val", split}:
        (tmp_path / "images" / name).symlink_to(digits / name)
    images = {"name": "imagefolder", "root": str(tmp_path / "images")}
    cfg = tiny.config("", data=images, epochs=1)
    scalars = run.fit(cfg, tmp_path / "run", progress=False)
    files = sorted((tmp_path / "run" / "predictions").glob("*.npz"))
    assert files == [RunFolder(tmp_path / "run").predictions_of(split)]
    found = Predictions.read(files[0])
    splits = ClassificationDataModule(cfg.data, cfg.seed).splits
    ours = getattr(splits, split)
    assert (found.split, found.classes, found.images) == (split, splits.classes, ours.paths)
    np.testing.assert_array_equal(found.indices_N, np.arange(len(ours)))
    np.testing.assert_array_equal(found.labels_N, ours.labels)
    np.testing.assert_allclose(found.probabilities_NC.sum(axis=1), 1, rtol=1e-5)
    right = (found.predicted_N == found.labels_N).mean()
    assert right == pytest.approx(scalars[f"{split}/acc_top1"], rel=1e-6)


def test_a_model_that_returns_no_logits_is_tested_all_the_same(
    digits: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    class Silent(tiny.TinyModel):
        def test_step(self, batch: Any, batch_idx: int) -> Any:
            super().test_step(batch, batch_idx)

    keep = KeepPredictions([str(digit) for digit in range(10)], RunFolder(tmp_path / "run"))
    data = ClassificationDataModule(tiny.config(str(digits)).data, 0)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    Trainer(accelerator="cpu", callbacks=[keep], **quiet).test(
        Silent(10), datamodule=data, verbose=False
    )
    assert keep.predictions is None
    assert not (tmp_path / "run").exists()
    assert any("does not return logits [B, C]" in str(one.message) for one in recwarn)


def test_rows_that_fill_up_a_batch_are_no_images() -> None:
    keep = KeepPredictions(["a", "b"])
    batch: Any = {
        "indices": torch.tensor([3, PADDING, 1]),
        "labels": torch.tensor([0, PADDING, 1]),
    }
    keep._take(torch.eye(3, 2), batch)
    assert [one.tolist() for one in keep._parts[0][:2]] == [[3, 1], [0, 1]]
