"""Lists of images as people and their tools write them: encodings, separators, names of columns,
paths and labels. The right values are written by hand."""

import csv
import json
import os
import tarfile
from pathlib import Path

import pytest

from clf.config import ConfigError, DataConfig
from clf.config.registry import node_schema
from clf.data.index import DataError, ImageSplits, load_splits, survey
from clf.data.recognise import data_settings_of
from clf.plan import compose


def config(root: Path, **changes: object) -> DataConfig:
    """data=annotations with settings of its own."""
    return node_schema("data", {"name": "annotations"})(
        name="annotations", root=str(root), **{"batch_size": 1, **changes}
    )


def typed(root: Path, *words: str) -> DataConfig:
    """What the command line makes of a folder of lists and further words."""
    return compose(["data=annotations", f"data.root={root}", "data.batch_size=1", *words]).data


def images(root: Path, count: int = 4, folder: str = "crops") -> list[str]:
    """Empty files, and their paths from `root`; readers do not open them."""
    (root / folder).mkdir(parents=True, exist_ok=True)
    paths = [f"{folder}/{n}.jpg" for n in range(count)]
    for path in paths:
        (root / path).touch()
    return paths


def labelled(splits: ImageSplits, root: Path) -> dict[str, str]:
    """Image -> the name of its class, over all splits."""
    return {
        os.path.relpath(path, root): splits.classes[label]
        for split in (splits.train, splits.val, splits.test)
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def faults(cfg: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(cfg)
    assert survey(cfg).faults == caught.value.faults
    return str(caught.value)


def json_lines(paths: list[str], labels: list, end: str = "\n", **keys: str) -> str:
    image, label = keys.get("image", "image"), keys.get("label", "label")
    rows = [{image: path, label: one} for path, one in zip(paths, labels, strict=True)]
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows)


# --- encodings and ends of lines ---


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_is_read_in_each_encoding_that_names_itself(tmp_path, encoding, end):
    labels = ["café", "Zoë\u2028b\x85c", "café", "тест"]
    paths = images(tmp_path)
    text = json_lines(paths, labels, end)
    (tmp_path / "train.jsonl").write_bytes(text.encode(encoding))
    splits = load_splits(config(tmp_path))
    assert labelled(splits, tmp_path) == dict(zip(paths, labels, strict=True))


def test_letters_of_windows_are_no_utf_8_and_never_become_one_letter_that_merges_labels(tmp_path):
    paths = images(tmp_path)
    labels = ["côte", "cöte", "côte", "cöte"]
    (tmp_path / "train.jsonl").write_bytes(json_lines(paths, labels).encode("cp1252"))
    text = faults(config(tmp_path))
    assert f"{tmp_path}/train.jsonl:1: byte 0xf4 is no utf-8; set data.encoding to what" in text
    assert "data.encoding=cp1252 for one of Windows" in text
    splits = load_splits(typed(tmp_path, "data.encoding=cp1252"))
    assert labelled(splits, tmp_path) == dict(zip(paths, labels, strict=True))
    assert "Python knows no such encoding" in faults(config(tmp_path, encoding="cp125"))


def test_utf_16_without_its_mark_is_named_and_read_when_it_is_named(tmp_path):
    paths = images(tmp_path)
    (tmp_path / "train.csv").write_bytes(
        "image,label\n".encode("utf-16-le")
        + "".join(f"{path},l{n % 2}\n" for n, path in enumerate(paths)).encode("utf-16-le")
    )
    assert "set data.encoding=utf-16-le, or convert it" in faults(config(tmp_path))
    splits = load_splits(config(tmp_path, encoding="utf-16-le"))
    assert labelled(splits, tmp_path) == {path: f"l{n % 2}" for n, path in enumerate(paths)}


# --- names of columns ---


@pytest.mark.parametrize("image", ["file_name", "filename", "path", "filepath", "File Name"])
@pytest.mark.parametrize("label", ["class", "category", "target", "Label", "category_id"])
def test_the_usual_names_of_columns_are_known_in_json_and_csv(tmp_path, image, label):
    paths = images(tmp_path)
    expected = {path: "ab"[n % 2] for n, path in enumerate(paths)}
    (tmp_path / "train.jsonl").write_text(
        json_lines(paths, list(expected.values()), image=image, label=label)
    )
    assert labelled(load_splits(config(tmp_path)), tmp_path) == expected
    (tmp_path / "train.jsonl").unlink()
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[image, "width", label]])
        csv.writer(file).writerows([[path, 7, one] for path, one in expected.items()])
    assert labelled(load_splits(config(tmp_path)), tmp_path) == expected


