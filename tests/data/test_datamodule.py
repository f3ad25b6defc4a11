"""The data of a run as Lightning asks for it: splits, loaders of a rank, class weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from clf.batch import PADDING
from clf.data.datamodule import ClassificationDataModule


def on_rank(data: ClassificationDataModule, rank: int, ranks: int) -> ClassificationDataModule:
    place = {"global_rank": rank, "world_size": ranks, "num_devices": ranks}
    on_cpu = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(**place, max_epochs=3, strategy=on_cpu)
    return data


def indices(loader) -> list[int]:
    return [index for batch in loader for index in batch["indices"].tolist()]


def test_class_weights_are_scikit_learns_balanced(folder, config):
    data = ClassificationDataModule(config(folder, class_weights="inverse_frequency"), seed=0)
    labels = data.splits.train.labels
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(data.class_weights(), expected)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999])
def test_effective_number_weights_are_the_papers_with_a_mean_of_1(folder, config, beta):
    settings = {"class_weights": "effective_number", "effective_number_beta": beta}
    data = ClassificationDataModule(config(folder, **settings), seed=0)
    counts = [(data.splits.train.labels == label).sum() for label in range(3)]
    expected = np.array([(1 - beta) / (1 - beta**count) for count in counts])
    np.testing.assert_allclose(data.class_weights(), 3 * expected / expected.sum())
    assert len(set(counts)) > 1


def test_class_shares_are_those_of_the_training_images(folder, config):
    data = ClassificationDataModule(config(folder), seed=0)
    labels = data.splits.train.labels
    assert data.class_shares() == [np.mean(labels == label) for label in range(3)]


def test_class_weights_are_off_unless_asked_for(folder, config):
    assert ClassificationDataModule(config(folder), seed=0).class_weights() is None


def test_classes_are_known_by_name_and_number(folder, config):
    data = ClassificationDataModule(config(folder), seed=0)
    assert data.classes == ["ant", "bee", "cat"]
    assert data.class_to_idx == {"ant": 0, "bee": 1, "cat": 2}
    assert data.num_classes == 3


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_loaders_over_all_ranks_cover_validation_and_test_once(folder, config, ranks):
    for name, count in (("val_dataloader", 9), ("test_dataloader", 6)):
        seen: list[int] = []
        lengths = set()
        for rank in range(ranks):
            data = on_rank(ClassificationDataModule(config(folder), seed=0), rank, ranks)
            loader = getattr(data, name)()
            lengths.add(len(loader))
            seen += indices(loader)
        assert sorted(index for index in seen if index != PADDING) == list(range(count))
        assert len(lengths) == 1


@pytest.mark.parametrize("micro", [None, 1])
def test_training_loaders_over_all_ranks_are_those_of_one_process(folder, config, micro):
    cfg = config(folder, micro_batch_size=micro)
    alone = indices(ClassificationDataModule(cfg, seed=0).train_dataloader())
    parts = [
        indices(on_rank(ClassificationDataModule(cfg, seed=0), rank, 2).train_dataloader())
        for rank in range(2)
    ]
    steps = [sorted(alone[start : start + 4]) for start in range(0, 28, 4)]
    shared = [sorted(parts[0][s : s + 2] + parts[1][s : s + 2]) for s in range(0, 14, 2)]
    assert shared == steps


def test_a_rank_passes_its_micro_batch_and_evaluates_in_the_size_asked_for(folder, config):
    cfg = config(folder, batch_size=8, micro_batch_size=2, eval_batch_size=5)
    data = on_rank(ClassificationDataModule(cfg, seed=0), 0, 2)
    assert data.accumulation(2) == 2
    assert next(iter(data.train_dataloader()))["images"].shape[0] == 2
    assert next(iter(data.val_dataloader()))["images"].shape[0] == 5
    cfg.eval_batch_size = None
    assert next(iter(data.val_dataloader()))["images"].shape[0] == 2


def test_any_split_can_be_evaluated_without_augmentation(folder, config):
    data = ClassificationDataModule(config(folder), seed=0)
    once, again = (list(data.eval_loader("train")) for _ in range(2))
    assert indices(once) == list(range(30))
    assert all(torch.equal(a["images"], b["images"]) for a, b in zip(once, again, strict=True))


def test_a_split_without_images_has_a_loader_without_batches(folder, config, tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).symlink_to(folder / split)
    data = ClassificationDataModule(config(tmp_path), seed=0)
    assert len(data.test_dataloader()) == 0
    assert list(data.test_dataloader()) == []


def test_threads_are_the_ranks_share_of_the_cores_unless_set(folder, config, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    data = on_rank(ClassificationDataModule(config(folder, threads=None), seed=0), 0, 2)
    assert data.train_dataloader().threads == 4
    data.cfg.threads = 3
    assert data.train_dataloader().threads == 3
