"""WebDataset shards are read where they are: the same images and labels as from a folder, and a
word about every sample that is none. The right values are written by hand."""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config import ConfigError, DataConfig
from clf.data.check import check
from clf.data.datamodule import ClassificationDataModule
from clf.data.decode import Look, UnreadableError, decode
from clf.data.index import ImageSplits, load_splits, read_splits, survey
from clf.data.inspection import inspect
from clf.data.reader import DataError, Row, Span, checked
from clf.data.recognise import data_settings_of
from clf.plan import compose
from tests.data.conftest import data_config, write_images

Members = Iterable[tuple[str, bytes]]


def picture(shade: int) -> bytes:
    """A grey PNG with a mark in one corner, so that no two shades have the same bytes."""
    file = io.BytesIO()
    image = Image.new("RGB", (12, 10), (shade, shade, shade))
    image.putpixel((0, 0), (255 - shade, 0, shade))
    image.save(file, "PNG")
    return file.getvalue()


def write(path: Path, members: Members, mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def samples(numbers: Iterable[int], ending: str = "cls", form: str = "{}") -> Members:
    """Samples of two classes, even and odd numbers; a number is its image's shade."""
    for number in numbers:
        yield f"{number:04d}.png", picture(number)
        yield f"{number:04d}.{ending}", form.replace("{}", str(number % 2)).encode()


def shades(splits: ImageSplits) -> dict[str, list[tuple[int, str]]]:
    """The shade and class of each image, as decoded."""
    return {
        split: sorted(
            (int(decode(image)[5, 5, 0]), splits.classes[label])
            for image, label in zip(
                getattr(splits, split).images, getattr(splits, split).labels, strict=True
            )
        )
        for split in ("train", "val", "test")
    }


def read(root: Path, **changes: object) -> ImageSplits:
    return load_splits(data_config(root, name="webdataset", batch_size=1, **changes))


def typed(root: Path, *settings: str) -> DataConfig:
    """The settings as a user gives them."""
    return compose([f"data={root}", "data.batch_size=1", *settings]).data


def faults(root: Path, **changes: object) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **changes)
    return str(caught.value)


@pytest.mark.parametrize(
    ("names", "noted"),
    [
        (["train-000000.tar", "train-000001.tar", "val-000000.tar", "test-000000.tar"], False),
        (["a-train_0.tar", "a-train_1.tar", "imagenet1k-validation-00.tar", "TEST1.tar"], True),
        (["train/0.tar", "train/1.tar", "val/000-of-002.tar", "test/0.tar"], False),
        (["training/0.tar", "training/1.tar", "dev/0.tar", "holdout/7.tar"], True),
    ],
)
def test_shards_are_read_by_their_splits(tmp_path, names, noted):
    for place, name in enumerate(names):
        write(tmp_path / name, samples(range(10 * place, 10 * place + 4)))
    splits = read(tmp_path)
    assert splits.classes == ["0", "1"]
    right = {"train": [0, 1, 2, 3, 10, 11, 12, 13], "val": [20, 21, 22, 23], "test": range(30, 34)}
    assert shades(splits) == {
        split: [(number, str(number % 2)) for number in numbers] for split, numbers in right.items()
    }
    assert splits.train.paths[5] == str(tmp_path / names[1] / "0011.png")
    assert bool([note for note in splits.notes if "read as splits" in note]) == noted


def test_shards_without_names_are_split_as_their_folder_is(tmp_path):
    folder, root = tmp_path / "folder", tmp_path / "shards"
    for number in range(40):
        path = folder / f"{number % 2}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    for place in range(4):
        write(root / f"{place:06d}.tar", samples(range(10 * place, 10 * place + 10)))
    of_shards, of_folder = read(root), load_splits(data_config(folder, batch_size=1))
    assert shades(of_shards) == shades(of_folder)
    assert [len(of_shards.train), len(of_shards.val), len(of_shards.test)] == [32, 4, 4]
    images = sorted(image for image in of_shards.train.images if isinstance(image, Span))
    by_name = {os.path.basename(path): path for path in of_folder.train.paths}
    for span in images:
        assert span.read() == Path(by_name[span.name]).read_bytes()
    assert of_shards.notes == []


