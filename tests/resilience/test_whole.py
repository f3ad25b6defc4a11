"""A damaged checkpoint is named, an older whole one takes its place, and the run ends the same."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clf import run
from clf.resilience.checkpoint import find_checkpoint
from clf.resilience.saving import AtomicCheckpointIO
from clf.resilience.whole import best_or_last, check_whole, newest_whole
from clf.run_folder import RunFolder
from tests import tiny


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def flip_a_bit(path: Path) -> None:
    """In the largest tensor, which torch.load reads without a word."""
    content = bytearray(path.read_bytes())
    content[content.index(torch.full((8,), 3.5).numpy().tobytes()) + 5] ^= 4
    path.write_bytes(content)


DAMAGES = [truncate, empty, garbage, flip_a_bit]
each_damage = pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)


def saved(folder: RunFolder, *epochs: int, keep: int = 2) -> None:
    for epoch in epochs:
        content = {"epoch": epoch, "weights": torch.full((5000,), 3.5)}
        AtomicCheckpointIO(keep).save_checkpoint(content, folder.last)


def epoch_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["epoch"]


@each_damage
def test_every_damage_is_found_and_named(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    saved(folder, 1)
    check_whole(folder.last)
    damage(folder.last)
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        check_whole(folder.last)
    with pytest.raises(ValueError, match="last.ckpt is damaged"):
        find_checkpoint(tmp_path)


def test_so_many_of_the_last_stay_as_were_asked_for(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    saved(folder, 1, 2, 3, 4, 5, keep=3)
    assert [epoch_of(path) for path in [folder.last, *folder.replaced]] == [5, 4, 3]
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == [
        "last-1.ckpt",
        "last-2.ckpt",
        "last.ckpt",
    ]


def test_a_save_that_fails_costs_neither_the_last_nor_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path)
    saved(folder, 1, 2)

    def full(content: object, path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        saved(folder, 3)
    assert [epoch_of(path) for path in [folder.last, *folder.replaced]] == [2, 1]


@each_damage
def test_the_newest_whole_one_is_taken_and_the_damaged_ones_are_named(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    assert newest_whole(folder) == (None, [])
    saved(folder, 1, 2, 3, keep=3)
    assert newest_whole(folder) == (folder.last, [])
    damage(folder.last)
    taken, notes = newest_whole(folder)
    assert taken is not None
    assert epoch_of(taken) == 2
    assert [note.split(" is damaged")[0] for note in notes] == [str(folder.last)]
    assert notes[0].endswith("the run goes on from last-1.ckpt")
    for path in folder.replaced:
        damage(path)
    with pytest.raises(ValueError, match="No checkpoint of .* is whole") as error:
        newest_whole(folder)
    assert str(error.value).count("is damaged") == 3


def test_a_best_checkpoint_that_is_damaged_is_said_and_the_last_one_evaluated(
    tmp_path: Path,
) -> None:
    folder = RunFolder(tmp_path)
    saved(folder, 1)
    folder.best.write_bytes(folder.last.read_bytes())
    assert best_or_last(folder) == (folder.best, None)
    flip_a_bit(folder.best)
    path, sentence = best_or_last(folder)
    assert path == folder.last
    assert sentence is not None
    assert "best.ckpt is damaged" in sentence


def test_a_run_whose_last_checkpoint_lost_a_bit_ends_as_if_it_had_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = tiny.config(str(tmp_path / "digits"), limit_batches=12)  # 3 steps an epoch
    tiny.fit(cfg, str(tmp_path / "whole"))
    folder = RunFolder(tmp_path / "run")
    tiny.fit(cfg, str(folder.path), leave_after_step=4)
    content = bytearray(folder.last.read_bytes())
    weights = torch.load(folder.last, weights_only=True)["state_dict"]["network.5.weight"]
    content[content.index(weights.numpy().tobytes()) + 2] ^= 1
    folder.last.write_bytes(content)
    left = folder.checkpoints / f".last.ckpt.{'0a' * 4}.part"
    left.write_bytes(b"half of a checkpoint")
    os.utime(left, (time.time() - 3600,) * 2)
    tiny.fit(cfg, str(folder.path))
    assert not left.exists()
    (note,) = folder.notes
    assert note.startswith(f"{folder.last} is damaged: the checksum of ")
    assert f"note: {note}" in capsys.readouterr().out
    one, other = (
        torch.load(place / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for place in (tmp_path / "whole", folder.path)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run.evaluate(folder.path, progress=False).scalars["test/acc_top1"] > 0
