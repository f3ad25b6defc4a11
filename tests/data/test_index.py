"""Folders and annotations to splits: which image is where, and the message for a wrong folder."""

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from clf.config import DataConfig
from clf.data.index import DataError, ImageSplits, load_splits, survey


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def config(root: Path, **changes) -> DataConfig:
    return DataConfig(name="imagefolder", root=str(root), **{"batch_size": 1, **changes})


def message(cfg: DataConfig) -> str:
    """What the reader says; the check before a run must say the same."""
    with pytest.raises(DataError) as caught:
        load_splits(cfg)
    assert survey(cfg)[1] == str(caught.value).split("\n")
    return str(caught.value)


def names(splits: ImageSplits) -> dict[str, set[str]]:
    return {
        split: {Path(path).name for path in getattr(splits, split).paths}
        for split in ("train", "val", "test")
    }


# --- train/, val/, test/ ---


def test_split_folders_are_read_as_torchvisions_imagefolder_reads_them(tmp_path):
    touch(
        tmp_path / "train/b/2.jpg",
        tmp_path / "train/b/10.PNG",
        tmp_path / "train/b/deep/er/1.webp",
        tmp_path / "train/B/x.bmp",
        tmp_path / "train/a/1.jpeg",
        tmp_path / "train/a/notes.txt",
        tmp_path / "val/a/v.jpg",
        tmp_path / "test/b/t.jpg",
    )
    splits = load_splits(config(tmp_path))
    for split, allow_empty in (("train", False), ("val", True), ("test", True)):
        ours = getattr(splits, split)
        theirs = ImageFolder(tmp_path / split, allow_empty=allow_empty)
        assert ours.paths == [path for path, _ in theirs.samples]
        labels = [splits.class_to_idx[theirs.classes[label]] for _, label in theirs.samples]
        assert ours.labels.tolist() == labels
    assert splits.classes == ["B", "a", "b"]
    assert splits.class_to_idx == ImageFolder(tmp_path / "train").class_to_idx
    assert splits.train.labels.dtype == np.int64