def test_a_batch_is_the_same_from_shards_and_from_files(tmp_path):
    write(tmp_path / "shards" / "train-0.tar", samples(range(16)))
    write(tmp_path / "shards" / "val-0.tar", samples(range(50, 54)))
    for split, numbers in (("train", range(16)), ("val", range(50, 54))):
        for number in numbers:
            path = tmp_path / "folder" / split / str(number % 2) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(number))
    batches = []
    for kind in ("webdataset", "imagefolder"):
        root = tmp_path / ("shards" if kind == "webdataset" else "folder")
        module = ClassificationDataModule(data_config(root, name=kind, batch_size=4), seed=0)
        module.setup("validate")
        loaded = {
            bytes(np.asarray(image)): int(label)
            for batch in module.val_dataloader()
            for image, label in zip(batch["images"], batch["labels"], strict=True)
        }
        batches.append(loaded)
    assert batches[0] == batches[1]
    assert len(batches[0]) == 4


@pytest.mark.parametrize(
    ("ending", "form", "classes"),
    [
        ("cls", "1{}\n", ["10", "11"]),
        ("txt", "name {}\n", ["name 0", "name 1"]),
        ("txt", "1{}", ["10", "11"]),
        ("json", '{"label": "c{}", "class": 7}', ["c0", "c1"]),
        ("json", '{"width": 12, "class_id": {}}', ["0", "1"]),
        ("JSON", '{"category": {}.0}', ["0", "1"]),
    ],
)
def test_labels_are_read_in_each_form(tmp_path, ending, form, classes):
    for split in ("train", "val"):
        write(tmp_path / f"{split}-0.tar", samples(range(4), ending, form))
    splits = read(tmp_path)
    assert splits.classes == classes
    assert splits.train.labels.tolist() == [0, 1, 0, 1]


