"""Folders and lists as people have them: read as a person would read them, or a word about it."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from clf import run
from clf.config import DataConfig
from clf.data.index import DataError, ImageSplits, load_splits, survey
from clf.data.naming import SUFFIXES
from clf.run_folder import RunFolder
from slurm.records import record_error
from slurm.stage import stage
from tests import tiny
from tests.data.conftest import write_images
from tests.launch.test_commands import SMALL, typed

NOTED = """
from clf.config import register
from clf.data.reader import Noted, Row


@register(name="noted", group="data")
def read_noted(root):
    files = sorted(root.glob("*.jpg"))
    rows = [Row(str(file), ("ant", "bee")[place % 2]) for place, file in enumerate(files)]
    return Noted({"all": rows}, ["2 files are not read:\\nb.txt, caf\\udce9.txt"])
"""
NOTE = "2 files are not read: b.txt, caf\\xe9.txt"


def test_a_note_of_a_reader_is_shown_at_every_start_and_stays_with_the_run(
    checkout: Path, monkeypatch
) -> None:
    (checkout.parent / "reads_and_notes.py").write_text(NOTED)
    monkeypatch.setenv("PYTHONPATH", str(checkout.parent))
    images = checkout.parent / "images"
    write_images(images, 12)
    words = ["trusted_packages=[reads_and_notes]", "--data", "noted", f"data.root={images}"]
    words += ["data.batch_size=4", *SMALL]
    for script in ("submit.py", "train.py"):
        dry = typed(checkout, script, *words, "--dry-run")
        assert f"note: {NOTE}\n" in dry.stderr, dry.stdout + dry.stderr
        started = typed(checkout, script, *words, "--name", script)
        assert f"note: {NOTE}\n" in started.stdout, started.stdout + started.stderr
        run = checkout.parent / "runs" / script
        assert (run / "notes.txt").read_text() == NOTE + "\n"
    (log,) = (checkout.parent / "runs" / "submit.py" / "logs").glob("*_log.out")
    assert f"note: {NOTE}\n" in log.read_text()


def config(root: Path, name: str = "imagefolder", **changes) -> DataConfig:
    return DataConfig(name=name, root=str(root), batch_size=1, **changes)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def images_of(splits: ImageSplits, root: Path) -> dict[str, set[str]]:
    """Class -> its images of all splits, by their paths from the data set's folder."""
    found: dict[str, set[str]] = {name: set() for name in splits.classes}
    for split in (splits.train, splits.val, splits.test):
        for path, label in zip(split.paths, split.labels, strict=True):
            assert path not in found[splits.classes[label]], "an image is read twice"
            found[splits.classes[label]].add(os.path.relpath(path, root))
    return found


def faults(cfg: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(cfg)
    assert survey(cfg).faults == caught.value.faults
    return str(caught.value)


# --- splits under other names ---


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("training", "valid", "testing"),
        ("training_set", "validation", "test_set"),
        ("train-data", "dev", "holdout"),
    ],
)
def test_a_split_is_known_by_any_usual_name_and_is_never_a_class(tmp_path, train, val, test):
    for split in (train, val, test):
        touch(*(tmp_path / split / name / f"{split}.jpg" for name in ("ant", "bee")))
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["ant", "bee"]
    for split, name in ((splits.train, train), (splits.val, val), (splits.test, test)):
        assert split.paths == [f"{tmp_path}/{name}/{each}/{name}.jpg" for each in ("ant", "bee")]
    assert splits.notes == [
        f"folders are read as splits: {train} as train, {val} as val, {test} as test"
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("Train/1.jpg", "Test/2.jpg"), "Train holds 1 images and no class folders"),
        (("val/a/1.jpg", "Test/b/1.jpg"), "has splits (Test, val) and none to train on"),
        (
            ("train/a/1.jpg", "train/b/1.jpg", "dev/a/1.jpg", "val/a/1.jpg"),
            "has 2 val splits, dev and val; put all of that split into one",
        ),
        (
            ("a/train/1.jpg", "a/test/2.jpg", "b/train/3.jpg", "b/test/4.jpg"),
            "a holds splits (test, train) inside a class; expected ",
        ),
        (("set/train/a/1.jpg", "set/val/a/1.jpg"), "lie in {root}/set; set data.root={root}/set"),
    ],
)
def test_splits_that_cannot_be_read_as_they_are_are_named(tmp_path, files, said):
    touch(*(tmp_path / file for file in files))
    assert said.format(root=tmp_path) in faults(config(tmp_path))