def test_hidden_files_and_folders_are_no_images_and_no_classes(tmp_path):
    touch(*(tmp_path / f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
    touch(
        tmp_path / "train/.cache/1.jpg", tmp_path / "train/a/._1.jpg", tmp_path / ".git/hooks/x.jpg"
    )
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["a", "b"]
    assert names(splits)["train"] == {"1.jpg"}
    assert len(splits.train) == 2


def test_without_val_a_part_of_train_validates_and_test_stays_whole(tmp_path):
    touch(*(tmp_path / f"train/{name}/{n}.jpg" for name in "ab" for n in range(20)))
    touch(*(tmp_path / f"test/{name}/t{n}.jpg" for name in "ab" for n in range(5)))
    splits = load_splits(config(tmp_path, val_fraction=0.25))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (30, 10, 10)
    assert np.bincount(splits.val.labels).tolist() == [5, 5]
    assert not set(splits.train.paths) & set(splits.val.paths)


def test_hidden_folders_inside_a_class_hold_no_images_of_it(tmp_path):
    touch(*(tmp_path / f"{split}/{name}/1.jpg" for split in ("train", "val") for name in "ab"))
    touch(tmp_path / "train/a/.ipynb_checkpoints/1-checkpoint.jpg")
    assert len(load_splits(config(tmp_path)).train) == 2


# --- one folder ---


def test_one_folder_is_split_class_by_class_and_every_image_is_in_one_split(one_folder):
    counts = {"ant": 100, "bee": 20, "cat": 3}
    splits = load_splits(config(one_folder(counts)))
    parts = names(splits)
    assert sum(len(part) for part in parts.values()) == len(set.union(*parts.values())) == 123
    by_class = {name: np.bincount(getattr(splits, name).labels).tolist() for name in parts}
    assert by_class == {"train": [80, 16, 1], "val": [10, 2, 1], "test": [10, 2, 1]}


def test_a_class_of_two_images_still_has_one_to_train_on(one_folder):
    splits = load_splits(config(one_folder({"ant": 30, "rare": 2, "single": 1})))
    assert np.bincount(splits.train.labels, minlength=3).tolist()[1:] == [1, 1]


def test_the_split_of_a_class_does_not_move_when_a_class_is_added(one_folder, tmp_path):
    root = one_folder({"bee": 50, "cat": 7})
    before = names(load_splits(config(root)))
    touch(*(tmp_path / f"ant/ant{n}.png" for n in range(30)))
    after = names(load_splits(config(root)))
    for split, files in before.items():
        assert {name for name in after[split] if not name.startswith("ant")} == files


def test_the_split_follows_its_seed_and_nothing_else(one_folder):
    root = one_folder({"bee": 50, "cat": 50})
    assert names(load_splits(config(root))) == names(load_splits(config(root, batch_size=8)))
    assert names(load_splits(config(root))) != names(load_splits(config(root, split_seed=1)))


def test_no_test_split_is_made_where_none_is_asked_for(one_folder):
    splits = load_splits(config(one_folder({"bee": 10, "cat": 10}), test_fraction=0.0))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (18, 2, 0)


def test_a_class_called_train_is_a_class(one_folder):
    splits = load_splits(config(one_folder({"train": 10, "bus": 10})))
    assert splits.classes == ["bus", "train"]


# --- the message for a wrong folder ---


def test_a_missing_folder_is_named_with_what_there_is_instead(tmp_path):
    touch(tmp_path / "imgs/a/1.jpg")
    text = message(config(tmp_path / "images"))
    assert f"data.root: there is no folder {tmp_path}/images; {tmp_path} exists and holds imgs" in (
        text
    )


def test_no_folder_given_says_which_key_to_set():
    text = message(DataConfig(name="imagefolder"))
    assert text == "data.root: null, but data=imagefolder needs it; set data.root=FOLDER"


def test_an_empty_folder_and_a_file_say_what_is_expected(tmp_path):
    (tmp_path / "empty").mkdir()
    text = message(config(tmp_path / "empty"))
    assert f"{tmp_path}/empty is empty; expected train/, val/ and test/" in text
    touch(tmp_path / "a.jpg")
    assert "a.jpg is a file; give the folder of images" in message(config(tmp_path / "a.jpg"))


def test_images_without_class_folders_are_counted_and_shown_a_place(tmp_path):
    touch(tmp_path / "1.jpg", tmp_path / "2.jpg")
    text = message(config(tmp_path))
    assert "holds 2 images and no class folders; put the images of each class" in text


def test_a_single_class_is_refused(one_folder):
    assert "has 1 class (ant); a classifier needs at least 2" in message(
        config(one_folder({"ant": 9}))
    )


def test_an_empty_class_folder_is_named_with_what_it_holds(tmp_path):
    touch(*(tmp_path / f"train/{name}/1.jpg" for name in "ab"), tmp_path / "val/a/1.jpg")
    touch(tmp_path / "train/c/readme.md")
    (tmp_path / "train/d").mkdir()
    text = message(config(tmp_path))
    assert f"class folder {tmp_path}/train/c holds only readme.md" in text
    assert f"class folder {tmp_path}/train/d holds nothing; expected" in text


def test_a_validation_class_that_training_lacks_is_named_with_an_image(tmp_path):
    touch(*(tmp_path / f"train/{name}/1.jpg" for name in "ab"))
    touch(*(tmp_path / f"val/{name}/v.jpg" for name in ("a", "dingo")))
    text = message(config(tmp_path))
    assert "the val split has classes that the train split lacks" in text
    assert f"'dingo' ({tmp_path}/val/dingo/v.jpg)" in text


def test_a_val_folder_without_images_is_named(tmp_path):
    touch(*(tmp_path / f"train/{name}/{n}.jpg" for name in "ab" for n in range(4)))
    (tmp_path / "val/a").mkdir(parents=True)
    assert f"{tmp_path}/val holds no images; fill or remove it" in message(config(tmp_path))


def test_nothing_to_validate_on_is_a_fault(one_folder):
    text = message(config(one_folder({"ant": 9, "bee": 9}), val_fraction=0.0))
    assert "data.val_fraction: no image is left to validate on" in text


def test_a_batch_larger_than_the_training_split_is_refused_with_the_largest_that_fits(one_folder):
    text = message(config(one_folder({"ant": 10, "bee": 10}), batch_size=64))
    assert "data.batch_size: 64 is larger than the training split of 16 images" in text
    assert "set data.batch_size=16 or less" in text


def test_all_faults_come_together(tmp_path):
    touch(*(tmp_path / f"train/{name}/1.jpg" for name in "ab"))
    touch(tmp_path / "val/c/1.jpg", tmp_path / "test/d/1.jpg")
    (tmp_path / "train/e").mkdir()
    assert len(message(config(tmp_path, batch_size=64)).split("\n")) == 5