def test_a_key_of_json_is_chosen_and_groups_images(tmp_path):
    members = []
    for number in range(12):
        members.append((f"{number:04d}.png", picture(number)))
        facts = {"label": 5, "digit": number % 2, "player": f"p{number // 4}"}
        members.append((f"{number:04d}.json", json.dumps(facts).encode()))
    write(tmp_path / "000000.tar", members)
    splits = load_splits(typed(tmp_path, "data.label_column=digit", "data.group_by=column:player"))
    assert splits.classes == ["0", "1"]
    for split in shades(splits).values():
        assert len(split) == 4
        assert len({shade // 4 for shade, _ in split}) == 1


def test_a_shard_is_no_group_and_a_folder_in_it_is(tmp_path):
    for shard in range(2):
        numbers = range(12 * shard, 12 * shard + 12)
        names = [f"m{number % 3}/{name}" for number in numbers for name in (number, number)]
        pairs = zip(names, samples(numbers), strict=True)
        members = [(f"{folder.split('/')[0]}/{name}", data) for folder, (name, data) in pairs]
        write(tmp_path / f"{shard}.tar", members)
    splits = read(tmp_path, group_by="folder")
    for split in shades(splits).values():
        assert len(split) == 8
        assert len({shade % 3 for shade, _ in split}) == 1
    write(tmp_path / "flat" / "0.tar", samples(range(4)))
    assert "4 of 4 images have no group" in faults(tmp_path / "flat", group_by="folder")


def test_what_stands_beside_the_samples_is_counted(tmp_path):
    members = [*samples(range(4)), ("./__MACOSX/._0.png", b"x"), ("._0001.png", b"x")]
    members += [("0001.seg.npy", b"x"), ("0002.txt", b"a caption\nof two lines"), ("README", b"x")]
    write(tmp_path / "train-0.tar", members)
    write(tmp_path / "val-0.tar", [(f"./a/{name}", data) for name, data in samples(range(4))])
    write(tmp_path / "val-1.tar", [])
    splits = read(tmp_path)
    assert shades(splits)["train"] == [(0, "0"), (1, "1"), (2, "0"), (3, "1")]
    assert splits.val.paths[0] == str(tmp_path / "val-0.tar" / "a" / "0000.png")
    note, empty = splits.notes
    assert note.startswith("5 members of the shards are not read: 2 hidden, ")
    assert all(f"1 {kind}" in note for kind in (".seg.npy", ".txt", "without ending"))
    assert note.endswith("; labels are those of .cls")
    assert empty == "1 shards hold no sample: val-1.tar"


def test_members_of_a_sample_need_not_stand_together(tmp_path):
    ordered = sorted(samples(range(4)), key=lambda member: member[0].rpartition(".")[2])
    for split in ("train", "val"):
        write(tmp_path / f"{split}.tar", reversed(ordered))
    assert shades(read(tmp_path))["train"] == [(0, "0"), (1, "1"), (2, "0"), (3, "1")]


GOOD = [*samples(range(2, 6))]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([("9.cls", b"1")], "1 samples without an image: train-0.tar/9; expected one of the files"),
        ([("9.png", picture(9))], "1 samples without a label: train-0.tar/9; expected 0001.cls"),
        (
            [("9.png", picture(9)), ("9.seg.jpg", b"x"), ("9.cls", b"0")],
            r"1 samples with several images: train-0.tar/9 \(9.png, 9.seg.jpg\); set data.image_en",
        ),
        (
            [*samples([9]), *samples([9])],
            r"1 samples with several images: train-0.tar/0009 \(0009.png, 0009.png\)",
        ),
        ([*samples([9], form="cat")], "train-0.tar/0009: .cls must be a whole number as text, got"),
        ([*samples([9], "txt", "a\nb")], "train-0.tar/0009: .txt must be the name of a class"),
        ([*samples([9], "json", "{")], "train-0.tar/0009: .json holds no JSON"),
        ([*samples([9], "json", '{"label": null}')], '"label" must be a name or a whole number'),
        (
            [*samples([9], "json", '{"a": 1}')],
            '0009: .json has no key for the label but "a"; expected "label" or one of class, .*, '
            "or set data.label_column=KEY",
        ),
        (
            [*samples([9], "txt")],
            r"in different places: 4 in .cls \(train-0.tar/0002\), 1 in .txt \(train-0.tar/0009\)",
        ),
    ],
)
def test_a_sample_that_is_none_is_named(tmp_path, more, said):
    write(tmp_path / "train-0.tar", [*GOOD, *more])
    assert re.search(said, faults(tmp_path))


def test_the_images_that_are_meant_are_chosen(tmp_path):
    masks = [(f"{number:04d}.seg.png", picture(200)) for number in range(4)]
    for split in ("train", "val"):
        write(tmp_path / f"{split}.tar", [*samples(range(4)), *masks])
    assert "8 samples with several images" in faults(tmp_path)
    with pytest.raises(ConfigError, match="8 samples without an image"):
        typed(tmp_path, "data.image_ending=jpg")
    splits = load_splits(typed(tmp_path, "data.image_ending=.png"))
    assert shades(splits)["val"] == [(0, "0"), (1, "1"), (2, "0"), (3, "1")]
    (note,) = splits.notes
    assert note.startswith("8 members of the shards are not read: 8 .seg.png")
    assert shades(load_splits(typed(tmp_path, "data.image_ending=seg.png")))["val"][0] == (200, "0")


def test_links_are_refused(tmp_path):
    path = write(tmp_path / "train.tar", GOOD)
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("9.png")
        info.type, info.linkname = tarfile.LNKTYPE, "0002.png"
        tar.addfile(info)
    assert "1 samples that are links: train.tar/9.png; write the shard with" in faults(tmp_path)


