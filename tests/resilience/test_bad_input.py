"""What a start meets in its run folder and must not take: it is named in a sentence, and nothing is
lost."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from clf import run
from clf.config import ConfigError, RunConfig
from clf.config.saved import load, save
from clf.run_folder import RunFolder
from slurm.job import Job
from tests import tiny


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return tiny.config(str(tmp_path_factory.mktemp("digits")), limit_batches=4, epochs=1)


@pytest.fixture(scope="module")
def begun(cfg: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first epoch."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    tiny.fit(replace(cfg, epochs=2, name="mine"), str(folder), stop_after=0)
    return folder


@pytest.fixture
def mine(begun: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(begun, tmp_path / "mine")))


def content(folder: RunFolder) -> dict[Path, bytes]:
    """Of the files that a run would lose."""
    files = [*folder.checkpoints.iterdir(), folder.metrics_csv, *folder.per_class.iterdir()]
    return {path: path.read_bytes() for path in files}


def test_a_checkpoint_of_another_run_is_refused(
    cfg: RunConfig, mine: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "other")
    tiny.fit(replace(cfg, seed=5, name="other"), str(other.path))
    shutil.copy(other.last, mine.last)
    before = content(mine)
    with pytest.raises(ValueError, match=r"last.ckpt is of another run: .*, other\. Nothing was"):
        run.fit(replace(cfg, epochs=2), mine.path, progress=False)
    assert content(mine) == before
    mine.run_id.unlink()  # whoever deletes it says that the checkpoint is right
    scalars = run.fit(replace(cfg, epochs=2, seed=5), mine.path, progress=False)
    assert "test/loss" in scalars
    assert mine.run_id.read_text() == other.run_id.read_text()


def test_a_checkpoint_of_another_network_or_other_classes_is_refused(
    cfg: RunConfig, mine: RunFolder, tmp_path: Path
) -> None:
    before = content(mine)
    wider = replace(cfg, epochs=2, model=replace(cfg.model, _target_="tests.tiny.Wider"))
    with pytest.raises(ValueError, match=r"last.ckpt has the weights of another network, tests"):
        run.fit(wider, mine.path, progress=False)
    assert content(mine) == before
    jersey = replace(cfg.data, name="imagefolder", root=str(tmp_path / "two"))
    for name in ("owl", "toad"):
        made(tmp_path / "two" / name)
    with pytest.raises(ValueError, match="class"):
        run.fit(replace(cfg, epochs=2, data=jersey), mine.path, progress=False)
    assert content(mine) == before


def made(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def test_a_run_folder_without_a_config_names_the_file(
    mine: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slurm.submitit_adapter.is_local", lambda: False)
    monkeypatch.setattr("slurm.job.END_S", 3600)  # after which it ends this process
    monkeypatch.setattr("slurm.job.export_ranks", lambda: 0)
    before = content(mine)
    with pytest.raises(ConfigError, match=r"mine/config.yaml: cannot be read: .*No such file"):
        Job(str(mine.path))()
    assert content(mine) == before


def test_a_config_that_was_edited_by_hand_is_checked_and_its_changes_are_noted(
    cfg: RunConfig, mine: RunFolder
) -> None:
    save(replace(cfg, epochs=2), mine.config)
    text, before = mine.config.read_text(), content(mine)
    mine.config.write_text(text.replace("batch_size: 32", "batch_sise: 32"))
    with pytest.raises(ConfigError, match=r"data.batch_sise.*data.batch_size"):
        load(mine.config)
    assert content(mine) == before
    mine.config.write_text(text.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    run.fit(load(mine.config), mine.path, progress=False)
    (note,) = [line for line in mine.notes if line.startswith("model.learning_rate")]
    assert "the last checkpoint was written with 0.001; the run goes on with 0.002" in note
