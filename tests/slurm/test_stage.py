"""data.stage=node: each node copies the data set once, completely or not at all."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from clf.config import RunConfig
from clf.config.faults import is_for_the_user
from clf.data.index import load_splits, survey
from clf.plan import compose, resolve
from slurm import stage as module
from slurm.stage import stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """20 images in two classes."""
    root = tmp_path / "images"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (8, 8), (index * 9, 1, 1)).save(root / name / f"{index}.png")
    return root


def config(root: Path, disk: Path, *more: str) -> RunConfig:
    words = ["data=imagefolder", f"data.root={root}", "data.stage=node", f"data.stage_dir={disk}"]
    return resolve(compose([*words, "data.batch_size=4", *more]))


def content(root: str | Path) -> dict[str, bytes]:
    files = (path for path in Path(root).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_the_run_reads_a_copy_that_is_private_and_the_config_keeps_where_it_came_from(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    staged = stage(config(images, tmp_path / "disk"))
    root = Path(staged.data.root or "")
    assert content(root) == content(images)
    assert (tmp_path / "disk") in root.parents
    assert root.stat().st_mode & 0o077 == 0
    assert staged.data.origin == str(images)
    assert [Path(path).parents[1] for path in load_splits(staged.data).train.paths[:1]] == [root]
    assert "staging: 20 files in" in capsys.readouterr().out


def test_a_second_start_copies_nothing_and_changed_data_is_copied_again(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(images, tmp_path / "disk")
    first = stage(cfg).data.root
    capsys.readouterr()
    assert stage(cfg).data.root == first
    assert "is there already" in capsys.readouterr().out
    Image.new("RGB", (8, 8)).save(images / "cat" / "new.png")
    os.utime(images / "cat", ns=(1, 1))  # whatever the clock's grain
    second = stage(cfg).data.root
    assert second != first
    assert content(second or "") == content(images)


def test_shards_are_copied_as_they_are_and_anew_when_one_has_changed(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "shards").mkdir()
    path = tmp_path / "shards" / "train-0.tar"
    for name in ("cat", "dog"):
        with tarfile.open(path, "a") as file:
            for image in sorted((images / name).iterdir()):
                label = image.with_suffix(".txt")
                label.write_text(name)
                file.add(image, arcname=f"{name}{image.name}")
                file.add(label, arcname=f"{name}{label.name}")
    cfg = config(path.parent, tmp_path / "disk", "data=webdataset")
    staged = stage(cfg).data
    assert load_splits(staged).classes == ["cat", "dog"]
    assert load_splits(staged).train.paths[0].startswith(str(tmp_path / "disk"))
    os.utime(path, ns=(1, 1))
    assert stage(cfg).data.root != staged.root
    with pytest.raises(ValueError, match="train-0.tar is a file; data=webdataset reads all shards"):
        config(path, tmp_path / "disk", "data=webdataset")


@pytest.mark.parametrize("inner", [".", "pictures"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_file_is_unpacked_and_its_classes_are_known_before(
    images: Path, tmp_path: Path, inner: str, mode: str
) -> None:
    path = tmp_path / "images.tar"
    with tarfile.open(path, mode) as file:
        file.add(images, arcname=inner)
    cfg = config(path, tmp_path / "disk")
    names, faults, _ = survey(cfg.data)
    assert faults == []
    assert names == (["cat", "dog"] if mode == "w" else None)
    assert content(stage(cfg).data.root or "") == content(images)


def test_a_tar_file_that_would_write_elsewhere_or_is_none_is_refused(
    images: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as file:
        file.add(images, arcname="images")
        file.add(images / "cat" / "0.png", arcname="../../escaped.png")
    with pytest.raises(ValueError, match="was not copied to .*escaped.png"):
        stage(config(path, tmp_path / "disk"))
    assert not list(tmp_path.rglob("escaped.png"))
    assert not list((tmp_path / "disk").rglob("*.png"))  # whole or not at all
    path.write_text("no tar file")
    with pytest.raises(ValueError, match="cannot be read as a tar file"):
        config(path, tmp_path / "disk")


def test_processes_of_a_node_share_one_copy_and_what_a_killed_one_left_is_gone(
    images: Path, tmp_path: Path
) -> None:
    cfg = config(images, tmp_path / "disk")
    target = Path(stage(cfg).data.root or "")
    target.rename(target.with_name(f".{target.name}.1.part"))  # as one left that was killed
    program = (
        "import sys; from pathlib import Path; from tests.slurm.test_stage import config\n"
        "from slurm.stage import stage\n"
        "print(stage(config(Path(sys.argv[1]), Path(sys.argv[2]))).data.root)"
    )
    command = [sys.executable, "-c", program, str(images), str(tmp_path / "disk")]
    tasks = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in "123"]
    said = [task.communicate(timeout=60)[0] for task in tasks]
    assert {text.splitlines()[-1] for text in said} == {str(target)}
    assert sum("20 files in" in text for text in said) == 1
    assert content(target) == content(images)
    assert not list(target.parent.glob("*.part")) + list(target.parent.glob(".*.part"))


def test_data_that_do_not_fit_on_the_disk_are_reported_before_a_byte_is_copied(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("Usage", (), {"free": 10})()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: full)
    with pytest.raises(ValueError, match="set data.stage_dir to a larger disk") as caught:
        stage(config(images, tmp_path / "disk"))
    assert is_for_the_user(caught.value)
    assert not list((tmp_path / "disk").rglob("*.png"))


def test_generated_images_are_not_staged() -> None:
    with pytest.raises(ValueError, match="data=digits are generated, not copied"):
        compose(["data.stage=node"])
    assert stage(cfg := resolve(compose())) is cfg