def test_a_shard_that_is_not_whole_is_named(tmp_path):
    whole = write(tmp_path / "train-0.tar", GOOD).read_bytes()
    with tarfile.open(tmp_path / "train-0.tar") as tar:
        headers = [member.offset for member in tar]
    end = headers[-1] + 1024
    for content, said in {
        whole[: headers[-2] + 512 + 20]: f"train-0.tar is cut off after {headers[-2] + 532} bytes",
        whole[:end]: "train-0.tar ends without the mark of a tar file's end; copy or write it",
        whole[: headers[-1] + 100]: "train-0.tar ends without the mark",
        whole[: headers[-1]] + b"x" * 512 + whole[end:]: f"is damaged at byte {headers[-1]}",
        whole + whole: "train-0.tar holds more behind its end, as after `cat`",
        b"no tar file" * 100: "cannot be read as an uncompressed tar file",
        b"": "cannot be read as an uncompressed tar file",
    }.items():
        (tmp_path / "train-0.tar").write_bytes(content)
        assert said in faults(tmp_path)


def test_compressed_shards_are_refused_with_what_to_do(tmp_path):
    write(tmp_path / "train-0.tar.gz", GOOD, "w:gz")
    write(tmp_path / "val-0.tgz", GOOD, "w:gz")
    said = r"2 shards in .* are compressed, .*: train-0.tar.gz, val-0.tgz; uncompress them"
    with pytest.raises(ConfigError, match=said):
        typed(tmp_path)
    (tmp_path / "train-0.tar.gz").rename(tmp_path / "train-0.tar")
    (tmp_path / "val-0.tgz").unlink()
    assert "train-0.tar cannot be read as an uncompressed tar file" in faults(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train-0.tar", "more.tar"], "has shards of splits (train) and shards without the name"),
        (["val-0.tar"], "has shards of val and none to train on; add train-000000.tar"),
        (["train-test-0.tar"], "train-test-0.tar says test and train; rename it after one split"),
        (["val/train-0.tar"], "val/train-0.tar says train and val"),
        (["cats/0.tar"], "cats/0.tar lies in a folder without the name of a split; expected"),
        (["images/readme.md"], "holds no .tar file but images; expected shards train-000000.tar"),
    ],
)
def test_names_that_do_not_say_a_split_are_refused(tmp_path, names, said):
    for name in names:
        write(tmp_path / name, GOOD)
    assert said in faults(tmp_path)


def test_shards_without_any_sample_are_refused(tmp_path):
    write(tmp_path / "train-0.tar", [("a.npy", b"x"), ("b.bin", b"x"), ("c.npy", b"x")])
    assert "hold no sample (2 .npy, 1 .bin); expected members 0001.jpg with" in faults(tmp_path)
    write(tmp_path / "train-0.tar", [])
    assert "hold no sample (they are empty)" in faults(tmp_path)


def test_shards_are_recognised_and_a_tar_file_of_folders_is_not_taken_for_one(tmp_path):
    for name in ("flat/train-0.tar", "flat/val-0.tar", "deep/train/0.tar", "deep/val/0.tar"):
        write(tmp_path / name, GOOD)
    for name in ("flat", "deep"):
        root = tmp_path / name
        assert data_settings_of(root) == {"name": "webdataset", "root": str(root)}
    assert survey(typed(tmp_path / "flat")).faults == []
    write(tmp_path / "tar" / "images.tar", [(f"{n % 2}/{n}.png", picture(n)) for n in range(4)])
    with pytest.raises(DataError, match="give one tar file of class folders with data.stage=node"):
        data_settings_of(tmp_path / "tar")
    with pytest.raises(DataError, match="is a WebDataset shard, which is given by the folder"):
        data_settings_of(tmp_path / "flat" / "val-0.tar")
    for name in ("ant", "bee"):
        write_images(tmp_path / "both" / name, 2)
    write(tmp_path / "both" / "archive.tar.gz", GOOD, "w:gz")
    write(tmp_path / "both" / "a.tar", [("ant/0.png", picture(0))])
    assert data_settings_of(tmp_path / "both")["name"] == "imagefolder"
    write(tmp_path / "both" / "a.tar", GOOD)
    with pytest.raises(DataError, match="has WebDataset shards and lists or folders of images"):
        data_settings_of(tmp_path / "both")


