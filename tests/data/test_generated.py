"""The data sets that are made here: digits and jersey, once and whole whoever asks for them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clf.config import DataConfig, JerseyConfig
from clf.data import digits, generated, jersey
from clf.data.index import DataError, data_faults, load_splits

ROOT = Path(__file__).resolve().parents[2]
QUICK = JerseyConfig(images=430, size=16)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# --- digits ---


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("made") / "digits"
    generated.ensure(DataConfig(name="digits", root=str(root)))
    return root


def test_digits_are_all_of_scikit_learns_each_in_one_split_and_labelled_right(digits_root):
    splits = load_splits(DataConfig(name="digits", root=str(digits_root)))
    assert splits.classes == list("0123456789")
    target_N = load_digits().target
    found: dict[int, int] = {}
    for split in (splits.train, splits.val, splits.test):
        found |= {int(Path(p).stem): y for p, y in zip(split.paths, split.labels, strict=True)}
    assert sum(map(len, (splits.train, splits.val, splits.test))) == len(found) == 1797
    assert [found[index] for index in range(1797)] == target_N.tolist()


def test_digits_are_split_evenly_by_class(digits_root):
    splits = load_splits(DataConfig(name="digits", root=str(digits_root)))
    counts_C = np.bincount(load_digits().target)
    np.testing.assert_array_equal(np.bincount(splits.test.labels), np.round(counts_C * 0.2))
    np.testing.assert_array_equal(np.bincount(splits.val.labels), np.round(counts_C * 0.1))
    assert len(splits.train) == digits.train_size(DataConfig(name="digits"))


def test_a_digits_image_shows_the_digit(digits_root):
    path = next((digits_root / "train" / "3").iterdir())
    with Image.open(path) as image:
        assert image.size == (32, 32)
        small_HW = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
    original_HW = load_digits().images[int(path.stem)]
    assert np.corrcoef(small_HW.ravel(), original_HW.ravel())[0, 1] > 0.95


def test_what_is_made_on_first_use_is_known_before(tmp_path):
    for name, classes in (("digits", 10), ("jersey", 43)):
        cfg = DataConfig(name=name, root=str(tmp_path / name), jersey=QUICK)
        names, faults = data_faults(cfg)
        assert (len(names), faults) == (classes, [])
        size = generated.DATASETS[name].train_size(cfg)
        cfg.batch_size = size + 1
        assert f"larger than the training split of {size} images" in data_faults(cfg)[1][0]
        assert not (tmp_path / name).exists()
        cfg.batch_size = size
        splits = load_splits(cfg)
        assert (splits.classes, len(splits.train)) == (names, size)


# --- jersey ---


@pytest.mark.parametrize(("images", "imbalance"), [(430, 30.0), (6000, 30.0), (6000, 1.0)])
def test_jersey_counts_are_the_number_asked_for_with_the_imbalance_asked_for(images, imbalance):
    counts = jersey.class_counts(JerseyConfig(images=images, imbalance=imbalance))
    assert len(counts) == 43
    assert sum(counts.values()) == images
    assert min(counts.values()) >= 5
    if images == 6000:
        assert max(counts.values()) / min(counts.values()) == pytest.approx(imbalance, rel=0.1)


def test_jersey_tail_is_not_always_the_same_numbers():
    rarest = [
        min(counts := jersey.class_counts(JerseyConfig(seed=seed)), key=counts.__getitem__)
        for seed in range(5)
    ]
    assert len(set(rarest)) > 1


def test_jersey_files_are_the_same_however_many_processes_render_them(tmp_path):
    cfg = DataConfig(name="jersey", jersey=QUICK)
    for processes in (1, 3):
        jersey.write(cfg, tmp_path / str(processes), processes)
    one = files(tmp_path / "1")
    assert one == files(tmp_path / "3")
    assert len(one) == len(set(one.values())) == 430
    classes = {
        split: {p.name for p in (tmp_path / "1" / split).iterdir()}
        for split in ("train", "val", "test")
    }
    assert all(names == {"0", "00", *map(str, range(1, 42))} for names in classes.values())
    with Image.open(next((tmp_path / "1/train/00").iterdir())) as image:
        assert image.format == "JPEG"
        assert image.size[1] == 16


def test_another_seed_gives_other_pictures():
    tasks = [next(jersey._tasks(JerseyConfig(seed=seed), Path())) for seed in (0, 1)]
    assert tasks[0].seed != tasks[1].seed


# --- made once, and whole ---


def test_several_processes_at_once_make_one_whole_folder(tmp_path):
    cfg = DataConfig(name="jersey", root=str(tmp_path / "made"), jersey=QUICK)
    program = (
        "from clf.config import DataConfig, JerseyConfig\n"
        "from clf.data import generated\n"
        "write = generated.jersey.write\n"
        "generated.jersey.write = lambda *args: (print('writes'), write(*args))\n"
        f"generated.ensure(DataConfig(name='jersey', root={cfg.root!r}, "
        "jersey=JerseyConfig(images=430, size=16)))"
    )
    command = [sys.executable, "-c", program]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert "".join(outputs).count("writes") == 1
    assert len(files(tmp_path / "made")) == 431
    assert {path.name for path in tmp_path.iterdir()} == {"made", ".made.lock"}


def test_a_kill_in_the_middle_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    cfg = DataConfig(name="digits", root=str(tmp_path / "made"))

    def half(cfg: DataConfig, folder: Path) -> None:
        (folder / "train" / "0").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(digits, "write", half)
        with pytest.raises(KeyboardInterrupt):
            generated.ensure(cfg)
    assert not (tmp_path / "made").exists()
    generated.ensure(cfg)
    assert len(files(tmp_path / "made")) == 1798


def test_a_folder_with_other_files_is_neither_read_nor_written(tmp_path):
    (tmp_path / "thesis.txt").touch()
    cfg = DataConfig(name="digits", root=str(tmp_path))
    with pytest.raises(DataError, match="holds other files than data=digits makes; give a new"):
        load_splits(cfg)
    assert "holds other files" in data_faults(cfg)[1][0]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_made_with_other_settings_is_told_apart(digits_root):
    cfg = DataConfig(name="digits", root=str(digits_root), split_seed=5)
    with pytest.raises(DataError, match='made with other settings, .*"split_seed": 0.* in place'):
        load_splits(cfg)


def test_settings_that_change_the_images_change_the_default_folder():
    folders = {
        generated.folder(DataConfig(name="jersey", jersey=JerseyConfig(**change)))
        for change in ({}, {"images": 500}, {"seed": 1}, {"size": 64}, {"imbalance": 2.0})
    }
    assert len(folders) == 5
    assert generated.folder(DataConfig(name="jersey", batch_size=8)) in folders


def test_a_place_that_cannot_be_written_is_told_with_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    cfg = DataConfig(name="digits", root=str(tmp_path / "file" / "digits"))
    with pytest.raises(DataError, match=r"cannot be written \(.*\); set data.root=FOLDER to make"):
        generated.ensure(cfg)


def test_the_record_says_what_was_made(digits_root):
    record = json.loads((digits_root / generated.RECORD).read_text())
    assert record == {"name": "digits", "version": digits.VERSION, "split_seed": 0}


def test_without_the_typefaces_the_extra_that_has_them_is_named(tmp_path, monkeypatch):
    """Found before a job is queued, and by whoever makes the images."""
    monkeypatch.setattr(jersey, "FONT_PACKAGES", ("font_roboto", "font_that_is_not_here"))
    cfg = DataConfig(name="jersey", root=str(tmp_path / "jersey"))
    _, faults = data_faults(cfg)
    assert len(faults) == 1
    assert faults[0].endswith("not installed; pip install font-that-is-not-here")
    with pytest.raises(DataError, match="typefaces that it draws with are not installed"):
        generated.ensure(cfg)
    assert data_faults(DataConfig(name="digits", root=str(tmp_path / "digits")))[1] == []
