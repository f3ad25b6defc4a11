"""A kill or a full disk during a save must leave the previous checkpoint whole."""

from types import SimpleNamespace

import pytest
import torch

from clf.config import RunConfig
from clf.resilience.checkpoint import (
    RunRecord,
    find_checkpoint,
    read_checkpoint,
)
from clf.resilience.saving import AtomicCheckpointIO
from clf.run_folder import RunFolder


def test_a_save_that_fails_half_way_leaves_the_old_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)

    def disk_full(content, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space left"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2}, path)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_run_folder_gives_its_best_checkpoint_before_its_last(tmp_path):
    with pytest.raises(ValueError, match="expected a checkpoint file, or a run folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name in ("last.ckpt", "best.ckpt"):
        torch.save({}, tmp_path / "checkpoints" / name)
        assert find_checkpoint(tmp_path).name == name


def test_a_foreign_or_damaged_checkpoint_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="foreign.ckpt was not saved by a run of clf"):
        read_checkpoint(tmp_path / "foreign.ckpt")
    (tmp_path / "damaged.ckpt").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="damaged.ckpt cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "damaged.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="text.ckpt cannot be read as a checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match="list.ckpt was not saved by a run of clf"):
        read_checkpoint(tmp_path / "list.ckpt")


def test_a_checkpoint_of_a_newer_version_says_which_version_is_needed(tmp_path):
    torch.save({"clf": {"format": 2}}, tmp_path / "new.ckpt")
    with pytest.raises(ValueError, match=r"new.ckpt was written by a newer version .*format 2"):
        read_checkpoint(tmp_path / "new.ckpt")


def test_a_checkpoint_that_would_run_code_is_refused_in_a_sentence(tmp_path):
    class Code:
        def __reduce__(self):
            return (tmp_path / "was_run").touch, ()

    torch.save({"clf": {}, "more": Code()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt was not read: .* could run code") as error:
        read_checkpoint(tmp_path / "evil.ckpt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "was_run").exists()


def test_a_checkpoint_names_the_data_set_itself_and_not_the_copy_on_a_lost_node(tmp_path) -> None:
    cfg = RunConfig()
    cfg.data.root, cfg.data.origin = "/node/disk/images-0f", "/shared/images"
    checkpoint: dict = {}
    RunRecord(cfg, {}, RunFolder.create(tmp_path)).on_save_checkpoint(
        SimpleNamespace(accumulate_grad_batches=1, max_epochs=3, estimated_stepping_batches=60),
        None,
        checkpoint,
    )
    recorded = checkpoint["clf"]["config"]["data"]
    assert (recorded["root"], recorded["origin"]) == ("/shared/images", None)
    assert cfg.data.root == "/node/disk/images-0f"
    written_with = {"epochs": 3, "steps_per_epoch": 20, "accumulation": 1}
    assert written_with.items() <= checkpoint["clf"].items()