def test_copies_are_found_and_left_out_by_their_names(tmp_path):
    write(tmp_path / "train-0.tar", samples(range(8)))
    write(tmp_path / "val-0.tar", samples(range(6, 10)))
    cfg = data_config(tmp_path, name="webdataset", batch_size=1)
    notes = survey(cfg, contents=True).notes
    assert "2 images are in more than one split" in notes[0]
    assert "train-0.tar/0006.png (train) = val-0.tar/0006.png (val)" in notes[0]
    bad = tmp_path / "bad.txt"
    bad.write_text(f"train-0.tar/0006.png\n{tmp_path}/train-0.tar/0007.png\n")
    splits = read(tmp_path, exclude=str(bad))
    assert shades(splits)["train"] == [(number, str(number % 2)) for number in range(6)]
    assert splits.notes == [f"data.exclude={bad}: 2 images are left out"]


def test_check_data_looks_into_shards_and_keeps_what_it_knows(tmp_path, monkeypatch):
    root = tmp_path / "shards"
    broken = [("9.png", picture(9)[:60]), ("9.cls", b"1")]
    write(root / "train-0.tar", [*samples(range(4)), *broken])
    write(root / "val-0.tar", samples(range(3, 6)))
    cfg = data_config(root, name="webdataset", batch_size=1)
    splits, found = read_splits(cfg)
    assert splits is not None
    members, cache = splits.members(), tmp_path / "cache.jsonl"
    facts = inspect(members, Look.of(cfg), cache, near=False)
    assert [one.problem for one in facts] == ["", "", "", "", "truncated", "", "", ""]
    assert [one.size for one in facts[:2]] == [len(picture(0)), len(picture(1))]
    report = check(splits, found, members, facts, cfg)
    places = [item.place for one in report.findings for each in one.groups for item in each]
    assert "train-0.tar/9.png" in places
    assert report.fix_list == ["train-0.tar/0003.png", "train-0.tar/9.png"]
    assert json.dumps(report.as_json())
    monkeypatch.setattr("clf.data.inspection.facts_of", None)  # nothing is read again
    again = inspect(members, Look.of(cfg), cache, near=False)
    assert again == facts
    os.utime(root / "val-0.tar", (1, 1))
    with pytest.raises(TypeError):
        inspect(members, Look.of(cfg), cache, near=False)


def test_an_image_that_cannot_be_read_is_named_by_its_shard(tmp_path):
    path = write(tmp_path / "train-0.tar", [*samples(range(4)), ("9.png", b"x"), ("9.cls", b"1")])
    splits = read(tmp_path)
    images = [*splits.train.images, *splits.val.images]
    broken = next(one for one in images if str(one).endswith("/9.png"))
    with pytest.raises(UnreadableError, match="train-0.tar/9.png: cannot be read as an image"):
        decode(broken)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(
        UnreadableError, match=r"train-0.tar ends within 9.png: it is truncated, or"
    ):
        decode(broken)


def test_a_reader_of_ones_own_may_give_parts_of_files(tmp_path):
    content = picture(77)
    (tmp_path / "pack.bin").write_bytes(b"head" + content + b"tail")
    span = Span(str(tmp_path / "pack.bin"), 4, len(content), "0.png")
    (row,) = checked({"train": [Row(span, "a")]}, "mine").rows["train"]
    assert row.place == f"{tmp_path}/pack.bin/0.png"
    assert decode(row.image)[5, 5].tolist() == [77, 77, 77]
    assert span.read(last=10) == content[-10:]
