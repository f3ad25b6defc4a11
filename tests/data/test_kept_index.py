"""The data of a run are those it began with: the list in its folder gives what the reader gave,
whatever was added, renamed or moved since, and says what is gone."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clf.config import DataConfig
from clf.data import index_file, kept_index
from clf.data.datamodule import ClassificationDataModule
from clf.data.index import ImageSplits, Split, load_splits
from clf.data.kept_index import known_survey, splits_of_run
from clf.data.reader import DataError, Row, Span
from clf.plan import compose
from tests import tiny
from tests.data.conftest import data_config, write_images
from tests.real_world import test_parquet, test_shards


def same(one: ImageSplits, other: ImageSplits) -> bool:
    for split in ("train", "val", "test"):
        mine, theirs = getattr(one, split), getattr(other, split)
        assert list(mine.images) == list(theirs.images)
        assert mine.labels.tolist() == theirs.labels.tolist()
        assert (mine.paths, mine.name) == (theirs.paths, theirs.name)
    return (one.classes, one.notes, one.drawn) == (other.classes, other.notes, other.drawn)


def classes(root: Path) -> DataConfig:
    """A folder of classes without splits, one of its names no UTF-8."""
    for name in ("ant", "bee"):
        write_images(root / name, 12, seed=len(name))
    os.rename(root / "ant" / "003.jpg", os.fsencode(root / "ant") + b"/\xff.jpg")
    return data_config(root)


def a_list(root: Path) -> DataConfig:
    """A list that names files elsewhere, too."""
    inside = write_images(root / "in", 8)
    outside = write_images(root.parent / "outside", 8, seed=1)
    names = [*(f"in/{path.name}" for path in inside), *map(str, outside)]
    lines = [f"{name},{'ab'[place % 2]}" for place, name in enumerate(names)]
    (root / "train.csv").write_text("path,label\n" + "\n".join(lines))
    return compose([f"data={root}", "data.batch_size=1"]).data


def tar_files(root: Path) -> DataConfig:
    test_shards.write(root / "train-0.tar", test_shards.samples(range(10)))
    test_shards.write(root / "train-1.tar", test_shards.samples(range(10, 20)))
    return data_config(root, name="webdataset", batch_size=1)


def parquet(root: Path) -> DataConfig:
    test_parquet.hub(root)
    return compose([f"data={root}", "data.batch_size=1"]).data


def digits(root: Path) -> DataConfig:
    return data_config(root / "digits", name="digits", image_size=32)


READERS = [classes, a_list, tar_files, parquet, digits]


@pytest.fixture(params=READERS, ids=lambda make: make.__name__)
def data(request, tmp_path) -> DataConfig:
    (tmp_path / "data").mkdir()
    return request.param(tmp_path / "data")


def test_the_list_gives_back_what_the_reader_gave_wherever_the_data_lie(data, tmp_path):
    file = tmp_path / "run" / "data_index.npz"
    read = load_splits(data)
    first = splits_of_run(file, data)
    assert same(first, read)
    assert same(splits_of_run(file, data), read)
    moved = tmp_path / "elsewhere"
    Path(data.root).rename(moved)
    there = splits_of_run(file, replace(data, root=str(moved)))
    assert there.train.labels.tolist() == read.train.labels.tolist()
    assert there.train.paths == [
        path.replace(str(data.root), str(moved)) for path in read.train.paths
    ]
    assert json.loads(json.dumps(there.train.path(0)))


def test_the_file_is_read_without_the_toolkit(tmp_path):
    data = classes(tmp_path / "data")
    splits_of_run(tmp_path / "data_index.npz", data)
    with np.load(tmp_path / "data_index.npz") as arrays:
        assert arrays["train.labels"].sum() == 10
        assert bytes(arrays["folders"]) == b"rant/rbee/"


def test_files_added_and_classes_renamed_change_nothing(tmp_path):
    data = classes(tmp_path / "data")
    file = tmp_path / "data_index.npz"
    before = splits_of_run(file, data)
    write_images(tmp_path / "data" / "aardvark", 5)
    write_images(tmp_path / "data" / "bee", 14, seed=3)
    assert load_splits(data).classes == ["aardvark", "ant", "bee"]
    after = splits_of_run(file, data)
    assert (after.classes, after.train.paths) == (before.classes, before.train.paths)
    survey = known_survey(file, data)
    assert survey is not None
    assert (survey.classes, survey.faults) == (["ant", "bee"], [])
    assert survey.notes == before.notes


def test_files_that_are_gone_are_named_and_left_out_only_where_that_is_wanted(tmp_path):
    data = data_config(tmp_path / "data")
    for name in ("ant", "bee"):
        write_images(tmp_path / "data" / name, 12, seed=len(name))
    file = tmp_path / "data_index.npz"
    splits = splits_of_run(file, data)
    (tmp_path / "data" / "bee").rename(tmp_path / "data" / "wasp")
    with pytest.raises(DataError) as caught:
        splits_of_run(file, data)
    bees = [path for path in splits.train.paths if "/bee/" in path]
    assert str(caught.value) == (
        f"data.root: 12 of the 24 images that the run began with are gone: {', '.join(bees[:3])} "
        "and 9 more. Put them back; give data.root=FOLDER if all were moved there; leave them out "
        "with data.on_bad_image=skip; or start again from the weights of the run with the images "
        "that are there now: --refresh-data (jobs.py resume NAME --refresh-data, or the command "
        "that began the run)"
    )
    survey = known_survey(file, data)
    assert survey is not None
    assert survey.faults == [str(caught.value)]
    skips = data_config(tmp_path / "data", on_bad_image="skip", max_bad_fraction=1.0)
    (note,) = splits_of_run(file, skips).notes
    assert note.startswith("data.on_bad_image=skip: 12 of the 24 images")
    module = ClassificationDataModule(skips, 0, kept_index=file)
    seen = [batch["labels"].tolist() for batch in module.eval_loader("train")]
    assert sum(label == 1 for batch in seen for label in batch) == 0
    assert sum(label == 0 for batch in seen for label in batch) == 10


def test_a_file_with_another_size_is_named(tmp_path):
    data = classes(tmp_path / "data")
    file = tmp_path / "data_index.npz"
    splits_of_run(file, data)
    changed = tmp_path / "data" / "bee" / "004.jpg"
    before = changed.stat().st_size
    changed.write_bytes(changed.read_bytes() + b"12")
    notes = splits_of_run(file, data).notes
    assert notes[-1] == (
        "data.root: 1 of the 24 images that the run began with have another size now, and are read "
        f"as they are: {changed} ({before + 2:,} bytes, then {before:,})"
    )


def test_a_tar_file_that_was_written_anew_is_refused(tmp_path):
    data = tar_files(tmp_path)
    file = tmp_path / "run" / "data_index.npz"
    splits_of_run(file, data)
    test_shards.write(tmp_path / "train-1.tar", test_shards.samples(range(10, 80)))
    with pytest.raises(
        DataError, match=r"train-1.tar \(.* bytes, then .*\): where each image begin"
    ):
        splits_of_run(file, data)


def test_an_image_in_memory_is_found_again_by_its_content(tmp_path, monkeypatch):
    rows = [Row(f"image {n}".encode(), "ab"[n % 2], f"db:{n}") for n in range(8)]
    monkeypatch.setattr(kept_index, "read_rows", lambda cfg: _Noted({"all": held}))
    monkeypatch.setattr(
        "clf.data.index.read_rows", lambda cfg: _Noted({"train": rows, "val": rows[:2]})
    )
    data, file = data_config(tmp_path), tmp_path / "data_index.npz"
    held = rows
    first = splits_of_run(file, data)
    held = [Row(b"a new one", "a", "db:new"), *reversed(rows)]
    assert same(splits_of_run(file, data), first)
    held = held[:-2]
    with pytest.raises(DataError, match="4 of the 10 images .* are gone: db:0, db:1, db:0 and"):
        splits_of_run(file, data)


class _Noted:
    def __init__(self, rows: dict[str, list[Row]]) -> None:
        self.rows, self.notes = rows, list[str]()

    def __iter__(self):
        return iter((self.rows, self.notes))


def test_other_settings_list_the_images_anew_and_say_so(tmp_path):
    data, file = classes(tmp_path / "data"), tmp_path / "data_index.npz"
    splits_of_run(file, data)
    other = data_config(tmp_path / "data", val_fraction=0.25)
    splits = splits_of_run(file, other)
    assert len(splits.val) == 6
    assert splits.notes[-1] == (
        "data.val_fraction: changed, so the images of the run were listed anew from here on"
    )
    assert known_survey(file, data) is None
    kept = file.read_bytes()
    write_images(tmp_path / "data" / "wasp", 12)
    with pytest.raises(
        DataError, match=r"^data.val_fraction: changed, and now the classes are oth"
    ):
        splits_of_run(file, data)
    assert file.read_bytes() == kept


def test_a_damaged_list_is_named(tmp_path):
    data, file = classes(tmp_path / "data"), tmp_path / "data_index.npz"
    splits_of_run(file, data)
    whole = file.read_bytes()
    for damaged in (whole[:200], b"", b"garbage" * 40):
        file.write_bytes(damaged)
        with pytest.raises(DataError, match="data_index.npz, the list of the run's images, is d"):
            splits_of_run(file, data)
    file.write_bytes(whole)
    first, said = splits_of_run(file, data), 0
    for place in range(0, len(whole), 307):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        fault = of_rank(str(file), data)[1]
        said += "is damaged" in fault
        if not fault:  # a date, which means nothing
            assert same(splits_of_run(file, data), first)
    assert said > len(whole) // 307 // 2


def test_a_list_that_cannot_be_written_says_why(tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_file, "write", full)
    with pytest.raises(DataError, match=r"cannot be written: No space left on device. Make space"):
        splits_of_run(tmp_path / "data_index.npz", classes(tmp_path / "data"))


def of_rank(file: str, data: DataConfig) -> tuple[list[str], str]:
    try:
        return splits_of_run(Path(file), data).train.paths, ""
    except DataError as error:
        return [], str(error)


def test_ranks_read_one_list_and_one_fault(tmp_path, ranks):
    data, file = classes(tmp_path / "data"), tmp_path / "run" / "data_index.npz"
    file.parent.mkdir()
    (first, _), (second, _) = ranks(2).run(of_rank, str(file), data)
    assert first == second == splits_of_run(file, data).train.paths
    lost = data_config(tmp_path / "nowhere")
    other = tmp_path / "other" / "data_index.npz"
    other.parent.mkdir()
    (_, fault), (_, of_other) = ranks(2).run(of_rank, str(other), lost)
    assert fault == of_other
    assert "nowhere" in fault


def test_when_64_ranks_start_again_none_lists_a_folder_of_images(tmp_path, monkeypatch):
    data, file = classes(tmp_path / "data"), tmp_path / "run" / "data_index.npz"
    file.parent.mkdir()
    paths, listed = splits_of_run(file, data).train.paths, set()
    scandir, listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, "scandir", lambda path: listed.add(os.fspath(path)) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: listed.add(os.fspath(path)) or listdir(path))
    monkeypatch.setenv("WORLD_SIZE", "64")
    for rank in range(64):
        monkeypatch.setenv("RANK", str(rank))
        assert splits_of_run(file, data).train.paths == paths
    assert listed <= {str(file.parent)}
    os.scandir(data.root).close()
    assert str(data.root) in listed, "a listing would have been seen"


def test_a_resumed_run_sees_the_images_that_it_began_with(tmp_path):
    """The bits of an interrupted run are those of one that was left alone, though an image and a
    class were added in between."""
    for name in ("ant", "bee"):
        write_images(tmp_path / "data" / name, 60, seed=len(name), side=32)
    cfg = tiny.config(str(tmp_path / "data"), data={"name": "imagefolder"})
    whole = tiny.fit(cfg, str(tmp_path / "whole"))
    tiny.fit(cfg, str(tmp_path / "run"), leave_after_step=2)
    write_images(tmp_path / "data" / "aardvark", 30, side=32)
    write_images(tmp_path / "data" / "ant" / "more", 3, seed=7, side=32)
    left = tiny.fit(cfg, str(tmp_path / "run"))
    count = len(left["losses"])
    assert 0 < count < len(whole["losses"])
    assert left["losses"] == whole["losses"][-count:]
    assert left["pixels"] == whole["pixels"][-count:]
    assert left["scalars"] == whole["scalars"]


def test_evaluating_a_run_scores_its_own_split(tmp_path):
    from clf.run import evaluate

    for name in ("ant", "bee"):
        write_images(tmp_path / "data" / name, 60, seed=len(name), side=32)
    cfg = tiny.config(str(tmp_path / "data"), data={"name": "imagefolder"}, epochs=1)
    scalars = tiny.fit(cfg, str(tmp_path / "run"))["scalars"]
    write_images(tmp_path / "data" / "ant", 70, seed=3, side=32)
    found = evaluate(tmp_path / "run", progress=False)
    assert len(found.images) == 12
    assert sorted(found.images.paths) == found.images.paths
    assert set(found.scalars) <= set(scalars)


def test_spans_and_large_numbers_are_kept_as_they_are(tmp_path):
    """A tar file of 100 GB, and a data set of which only some sizes are kept."""
    far = [Span("/far/a.tar", 10**11 + place, 7, f"{place}.jpg") for place in range(5)]
    split = Split(far, np.arange(5), "train")
    nothing = Split([], np.zeros(0, dtype=np.int64), "val")
    splits = ImageSplits(list("abcde"), split, nothing, Split([], nothing.labels, "test"))
    file, data = tmp_path / "data_index.npz", data_config(tmp_path)
    index_file.write(file, splits, data)
    kept = index_file.read(file, data, lambda: iter(()))
    assert list(kept.splits.train.images) == far
    assert [one.path for one in kept.files] == ["/far/a.tar"]
    assert kept.splits.train.images[-1] == far[-1]
    with pytest.raises(IndexError):
        kept.splits.train.images[5]
    shutil.rmtree(tmp_path)