def test_what_lies_beside_the_splits_is_a_note(tmp_path):
    touch(*(tmp_path / f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
    touch(tmp_path / "more/a/2.jpg", tmp_path / "x.jpg", tmp_path / "train/y.jpg")
    assert load_splits(config(tmp_path)).notes == [
        "2 images lie in no class folder and are not read: train/y.jpg, x.jpg",
        "1 folder of images lies beside the splits and is not read: more",
    ]


def test_a_class_with_the_name_of_a_split_is_a_note(tmp_path):
    touch(*(tmp_path / name / f"{n}.jpg" for name in ("bus", "train") for n in range(3)))
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["bus", "train"]
    assert splits.notes == [
        "class folders have names of splits: train; they are read as classes, since they hold no "
        "folders"
    ]


# --- files that are not read ---


def test_every_ending_is_one_of_pillows_and_the_formats_that_people_use_are_among_them():
    Image.init()
    theirs = {
        ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN
    }
    # Pillow reads AVIF from 11.3 on, and an MPO as the JPEG that it begins with.
    assert set(SUFFIXES) - {".avif", ".avifs", ".mpo"} <= theirs
    usual = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
    assert usual | {".tga", ".jp2"} <= set(SUFFIXES)


def test_each_file_of_a_class_is_read_or_counted_by_ending_and_class(tmp_path):
    read = ["1.jfif", "2.JPE", "3.gif", "4.tga", "5.jp2", "6.JPG", "7", "8.0001"]
    passed = ["1.heic", "2.HEIC", "._6.JPG", "Thumbs.db", ".DS_Store", "README"]
    touch(*(tmp_path / "a" / name for name in read + passed))
    touch(tmp_path / "b/1.png", tmp_path / "b/3.heic", tmp_path / "b/2.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "a/7", "JPEG")
    Image.new("RGB", (2, 2)).save(tmp_path / "a/8.0001", "PNG")
    os.mkfifo(tmp_path / "a/pipe")  # opening it would wait for ever
    splits = load_splits(config(tmp_path))
    assert images_of(splits, tmp_path) == {
        "a": {f"a/{name}" for name in read},
        "b": {"b/1.png", "b/2.png"},
    }
    (note,) = splits.notes
    assert note.startswith("8 files are not read: 3 .heic (2 in a, 1 in b), ")
    for kind in ("1 ._*", "1 .db", "1 .DS_Store", "1 without an ending", "1 no regular file"):
        assert f"{kind} (1 in a)" in note
    assert note.endswith("; convert those that are images to JPEG or PNG")


def test_hidden_class_folders_and_a_systems_thumbnails_are_a_note(tmp_path):
    touch(*(tmp_path / f"{name}/{n}.jpg" for name in "ab" for n in range(3)))
    touch(tmp_path / ".c/1.jpg", tmp_path / "a/@eaDir/1.jpg", tmp_path / ".git/x.jpg")
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["a", "b"]
    assert splits.notes == [
        "2 folders of images are hidden or a system's own, and are not read: .c, a/@eaDir"
    ]


def test_classes_that_differ_in_case_alone_are_a_note(tmp_path):
    touch(*(tmp_path / f"{name}/{n}.jpg" for name in ("Cat", "cat", "dog") for n in range(3)))
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["Cat", "cat", "dog"]
    (note,) = splits.notes
    assert note.startswith("1 names of classes differ in case, spaces")
    assert note.endswith("classes of their own: 'Cat' and 'cat'")


# --- links ---


def test_links_give_no_class_the_images_of_another_and_no_image_twice(tmp_path):
    root = tmp_path / "images"
    touch(*(root / f"{name}/{n}.jpg" for name in "ab" for n in range(4)))
    touch(root / "a/deep/4.jpg", root / "a/.store/5.jpg", tmp_path / "pool/p.jpg")
    for link, target in {
        "a/up": "..",
        "a/self": ".",
        "a/again": "deep",
        "a/other": "../b",
        "a/of_b.jpg": "../b/0.jpg",
        "a/twice.jpg": "0.jpg",
        "b/into_a": "../a/deep",
        "c": "a",
        "whole": "..",
        "b/pool": "../../pool",  # the class `pooled` has it
        "pooled": "../pool",
        "a/stored.jpg": ".store/5.jpg",  # is read: the folder that it lies in is not
        "b/lost.jpg": "/no/such.jpg",
        "b/round": "round",
    }.items():
        os.symlink(target, root / link)
    splits = load_splits(config(root, val_fraction=0.2))
    assert images_of(splits, root) == {
        "a": {*(f"a/{n}.jpg" for n in range(4)), "a/deep/4.jpg", "a/stored.jpg"},
        "b": {*(f"b/{n}.jpg" for n in range(4)), "b/lost.jpg"},
        "pooled": {"pooled/p.jpg"},
    }
    notes = "; ".join(splits.notes)
    assert (
        "10 links lead back, or to what is read already or as another class, and are not" in notes
    )
    assert "1 link leads nowhere, and is in the lists all the same: b/lost.jpg" in notes


def test_a_validation_class_takes_no_image_of_another_class_of_the_training_split(tmp_path):
    touch(*(tmp_path / f"train/{name}/1.jpg" for name in "ab"), tmp_path / "val/a/2.jpg")
    os.symlink("../../train/b", tmp_path / "val/a/wrong")
    os.symlink("../train/b", tmp_path / "val/b")  # the same class: only the splits overlap
    splits = load_splits(config(tmp_path))
    assert splits.val.paths == [f"{tmp_path}/val/a/2.jpg", f"{tmp_path}/val/b/1.jpg"]
    assert splits.notes[0].endswith("is not followed: val/a/wrong")


# --- names that are no UTF-8 ---


@pytest.fixture(scope="module")
def latin1(tmp_path_factory) -> Path:
    """Two classes, one with a name and images as an old Windows or Linux wrote them."""
    root = tmp_path_factory.mktemp("latin1")
    for label, name in enumerate((b"caf\xe9", b"tea")):
        folder = root / os.fsdecode(name)
        for path in write_images(folder, 10, seed=label):
            path.rename(folder / os.fsdecode(b"\xfc" + os.fsencode(path.name)))
    return root


def test_names_that_are_no_utf_8_come_through_a_run_and_all_that_it_writes(latin1, tmp_path):
    images = {"name": "imagefolder", "root": str(latin1), "batch_size": 4, "micro_batch_size": 4}
    cfg = tiny.config("", data=images, epochs=1)
    cfg.tracking.class_scalars = True
    tiny.fit(cfg, str(tmp_path / "run"))
    result = run.evaluate(tmp_path / "run", predictions=tmp_path / "p.csv", progress=False)
    name = os.fsdecode(b"caf\xe9")
    assert [row.name for row in result.per_class] in ([name, "tea"], ["tea", name])
    mapping = (tmp_path / "run" / "labels_mapping.json").read_text(encoding="utf-8")
    assert json.loads(mapping) == {name: 0, "tea": 1}
    rows = csv.reader((tmp_path / "p.csv").read_bytes().decode("latin-1").splitlines())
    paths = [row[0] for row in rows][1:]
    assert len(paths) == 2
    assert all(os.path.exists(path.encode("latin-1")) for path in paths)
    table = (tmp_path / "run" / "per_class" / "test.csv").read_bytes()
    assert b"\ncaf\xe9,1," in table
    assert b"val/acc_class/caf\\xe9" in (tmp_path / "run" / "metrics.csv").read_bytes()


def test_the_error_of_an_image_whose_name_is_no_utf_8_names_it(latin1, tmp_path):
    from clf.data.decode import decode

    path = os.fsencode(tmp_path) + b"/\xe9.jpg"
    with open(path, "wb") as file:
        file.write(b"no image")
    with pytest.raises(DataError) as caught:
        decode(os.fsdecode(path))
    assert f"{tmp_path}/\\xe9.jpg: cannot be read" in str(caught.value)
    folder = RunFolder.create(tmp_path / "run")
    record_error(folder.path, 0, caught.value)
    assert "\\xe9.jpg" in json.loads(folder.error(0).read_text(encoding="utf-8"))["message"]


def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path, monkeypatch):
    touch(*(tmp_path / f"{name}/{n}.jpg" for name in "ab" for n in range(3)))
    scan = os.scandir

    def refuse(folder):  # tests may run as root, whom no permission stops
        if str(folder).endswith("/b"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    text = faults(config(tmp_path))
    assert f"{tmp_path}/b cannot be read (Permission denied); change its permissions" in text


def test_a_nodes_copy_of_a_folder_with_links_is_read_as_the_folder_itself(tmp_path):
    root = tmp_path / "images"
    touch(*(root / f"{name}/{n}.jpg" for name in "ab" for n in range(3)), tmp_path / "pool/p.jpg")
    for link, target in {
        "a/up": "..",
        "a/other": "../b",
        "a/of_b.jpg": "../b/0.jpg",
        "c": "../pool",
        "b/pool": "../../pool",
        "b/lost.jpg": "no.jpg",
        "above": "../..",
    }.items():
        os.symlink(target, root / link)
    os.symlink(".", tmp_path / "pool/round")
    cfg = tiny.config("", data={"name": "imagefolder", "root": str(root), "stage": "node"})
    cfg.data.stage_dir, cfg.data.batch_size = str(tmp_path / "disk"), 1
    copy = stage(cfg).data
    expected = {
        "a": {f"a/{n}.jpg" for n in range(3)},
        "b": {*(f"b/{n}.jpg" for n in range(3)), "b/lost.jpg"},
        "c": {"c/p.jpg"},
    }
    assert images_of(load_splits(config(root)), root) == expected
    assert images_of(load_splits(copy), Path(copy.root)) == expected
    assert len(list(Path(copy.root).rglob("*.jpg"))) == 9  # no file was copied twice