@pytest.mark.parametrize(
    ("header", "said", "remedy"),
    [
        (
            "picture,label",
            'train.csv has no key for the image but "picture", "label"; expected "image" or one of',
            "data.image_column=picture",
        ),
        (
            "image,kind",
            'train.csv has no key for the label but "image", "kind"; expected "label" or one of',
            "data.label_column=kind",
        ),
        (
            "image,class,category",
            'train.csv has several keys that may be the label: "class", "category"; set data.label',
            "data.label_column=class",
        ),
    ],
)
def test_keys_that_are_not_known_are_shown_and_the_remedy_reads_them(
    tmp_path, header, said, remedy
):
    paths = images(tmp_path)
    more = ",x" * (header.count(",") - 1)
    lines = [f"{path},{'ab'[n % 2]}{more}" for n, path in enumerate(paths)]
    (tmp_path / "train.csv").write_text("\n".join([header, *lines]))
    assert said in faults(config(tmp_path))
    splits = load_splits(typed(tmp_path, remedy))
    assert labelled(splits, tmp_path) == {path: "ab"[n % 2] for n, path in enumerate(paths)}


# --- CSV and TSV ---


@pytest.mark.parametrize(
    ("name", "between"), [("train.csv", ","), ("train.csv", ";"), ("train.tsv", "\t")]
)
def test_a_csv_with_a_header_is_read_with_quotes_spaces_and_empty_lines(tmp_path, name, between):
    paths = images(tmp_path)
    lines = [
        between.join(cells)
        for cells in (
            ["image", "label"],
            [paths[0], '"big, red\u2028""one"""'],
            [paths[1], " small "],
            [],
            [f'"{paths[2]}"', "small"],
        )
    ]
    (tmp_path / name).write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    splits = load_splits(config(tmp_path))
    assert labelled(splits, tmp_path) == {
        paths[0]: 'big, red\u2028"one"',
        paths[1]: "small",
        paths[2]: "small",
    }


