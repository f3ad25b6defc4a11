"""`checkpoint.keep_top` and `checkpoint.every_epochs`: what is left of a run, whole or killed.

The number that judges is one that the model declares and logs itself, so its values are known.
"""

import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from clf.resilience.saving import AtomicCheckpointIO
from clf.run import evaluate
from tests import tiny

SCORES = [0.1, 0.5, 0.3, 0.4, 0.9, 0.5, 0.6]  # of the epochs, the first of which is 1
TOP = {5, 7, 2}  # of two equal ones the earlier
EVERY = {3, 6}


class Scored(tiny.TinyModel):
    logs: ClassVar[dict[str, str]] = {"val/mine": "max", "val/never": "min"}

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val/mine", SCORES[self.current_epoch])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("kept") / "digits")


def config(root: str, epochs: int = len(SCORES), **checkpoint: Any) -> Any:
    cfg = tiny.config(root, epochs=epochs, limit_batches=4)
    cfg.model._target_ = "tests.resilience.test_kept.Scored"
    settings = {"monitor": "val/mine", "keep_top": 3, "every_epochs": 3, **checkpoint}
    vars(cfg.checkpoint).update(settings)
    return cfg


@pytest.fixture(scope="module")
def whole(root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny.fit(config(root), str(folder))
    return folder / "checkpoints"


def content(folder: Path) -> dict[str, Any]:
    files = sorted(folder.iterdir())
    return {path.name: torch.load(path, weights_only=True) for path in files}


def test_the_best_and_those_of_every_third_epoch_stay(whole: Path) -> None:
    epochs = {name: one["epoch"] + 1 for name, one in content(whole).items()}
    expected = {f"top-epoch{epoch:03d}.ckpt": epoch for epoch in TOP}
    expected |= {f"epoch{epoch:03d}.ckpt": epoch for epoch in EVERY}
    assert epochs == {**expected, "best.ckpt": 5, "last.ckpt": 7, "last-1.ckpt": 6}
    assert (whole / "best.ckpt").samefile(whole / "top-epoch005.ckpt"), "one file, not two"
    second = evaluate(whole / "top-epoch002.ckpt", progress=False)
    assert second.scalars["test/loss"] > 0


# After each of these files is written, the process is gone.
KILLS = [
    ("top-epoch003.ckpt", 3),
    ("best.ckpt", 5),  # before it has its second name
    ("last.ckpt", 5),  # before what is not among the best any more is deleted
    ("epoch006.ckpt", 6),
]


@pytest.mark.parametrize(("file", "epoch"), KILLS)
def test_a_kill_loses_no_checkpoint_and_leaves_none_twice(
    root: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, epoch: int
) -> None:
    save = AtomicCheckpointIO.save_checkpoint

    def killed(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        save(self, checkpoint, path, storage_options)
        if Path(path).name == file and checkpoint["epoch"] + 1 == epoch:
            raise tiny.Stopped

    with monkeypatch.context() as patch:
        patch.setattr(AtomicCheckpointIO, "save_checkpoint", killed)
        assert "scalars" not in tiny.fit(config(root), str(tmp_path))
    tiny.fit(config(root), str(tmp_path))
    found, expected = content(tmp_path / "checkpoints"), content(whole)
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        for key, value in one["state_dict"].items():
            assert torch.equal(found[name]["state_dict"][key], value), (name, key)


def test_a_best_checkpoint_that_a_killed_epoch_replaced_comes_back(
    root: str, tmp_path: Path
) -> None:
    """On a GPU the epoch that is done again may end with another, lower value."""
    tiny.fit(config(root, epochs=2), str(tmp_path))
    folder = tmp_path / "checkpoints"
    shutil.copyfile(folder / "last.ckpt", tmp_path / "other.ckpt")
    (tmp_path / "other.ckpt").replace(folder / "best.ckpt")
    (folder / "top-epoch009.ckpt").touch()  # of an epoch that is not done yet
    tiny.fit(config(root, epochs=4), str(tmp_path))
    names = {"best.ckpt", "last.ckpt", "last-1.ckpt", "epoch003.ckpt"}
    names |= {f"top-epoch{epoch:03d}.ckpt" for epoch in (2, 3, 4)}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "best.ckpt").samefile(folder / "top-epoch002.ckpt")


def test_a_run_of_an_older_version_goes_on_with_its_best_value(
    root: str, tmp_path: Path, whole: Path
) -> None:
    tiny.fit(config(root, epochs=2, keep_top=1, every_epochs=None), str(tmp_path))
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    (key,) = (key for key in checkpoint["callbacks"] if "val/mine" in key)
    assert key.startswith("ModelCheckpoint{")
    for name in ("scores", "best_epoch"):
        del checkpoint["callbacks"][key][name]
    torch.save(checkpoint, last)
    tiny.fit(config(root, epochs=4), str(tmp_path))
    found = content(tmp_path / "checkpoints")
    assert found["best.ckpt"]["epoch"] + 1 == 2
    assert {"top-epoch003.ckpt", "top-epoch004.ckpt"} < found.keys()


def test_another_number_of_the_best_takes_the_place_of_no_better_one(
    root: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    for epochs, keep, tops in ((2, 3, (1, 2)), (5, 1, ()), (6, 3, (6,))):
        tiny.fit(config(root, epochs=epochs, keep_top=keep, every_epochs=None), str(tmp_path))
        names = {
            "best.ckpt",
            "last.ckpt",
            "last-1.ckpt",
            *(f"top-epoch{epoch:03d}.ckpt" for epoch in tops),
        }
        assert {path.name for path in folder.iterdir()} == names
    assert content(folder)["best.ckpt"]["epoch"] + 1 == 5


def test_a_run_that_was_moved_keeps_its_best_checkpoint(root: str, tmp_path: Path) -> None:
    tiny.fit(config(root, epochs=5, keep_top=1), str(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    tiny.fit(config(root, epochs=6, keep_top=1), str(tmp_path / "there"))
    assert content(tmp_path / "there" / "checkpoints")["best.ckpt"]["epoch"] + 1 == 5


class ScoredByRank(Scored):
    """Not added up over the ranks, and so another number on each."""

    def on_validation_epoch_end(self) -> None:
        tiny.TinyModel.on_validation_epoch_end(self)
        value = SCORES[self.current_epoch] * (-1) ** self.global_rank
        self.log("val/mine", value, sync_dist=False)


def test_ranks_that_disagree_save_together_what_rank_0_decides(
    root: str, tmp_path: Path, ranks: Any
) -> None:
    """A rank alone in a save would wait for ever."""
    cfg = config(root, epochs=4, keep_top=2, every_epochs=None)
    cfg.gpus, cfg.limit_batches = 2, 2
    cfg.model._target_ = "tests.resilience.test_kept.ScoredByRank"
    ranks(2).run(tiny.fit, cfg, str(tmp_path))
    # Lightning takes an epoch for the best where all ranks do, which is the first alone.
    expected = {"best.ckpt", "last.ckpt", "last-1.ckpt", "top-epoch001.ckpt", "top-epoch002.ckpt"}
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == expected


@pytest.mark.parametrize("patience", [None, 2])
def test_a_number_that_is_declared_and_never_logged_is_named(
    root: str, tmp_path: Path, patience: int | None
) -> None:
    cfg = config(root, monitor="val/never")
    cfg.early_stopping.patience = patience
    with pytest.raises(ValueError, match="monitor=val/never: the model has not logged it in this"):
        tiny.fit(cfg, str(tmp_path))


def test_early_stopping_follows_a_number_that_the_model_declares(root: str, tmp_path: Path) -> None:
    cfg = config(root)
    cfg.early_stopping.patience = 2
    seen = tiny.fit(cfg, str(tmp_path))
    assert seen["scalars"]["val/mine"] == pytest.approx(SCORES[3]), "the best was two epochs before"
    assert not (tmp_path / "checkpoints" / "top-epoch005.ckpt").exists()
