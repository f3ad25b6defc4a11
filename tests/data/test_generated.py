"""The generated data sets, digits and jersey, are written once and completely."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from clf.config import DataConfig
from clf.config.registry import node_schema
from clf.data import digits, generated, jersey
from clf.data.index import DataError, load_splits, survey
from clf.plan import compose

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"images": 430, "pixels": 16}


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def jersey_config(**settings) -> DataConfig:
    """A config of data=jersey with the reader's own settings."""
    return node_schema("data", {"name": "jersey"})(name="jersey", **settings)


# --- digits ---


@pytest.fixture(scope="module")
def digits_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("generated") / "digits"
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
    assert len(splits.train) == digits.train_size()


def test_a_digits_image_shows_the_digit(digits_root):
    path = next((digits_root / "train" / "3").iterdir())
    with Image.open(path) as image:
        assert image.size == (32, 32)
        small_HW = np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=float)
    original_HW = load_digits().images[int(path.stem)]
    assert np.corrcoef(small_HW.ravel(), original_HW.ravel())[0, 1] > 0.95


@pytest.mark.parametrize(("name", "classes"), [("digits", 10), ("jersey", 43)])
def test_what_is_generated_on_first_use_is_known_before(tmp_path, name, classes):
    cfg = jersey_config(root=str(tmp_path / name), **QUICK)
    cfg.name = name
    names, faults, _ = survey(cfg)
    assert (len(names), faults) == (classes, [])
    _, size = generated.preview(cfg)
    cfg.batch_size = size + 1
    assert f"larger than the training split of {size} images" in survey(cfg)[1][0]
    assert not (tmp_path / name).exists()
    cfg.batch_size = size
    splits = load_splits(cfg)
    assert (splits.classes, len(splits.train)) == (names, size)


# --- jersey ---


@pytest.mark.parametrize(("images", "imbalance"), [(430, 30.0), (6000, 30.0), (6000, 1.0)])
def test_jersey_counts_are_the_number_asked_for_with_the_imbalance_asked_for(images, imbalance):
    counts = jersey.class_counts(images, imbalance, render_seed=0)
    assert len(counts) == 43
    assert sum(counts.values()) == images
    assert min(counts.values()) >= 5
    if images == 6000:
        assert max(counts.values()) / min(counts.values()) == pytest.approx(imbalance, rel=0.1)


def test_jersey_tail_is_not_always_the_same_numbers():
    rarest = [
        min(counts := jersey.class_counts(6000, 30.0, seed), key=counts.__getitem__)
        for seed in range(5)
    ]
    assert len(set(rarest)) > 1


def test_jersey_files_are_the_same_however_many_processes_render_them(tmp_path):
    counts = jersey.class_counts(430, 30.0, 0)
    for processes in (1, 3):
        tasks = list(jersey._tasks(tmp_path / str(processes), counts, 0))
        jersey.render(tasks, 16, processes)
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
    tasks = [next(jersey._tasks(Path(), {"7": 5}, seed)) for seed in (0, 1)]
    assert tasks[0].seed != tasks[1].seed


def test_the_renderers_settings_are_those_of_its_reader_alone(tmp_path):
    root = f"data.root={tmp_path / 'images'}"
    data = compose(["data=jersey", root, "data.images=500", "data.render_seed=3"]).data
    assert (data.images, data.pixels, data.imbalance, data.render_seed) == (500, 96, 30.0, 3)
    with pytest.raises(ValueError, match=r"data.images=100: expected a number of at least 430"):
        compose(["data=jersey", root, "data.images=100"])
    with pytest.raises(ValueError, match=r"data.images=500: no such key"):
        compose(["data=digits", root, "data.images=500"])


def test_absent_typefaces_are_a_fault_of_jersey_alone_before_anything_runs(tmp_path, monkeypatch):
    find = generated.find_spec
    gone = "font_roboto"
    monkeypatch.setattr(generated, "find_spec", lambda name: None if name == gone else find(name))
    cfg = jersey_config(root=str(tmp_path / "images"))
    fault = (
        "data.name=jersey: needs the packages font_roboto to draw its images, and they are not "
        "installed; pip install 'clf[jersey]'"
    )
    assert survey(cfg)[:2] == (None, [fault])
    with pytest.raises(DataError, match="font_roboto"):
        load_splits(cfg)
    assert not (tmp_path / "images").exists()
    assert survey(DataConfig(name="digits", root=str(tmp_path / "digits")))[1] == []


# --- written once, and whole ---


def test_several_processes_at_once_write_one_whole_folder(tmp_path):
    program = (
        "from clf.config.registry import node_schema\n"
        "from clf.data import generated, jersey\n"
        "render = jersey.render\n"
        "jersey.render = lambda *args: (print('renders'), render(*args))\n"
        "schema = node_schema('data', {'name': 'jersey'})\n"
        f"root = {str(tmp_path / 'images')!r}\n"
        "generated.ensure(schema(name='jersey', root=root, images=430, pixels=16))"
    )
    command = [sys.executable, "-c", program]
    started = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert "".join(outputs).count("renders") == 1
    assert len(files(tmp_path / "images")) == 431
    assert {path.name for path in tmp_path.iterdir()} == {"images", ".images.lock"}


def test_a_kill_in_the_middle_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    cfg = DataConfig(name="digits", root=str(tmp_path / "images"))
    enlarge = digits._enlarge

    def enlarge_or_die(image_HW):
        if len(list(tmp_path.rglob("*.png"))) == 5:
            raise KeyboardInterrupt
        return enlarge(image_HW)

    with monkeypatch.context() as patch:
        patch.setattr(digits, "_enlarge", enlarge_or_die)
        with pytest.raises(KeyboardInterrupt):
            generated.ensure(cfg)
    assert not (tmp_path / "images").exists()
    generated.ensure(cfg)
    assert len(files(tmp_path / "images")) == 1798


def test_a_folder_with_other_files_is_neither_read_nor_written(tmp_path):
    (tmp_path / "thesis.txt").touch()
    cfg = DataConfig(name="digits", root=str(tmp_path))
    with pytest.raises(DataError, match="holds other files than data=digits writes; give a new"):
        load_splits(cfg)
    assert "holds other files" in survey(cfg)[1][0]
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_written_with_other_settings_is_not_taken_for_this_one(digits_root):
    cfg = DataConfig(name="digits", root=str(digits_root), split_seed=5)
    with pytest.raises(DataError, match='written with other settings, .*"split_seed": 0.* in plac'):
        load_splits(cfg)


def test_settings_that_change_the_images_change_the_default_folder():
    changes = ({}, {"images": 500}, {"render_seed": 1}, {"pixels": 64}, {"imbalance": 2.0})
    folders = {generated.folder(jersey_config(**change)) for change in changes}
    assert len(folders) == 5
    assert generated.folder(jersey_config(batch_size=8, split_seed=3)) in folders
    seeds = {generated.folder(DataConfig(name="digits", split_seed=seed)) for seed in (0, 1)}
    assert len(seeds) == 2


def test_a_place_that_cannot_be_written_is_named_with_what_to_set(tmp_path):
    (tmp_path / "file").touch()
    cfg = DataConfig(name="digits", root=str(tmp_path / "file" / "digits"))
    with pytest.raises(DataError, match=r"cannot be written \(.*\); set data.root=FOLDER to write"):
        generated.ensure(cfg)


def test_the_record_says_what_was_written(digits_root):
    record = json.loads((digits_root / generated.RECORD).read_text())
    assert record == {"name": "digits", "version": 1, "split_seed": 0}