def test_lines_of_a_csv_that_are_wrong_are_named(tmp_path):
    paths = images(tmp_path)
    lines = ["image,label", f"{paths[0]},a", f"{paths[1]},b,c", f"{paths[2]},", "gone.jpg,a"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    text = faults(config(tmp_path))
    assert text.startswith("data.root: 3 bad lines: ")
    assert "train.csv:3: 3 cells where the header has 2" in text
    assert 'train.csv:4: "label" must be a name or a whole number, got ""' in text
    assert f"train.csv:5: no such image: {tmp_path}/gone.jpg" in text
    (tmp_path / "train.csv").write_text(f"{paths[0]},a\n{paths[1]},b\n")
    assert f'has no key for the image but "{paths[0]}", "a"' in faults(config(tmp_path))


def test_two_lists_of_one_split_are_a_fault(tmp_path):
    paths = images(tmp_path)
    (tmp_path / "train.jsonl").write_text(json_lines(paths, ["a", "b"] * 2))
    (tmp_path / "Training.csv").write_text("image,label\n")
    said = "has 2 lists of the train split, Training.csv and train.jsonl; take out all but one"
    assert said in faults(config(tmp_path))


def test_lists_under_other_names_of_splits_are_read(tmp_path):
    paths = images(tmp_path, 6)
    for name, part in (("Train_labels.csv", paths[:2]), ("valid.csv", paths[2:4])):
        lines = [f"{path},{'ab'[n]}" for n, path in enumerate(part)]
        (tmp_path / name).write_text("\n".join(["image,label", *lines]))
    splits = load_splits(config(tmp_path))
    assert [len(split) for split in (splits.train, splits.val, splits.test)] == [2, 2, 0]
    assert data_settings_of(tmp_path)["name"] == "annotations"


# --- Hugging Face's ImageFolder ---


def test_metadata_of_hugging_face_beside_the_images_of_each_split(tmp_path):
    for split in ("train", "validation"):
        paths = [path.removeprefix("./") for path in images(tmp_path / split, 4, ".")]
        text = json_lines(paths, ["a", "b"] * 2, image="file_name")
        (tmp_path / split / "metadata.jsonl").write_text(text)
    assert data_settings_of(tmp_path)["name"] == "annotations"
    splits = load_splits(config(tmp_path))
    assert splits.val.paths == [f"{tmp_path}/validation/{n}.jpg" for n in range(4)]
    assert splits.val.labels.tolist() == [0, 1, 0, 1]


def test_one_list_of_images_in_folders_of_splits_is_split_by_these(tmp_path):
    paths = [*images(tmp_path, 4, "train"), *images(tmp_path, 2, "test")]
    lines = [f"{path},{'ab'[n % 2]}" for n, path in enumerate(paths)]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    splits = load_splits(config(tmp_path, val_fraction=0.5))
    assert splits.test.paths == [f"{tmp_path}/test/{n}.jpg" for n in range(2)]
    assert (len(splits.train), len(splits.val)) == (2, 2)
    assert "each is in that split" in splits.notes[0]


# --- paths ---


def test_paths_are_found_as_windows_writes_them_absolute_and_in_the_folder_of_images(tmp_path):
    root = tmp_path / "data"
    paths = images(root)
    elsewhere = images(tmp_path, 1, "elsewhere")[0]
    listed = [paths[0].replace("/", "\\"), f"{root}/{paths[1]}", f"./{paths[2]}"]
    listed.append(f"{tmp_path}/{elsewhere}")
    (root / "train.jsonl").write_text(json_lines(listed, ["a", "b"] * 2))
    splits = load_splits(config(root))
    assert labelled(splits, root) == dict(
        zip([*paths[:3], f"../{elsewhere}"], ["a", "b"] * 2, strict=True)
    )
    assert splits.notes == ["1 paths are read with / for \\: crops\\0.jpg"]


@pytest.mark.parametrize("folder", ["train", "images"])
def test_names_alone_are_found_in_the_folder_of_the_images(tmp_path, folder):
    paths = images(tmp_path, 4, folder)
    lines = [f"{Path(path).name},{'ab'[n % 2]}" for n, path in enumerate(paths)]
    (tmp_path / "train.csv").write_text("\n".join(["filename,label", *lines]))
    splits = load_splits(config(tmp_path))
    assert labelled(splits, tmp_path) == {path: "ab"[n % 2] for n, path in enumerate(paths)}
    assert splits.notes == [f"the paths in train.csv begin in {folder}"]


def test_a_path_of_another_machine_is_named_as_one(tmp_path):
    images(tmp_path)
    listed = ["C:\\data\\0.jpg", "crops\\9.jpg"]
    (tmp_path / "train.jsonl").write_text(json_lines(listed, ["a", "b"]))
    text = faults(config(tmp_path))
    assert r"no such image here: C:\data\0.jpg, a path of a Windows machine; paths begin in" in text
    assert rf"no such image: {tmp_path}/crops\9.jpg" in text


# --- labels ---


@pytest.mark.parametrize(
    ("name", "labels", "classes", "note"),
    [
        ("train.csv", ["10", "9", "2", "9"], ["2", "9", "10"], None),
        ("train.csv", ["10", "09", "2", "9"], ["09", "10", "2", "9"], None),  # shirts' numbers
        ("train.csv", ["1.0", "0.0", "2.0", "1.0"], ["0", "1", "2"], "decimals"),
        ("train.csv", ["1.0", "0", "2.0", "1"], ["0", "1", "2"], "decimals"),
        ("train.jsonl", [1.0, 0, 2.0, 1], ["0", "1", "2"], "decimals"),
        ("train.jsonl", [1, "b", 2, "c"], ["1", "2", "b", "c"], "labels are numbers (1, 2) and"),
        ("train.jsonl", [1, "1", 2, "2"], ["1", "2"], "labels are numbers (1, 2) and texts (1, 2)"),
    ],
)
def test_labels_that_are_numbers_make_one_class_a_number(tmp_path, name, labels, classes, note):
    labels = labels * 2
    paths = images(tmp_path, 8)
    if name.endswith("jsonl"):
        text = json_lines(paths, labels)
    else:
        rows = [f"{path},{label}" for path, label in zip(paths, labels, strict=True)]
        text = "\n".join(["image,label", *rows])
    (tmp_path / name).write_text(text)
    splits = load_splits(config(tmp_path))
    assert splits.classes == classes
    assert [note in said for said in splits.notes] == [True] if note else splits.notes == []


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, "1.0", 2, "2.0"], "2 numbers are written in two ways as labels, which would be"),
        ([7, "07", "a", "b"], "1 numbers are written in two ways as labels"),
        (["1", "1.0", "a", "b"], "classes of their own: 1 and 1.0; write each in one way"),
        ([0.5, 1, 2, 3], '"label" must be a name or a whole number, got 0.5'),
    ],
)
def test_a_number_that_is_written_in_two_ways_is_a_fault(tmp_path, labels, said):
    (tmp_path / "train.jsonl").write_text(json_lines(images(tmp_path), labels))
    assert said in faults(config(tmp_path))


