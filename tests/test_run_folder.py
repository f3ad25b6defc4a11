"""The run folder is private and never holds half a file."""

import json
import os
from pathlib import Path

import pytest

from clf.atomic import write_text
from clf.run_folder import RunFolder, read_status
from slurm.snapshot import snapshot_code


def test_others_on_the_machine_cannot_read_a_run(tmp_path):
    folder = RunFolder.create(tmp_path / "runs" / "one")
    for path in (folder.path, folder.checkpoints, folder.per_class, folder.logs, folder.wandb):
        assert path.stat().st_mode & 0o077 == 0, path
    assert RunFolder.create(folder.path) == folder, "a resumed run finds its folder"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "status.json"
    write_text(path, "old")

    def full_disk(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text(path, "new")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("status.json", "old")]


def test_json_stays_readable_for_programs_that_know_no_nan(tmp_path):
    path = tmp_path / "numbers.json"
    RunFolder.write_json(path, {"loss": float("nan"), "in": [1.5, float("inf")], "name": "Zoë"})

    def refuse(name: str) -> None:
        raise AssertionError(name)

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content == {"loss": None, "in": [1.5, None], "name": "Zoë"}


@pytest.mark.parametrize("content", [None, "", '{"state": "run'])
def test_a_missing_or_truncated_status_is_not_an_error(tmp_path, content):
    if content is not None:
        RunFolder(tmp_path).status.write_text(content)
    assert read_status(tmp_path) is None


def checkout(path: Path) -> Path:
    for name in (
        "launch",
        "clf/data",
        "configs/model",
        "slurm",
        "clf/__pycache__",
        "tests",
        ".git",
    ):
        (path / name).mkdir(parents=True)
    for name in ("launch/train.py", "clf/run.py", "configs/model/a.yaml", "pyproject.toml"):
        (path / name).write_text("as submitted")
    for name in ("clf/__pycache__/run.pyc", "clf/.secret", "tests/test_run.py", ".env"):
        (path / name).write_text("not for a job")
    return path


def test_editing_the_checkout_never_changes_a_queued_job(tmp_path):
    source, target = checkout(tmp_path / "checkout"), tmp_path / "run" / "code"
    snapshot_code(source, target)
    (source / "clf" / "run.py").write_text("edited since")
    snapshot_code(source, target)  # the job starts again
    files = {str(p.relative_to(target)): p.read_text() for p in target.rglob("*") if p.is_file()}
    names = ("launch/train.py", "clf/run.py", "configs/model/a.yaml", "pyproject.toml")
    assert files == dict.fromkeys(names, "as submitted")
    assert [p.name for p in target.parent.iterdir()] == ["code"]
