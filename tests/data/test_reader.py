"""A user's own reader from a trusted package: paths or bytes, its own settings, and its faults."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config import ConfigError, DataConfig, RunConfig, registry
from clf.data.datamodule import ClassificationDataModule
from clf.data.index import load_splits
from clf.data.reader import DataError, Row, checked
from clf.plan import compose, resolve

READERS = '''
import io
from pathlib import Path

import numpy as np
from PIL import Image

from clf.config import register
from clf.data.generated import writes_images
from clf.data.reader import DataError, Row


def encoded(shade):
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


@register(name="in_memory", group="data")
def read_memory(root: Path | None = None, *, images: int = 10, broken: bool = False):
    """Grey images in memory, dark ones and bright ones.

    Args:
        images: of each class
    """
    rows = [Row(encoded(shade), "dark" if shade < 128 else "bright") for n in range(images)
            for shade in (n, 255 - n)]
    if broken:
        rows[3] = Row(b"no image", "bright", "archive.db:3")
    return {"train": rows, "val": rows[:4]}


@register(name="on_disk", group="data")
def read_disk(root: Path, split_seed: int, *, odd: bool = True):
    """Files named LABEL_NUMBER.png in one folder."""
    files = sorted(root.glob("*.png"))
    return {"all": [(path, int(path.stem.split("_")[0])) for path in files]}


@register(name="at_fault", group="data")
def read_fault(root: Path | None = None):
    raise DataError(["data.root: the first fault", "data.root: the second fault"])


@register(name="nonsense", group="data")
def read_nonsense(root: Path | None = None):
    return {"train": [("a.png", "cat"), ("b.png", 1.5)]}


@register(name="painted", group="data")
@writes_images(classes=("dark", "bright"))
def write_painted(folder: Path, *, images: int = 4):
    for split in ("train", "val"):
        for name, shade in (("dark", 10), ("bright", 240)):
            (folder / split / name).mkdir(parents=True)
            for number in range(images):
                (folder / split / name / f"{number}.png").write_bytes(encoded(shade + number))
'''


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory) -> Iterator[None]:
    """A package of the user's own outside the repository."""
    place = tmp_path_factory.mktemp("outside")
    (place / "my_readers").mkdir()
    (place / "my_readers" / "__init__.py").write_text(READERS)
    before = dict(registry._entries)
    sys.path.insert(0, str(place))
    yield
    sys.path.remove(str(place))
    del sys.modules["my_readers"]
    registry._entries.clear()
    registry._entries.update(before)


def run(*settings: str) -> RunConfig:
    return compose(["trusted_packages=[my_readers]", "data.batch_size=4", *settings])


def test_a_users_own_reader_is_chosen_by_name_with_its_own_settings():
    cfg = resolve(run("data=in_memory", "data.images=6", "data.image_size=16"))
    assert cfg.model.num_classes == 2
    splits = load_splits(cfg.data)
    assert (splits.classes, len(splits.train), len(splits.val)) == (["bright", "dark"], 12, 4)
    with pytest.raises(ConfigError, match=r"data.images=x: expected a whole number"):
        run("data=in_memory", "data.images=x")
    with pytest.raises(ConfigError, match=r"data.imges=6: no such key; did you mean data.images"):
        run("data=in_memory", "data.imges=6")


def test_images_in_memory_are_trained_on_like_files():
    cfg = run("data=in_memory", "data.image_size=16").data
    data = ClassificationDataModule(cfg, seed=0)
    seen = 0
    for batch in data.eval_loader("train"):
        for image, label in zip(batch["images"], batch["labels"], strict=True):
            assert (image.float().mean() > 128) == (data.classes[int(label)] == "bright")
            seen += 1
    assert seen == 20
    assert len(list(data.train_dataloader())) == 5


@pytest.mark.parametrize("threads", [0, 2])
def test_an_image_in_memory_is_named_by_its_place(threads):
    cfg = run("data=in_memory", "data.broken=true", f"data.threads={threads}").data
    loader = ClassificationDataModule(cfg, seed=0).eval_loader("train")
    assert loader.path(12) == "image 12 of the train split"
    assert loader.path(3) == "archive.db:3"
    with pytest.raises(DataError, match=r"^archive.db:3: cannot be read as an image"):
        list(loader)


def test_paths_and_whole_numbers_of_one_folder_are_split_by_the_seed(tmp_path):
    for label in (10, 9):
        for number in range(10):
            Image.new("L", (8, 8), label).save(tmp_path / f"{label}_{number}.png")
    splits = load_splits(run("data=on_disk", f"data.root={tmp_path}").data)
    assert splits.classes == ["9", "10"]
    assert (len(splits.train), len(splits.val), len(splits.test)) == (16, 2, 2)
    named = [Path(path).name.split("_")[0] for path in splits.test.paths]
    assert [splits.classes[label] for label in splits.test.labels] == named
    with pytest.raises(ConfigError, match=r"data.root: null, but data=on_disk needs it"):
        run("data=on_disk")


def test_all_faults_of_a_reader_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        run("data=at_fault")
    assert caught.value.faults == ["data.root: the first fault", "data.root: the second fault"]


def test_what_is_not_a_row_is_shown_with_what_a_row_is():
    with pytest.raises(ConfigError, match=r"data.name=nonsense: .* \('b.png', 1.5\) as row 1 of"):
        run("data=nonsense")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("a.png", "cat")], "returned a list; expected a dictionary"),
        ({"val": []}, "returned rows of val; expected"),
        ({"all": [], "train": []}, "returned rows of all, train; expected"),
        ({"train": [("a.png", True)]}, r"returned \('a.png', True\) as row 0 of 'train'"),
        ({"train": [("a.png", "")]}, r"returned \('a.png', ''\) as row 0"),
        ({"train": [(7, "cat")]}, r"returned \(7, 'cat'\) as row 0"),
        ({"train": ["a.png"]}, "returned 'a.png' as row 0"),
    ],
)
def test_each_mistake_of_a_reader_is_named(rows, said):
    with pytest.raises(DataError, match=f"^data.name=mine: its reader {said}"):
        checked(rows, "mine")


def test_labels_of_numpy_and_paths_of_pathlib_are_taken():
    rows, notes = checked({"all": [(Path("a.png"), np.int64(3)), Row(b"x", "cat")]}, "mine")
    assert rows == {"all": [Row("a.png", 3), Row(b"x", "cat")]}
    assert type(rows["all"][0].label) is int
    assert notes == []


def test_an_unknown_reader_is_refused_with_the_known_names(tmp_path):
    with pytest.raises(DataError, match=r"data.name=imagefodler: .*did you mean imagefolder\?"):
        load_splits(DataConfig(name="imagefodler", root=str(tmp_path)))


def test_a_users_own_data_set_is_written_once_and_then_read(tmp_path):
    settings = ("data=painted", f"data.root={tmp_path / 'images'}", "data.images=5")
    cfg = run(*settings).data
    assert not (tmp_path / "images").exists()
    assert len(load_splits(cfg).train) == 10
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}
    assert len(load_splits(run(*settings).data).train) == 10
    assert written == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.png")}


def test_a_fault_travels_to_another_process_without_its_rows():
    import pickle

    error = DataError(["one", "two"], {"train": [Row("a.png", "cat")]})
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.faults, copy.rows) == ("one\ntwo", ["one", "two"], {})