# --- data=PATH ---


def test_a_csv_that_is_no_list_does_not_take_the_place_of_class_folders(tmp_path):
    for name in ("ant", "bee"):
        images(tmp_path, 2, name)
    (tmp_path / "labels.csv").write_text("id,species\n0,ant\n1,bee\n")
    assert data_settings_of(tmp_path)["name"] == "imagefolder"
    (tmp_path / "labels.csv").write_text("image,label\nant/0.jpg,ant\n")
    with pytest.raises(DataError, match=r"has lists \(labels.csv\) and folders of images"):
        data_settings_of(tmp_path)


def test_a_csv_alone_is_a_list_so_that_its_fault_says_what_it_lacks(tmp_path):
    images(tmp_path)
    (tmp_path / "train.csv").write_bytes("id,größe\n0,1\n".encode("cp1252"))
    assert data_settings_of(tmp_path)["name"] == "annotations"
    with pytest.raises(ConfigError, match="byte 0xf6 is no utf-8; set data.encoding"):
        compose([f"data={tmp_path}"])
    with pytest.raises(ConfigError, match='has no key for the image but "id", "größe"'):
        compose([f"data={tmp_path}", "data.encoding=cp1252"])


def test_settings_of_lists_go_with_a_path_and_are_a_fault_where_there_are_no_lists(tmp_path):
    lists, folders = tmp_path / "lists", tmp_path / "folders"
    paths = images(lists)
    lines = [f"{path},{'ab'[n % 2]}" for n, path in enumerate(paths)]
    (lists / "train.csv").write_text("\n".join(["photo,label", *lines]))
    words = ["data.batch_size=1", "data.image_column=photo"]
    cfg = compose([f"data={lists}", *words])
    assert (cfg.data.name, cfg.data.image_column) == ("annotations", "photo")
    assert len(load_splits(cfg.data).train) == 2
    for name in ("ant", "bee"):
        images(folders, 4, name)
    assert not hasattr(compose([f"data={folders}", words[0]]).data, "image_column")
    said = (
        "data.image_column=photo: is a setting of data.name=annotations, and what is in .* read as"
    )
    with pytest.raises(ConfigError, match=said):
        compose([f"data={folders}", *words])


@pytest.mark.parametrize(
    ("file", "remedy"),
    [
        ("train-000000.tar", "unpack these, or give one tar file"),
        ("data/part-00000.parquet", "rename them to train.parquet or train-00000-of-00003.parquet"),
    ],
)
def test_forms_that_are_not_read_are_named_with_what_to_do(tmp_path, file, remedy):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    said = f"such as {Path(file).name}, are not read as they are: {remedy}"
    with pytest.raises(DataError, match=said):
        data_settings_of(tmp_path)


def test_a_tar_file_with_a_csv_is_read_by_it(tmp_path):
    (tmp_path / "data").mkdir()
    paths = images(tmp_path / "data")
    lines = [f"{path},{'ab'[n % 2]}" for n, path in enumerate(paths)]
    (tmp_path / "data" / "train.csv").write_text("\n".join(["image,label", *lines]))
    with tarfile.open(tmp_path / "data.tar", "w") as file:
        file.add(tmp_path / "data", arcname=".")
    assert data_settings_of(tmp_path / "data.tar")["name"] == "annotations"


def test_a_column_of_a_csv_groups_images(tmp_path):
    paths = images(tmp_path, 12)
    lines = [f"{path},{'ab'[n % 2]},p{n // 4}" for n, path in enumerate(paths)]
    (tmp_path / "annotations.csv").write_text("\n".join(["image,label,player", *lines]))
    splits = load_splits(typed(tmp_path, "data.group_by=column:player"))
    for split in (splits.train, splits.val, splits.test):
        assert len({int(Path(path).stem) // 4 for path in split.paths}) == 1
        assert len(split) == 4
