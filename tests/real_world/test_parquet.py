"""Lists in Parquet as pandas and Hugging Face's `datasets` write them. The tests write the files
with pyarrow, with the words that `datasets` adds; the right values are written by hand."""

import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clf.config import DataConfig
from clf.config.registry import node_schema
from clf.data import parquet
from clf.data.decode import decode
from clf.data.index import DataError, load_splits, survey
from clf.data.recognise import data_settings_of
from clf.plan import compose

HELD_MIB = re.compile(r"each process holds their \d+\.\d MiB in memory")
EMBEDDED = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
RGB = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (200, 100, 50), (1, 2, 3)]


def png(color: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, "PNG")
    return file.getvalue()


def config(root: Path, **changes: object) -> DataConfig:
    return node_schema("data", {"name": "annotations"})(
        name="annotations", root=str(root), **{"batch_size": 1, **changes}
    )


def write(path: Path, names: list[str] | None = None, **columns: object) -> None:
    """A Parquet file; `names` are those of a ClassLabel, in each column of labels."""
    table = pa.table(columns)
    if names is not None:
        kinds = {"image": "Image", "img": "Image", "photo": "Image"}
        features = {
            key: {"_type": kinds[key]} if key in kinds else {"names": names, "_type": "ClassLabel"}
            for key in columns
        }
        said = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": said})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def embedded(*numbers: int) -> pa.Array:
    """Hugging Face's column of images."""
    rows = [{"bytes": png(RGB[n]), "path": f"{n}.png"} for n in numbers]
    return pa.array(rows, EMBEDDED)


def hub(root: Path) -> None:
    """A data set as Hugging Face's hub has it: three parts for training, one for validation."""
    for part, numbers in enumerate([(0, 1), (2,), (3,)]):
        labels = [number % 2 for number in numbers]
        file = root / "data" / f"train-0000{part}-of-00003.parquet"
        write(file, ["zebra", "ant"], image=embedded(*numbers), label=labels)
    validation = root / "data" / "validation-00000-of-00001.parquet"
    write(validation, ["zebra", "ant"], image=embedded(4, 5), label=[0, 1])


def faults(cfg: DataConfig) -> str:
    with pytest.raises(DataError) as caught:
        load_splits(cfg)
    assert survey(cfg).faults == caught.value.faults
    return str(caught.value)


def test_a_data_set_of_the_hub_is_read_with_the_names_of_its_classes_and_its_own_pixels(tmp_path):
    hub(tmp_path)
    cfg = compose([f"data={tmp_path}", "data.batch_size=1"]).data
    splits = load_splits(cfg)
    assert (cfg.name, splits.classes) == ("annotations", ["ant", "zebra"])
    assert splits.train.labels.tolist() == [1, 0, 1, 0]
    assert splits.val.labels.tolist() == [1, 0]
    seen = [tuple(np.asarray(decode(image))[0, 0]) for image in splits.train.images]
    assert seen == RGB[:4]
    assert splits.train.paths[2] == f"{tmp_path}/data/train-00001-of-00003.parquet:0"
    assert splits.notes[0].startswith("6 images are in Parquet files")
    assert HELD_MIB.search(splits.notes[0])


def test_the_classes_are_known_at_submit_without_torch(tmp_path):
    hub(tmp_path)
    program = (
        "import sys\nfrom clf.plan import compose\nfrom clf.data.index import survey\n"
        f"print(survey(compose(['data={tmp_path}', 'data.batch_size=1']).data).classes)\n"
        "print({'torch', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "['ant', 'zebra']\nset()\n", done.stderr


@pytest.mark.parametrize(
    "names",
    [
        ["train.parquet", "val.parquet"],
        ["train/0000.parquet", "validation/0000.parquet"],
        ["train/part-00000-1f.snappy.parquet", "valid/part-00000-1f.snappy.parquet"],
        ["mnist/train-00000-of-00001.parquet", "mnist/test-00000-of-00001.parquet"],
        [
            "data/train-00000-of-00001-b42a775f407cee45.parquet",
            "data/test-00000-of-00001-c3ab8ff13720e8ad.parquet",
        ],
    ],
)
def test_the_places_and_names_that_tools_give_are_found(tmp_path, names):
    (tmp_path / ".cache").mkdir()  # of the program that downloads from the hub
    for name, numbers in zip(names, [(0, 1, 2, 3), (4, 5)], strict=True):
        write(tmp_path / name, image=embedded(*numbers), label=["ab"[n % 2] for n in numbers])
    assert data_settings_of(tmp_path)["name"] == "annotations"
    splits = load_splits(config(tmp_path, val_fraction=0.5))
    read = {path.rpartition(":")[0] for split in (splits.train, splits.val) for path in split.paths}
    assert read >= {f"{tmp_path}/{names[0]}"}
    assert len(splits.train) + len(splits.val) + len(splits.test) == 6


def test_columns_of_paths_bytes_and_categories_are_read(tmp_path):
    (tmp_path / "crops").mkdir()
    paths = [f"crops/{n}.jpg" for n in range(4)]
    for path in paths:
        (tmp_path / path).touch()
    labels = pa.array(["b", "a", "b", "a"]).dictionary_encode()  # as pandas' categories
    write(tmp_path / "train.parquet", file_name=paths, category=labels)
    rows = [{"bytes": None, "path": paths[0]}, {"bytes": png(RGB[0]), "path": None}]
    write(tmp_path / "val.parquet", image=pa.array(rows, EMBEDDED), label=["a", "b"])
    write(tmp_path / "test.parquet", image=[png(RGB[1])], label=["a"])
    splits = load_splits(config(tmp_path))
    assert splits.train.images == [f"{tmp_path}/{path}" for path in paths]
    assert splits.train.labels.tolist() == [1, 0, 1, 0]
    assert splits.val.images == [f"{tmp_path}/{paths[0]}", png(RGB[0])]
    assert splits.test.images == [png(RGB[1])]
    assert splits.notes[0].startswith("2 images are in Parquet files")
    assert (
        "data.encoding=cp1252 is not used"
        in load_splits(config(tmp_path, encoding="cp1252")).notes[1]
    )


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 10, 2], ["2", "9", "10"]),
        ([3.0, 1.0, 3.0, 1.0], ["1", "3"]),  # pandas makes floats of a column that had a gap
        (["10", "9", "10", "2"], ["10", "2", "9"]),
    ],
)
def test_numbers_are_sorted_as_numbers_and_texts_as_texts(tmp_path, labels, classes):
    write(tmp_path / "train.parquet", image=embedded(0, 1, 2, 3), label=labels)
    write(tmp_path / "val.parquet", image=embedded(4), label=labels[:1])
    assert load_splits(config(tmp_path)).classes == classes


def test_columns_under_other_names_are_found_by_their_kind_or_named(tmp_path):
    columns = {"photo": embedded(0, 1), "kind": [0, 1]}
    write(tmp_path / "train.parquet", ["a", "b"], **columns)
    write(tmp_path / "val.parquet", ["a", "b"], **columns)
    assert load_splits(config(tmp_path)).classes == ["a", "b"]
    columns = {"img": embedded(0, 1), "fine_label": [0, 1], "coarse_label": [1, 1]}  # CIFAR-100
    for name in ("train", "val"):
        write(tmp_path / f"{name}.parquet", ["a", "b"], **columns)
    said = 'has no key for the label but "img", "fine_label", "coarse_label"; expected "label"'
    assert said in faults(config(tmp_path))
    words = ["data=annotations", f"data.root={tmp_path}", "data.batch_size=1"]
    splits = load_splits(compose([*words, "data.label_column=fine_label"]).data)
    assert splits.train.labels.tolist() == [0, 1]


def test_labels_that_are_none_are_named_by_row(tmp_path):
    write(tmp_path / "train.parquet", ["a", "b"], image=embedded(0, 1, 2), label=[0, -1, 2])
    text = faults(config(tmp_path))
    assert text.startswith("data.root: 2 bad rows: ")
    said = 'train.parquet:1: "label" must be one of the 2 classes that the file names, from 0 on'
    assert f"{said}, got -1" in text
    write(tmp_path / "train.parquet", image=embedded(0, 1, 2), label=[[0], [1], None])
    text = faults(config(tmp_path))
    assert 'train.parquet:0: "label" must be a name or a whole number, got [0]' in text
    write(tmp_path / "train.parquet", image=[1, None], label=["a", "b"])
    assert 'train.parquet:1: "image" must be the path of a file, got null' in faults(
        config(tmp_path)
    )


def test_a_part_that_is_missing_or_of_another_version_is_a_fault(tmp_path):
    hub(tmp_path)
    part = tmp_path / "data" / "train-00001-of-00003.parquet"
    part.rename(tmp_path / "part")
    said = "is one of 3 parts, and 2 are there: part 1 is missing; put all parts there, each once"
    assert said in faults(config(tmp_path))
    (tmp_path / "part").rename(part)
    write(tmp_path / "data" / "train-00000-of-00001.parquet", image=embedded(0), label=["a"])
    said = "is one of 1 or 3 parts, and 4 are there: some are there twice; put all parts there"
    assert said in faults(config(tmp_path))
    write(tmp_path / "train.parquet", image=embedded(0), label=["a"])
    assert "has 5 lists of the train split" in faults(config(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a pointer of Git LFS"),
        (b"", "no Parquet file (Parquet file size is 0 bytes"),
        (b"image,label\n0.jpg,a\n", "no Parquet file (Parquet magic bytes not found"),
    ],
)
def test_a_file_that_is_no_parquet_is_named(tmp_path, content, said):
    (tmp_path / "train.parquet").write_bytes(content)
    assert data_settings_of(tmp_path)["name"] == "annotations"
    assert f"data.root: {tmp_path}/train.parquet: {said}" in faults(config(tmp_path))


def test_a_damaged_row_group_is_named(tmp_path):
    write(tmp_path / "train.parquet", image=embedded(0, 1, 2), label=["a", "b", "a"])
    content = bytearray((tmp_path / "train.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "train.parquet").write_bytes(content)
    assert f"{tmp_path}/train.parquet: row 0 cannot be read (" in faults(config(tmp_path))


def test_without_pyarrow_the_message_names_the_package(tmp_path, monkeypatch):
    hub(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "which is not installed: pip install 'clf[parquet]'" in faults(config(tmp_path))


def test_images_that_are_too_many_for_memory_are_refused_with_a_command_that_unpacks_them(
    tmp_path, monkeypatch
):
    hub(tmp_path / "in one")
    monkeypatch.setattr(parquet, "MOST_MIB", 1e-4)
    text = faults(config(tmp_path / "in one"))
    assert "MiB of images, which each process would keep in memory; at most 0.0001 MiB" in text
    command = shlex.split(text.partition("; in the repository: ")[2])
    command = [sys.executable, *command[1:]]
    command[command.index("FOLDER")] = str(tmp_path / "files")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == f"6 images are in {tmp_path}/files: --data {tmp_path}/files\n", (
        done.stderr
    )
    cfg = compose([f"data={tmp_path / 'files'}", "data.batch_size=1"]).data
    splits = load_splits(cfg)
    assert (splits.classes, splits.notes) == (["ant", "zebra"], [])
    assert splits.train.labels.tolist() == [1, 0, 1, 0]
    assert splits.train.paths[3] == f"{tmp_path}/files/train/0000003.png"
    assert Path(splits.val.paths[1]).read_bytes() == png(RGB[5])
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, "is there already; name a new" in again.stderr) == (1, True)


def test_a_list_of_paths_counts_for_nothing_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_MIB", 0)
    for n in range(4):
        (tmp_path / f"{n}.jpg").touch()
    write(tmp_path / "train.parquet", image=[f"{n}.jpg" for n in range(4)], label=list("abab"))
    splits = load_splits(config(tmp_path, val_fraction=0.5))
    assert (len(splits.train), len(splits.val), splits.notes) == (2, 2, [])


def test_a_column_groups_images_in_memory(tmp_path):
    players = [f"p{n // 2}" for n in range(6)]
    images = embedded(*range(6))
    write(tmp_path / "annotations.parquet", image=images, label=list("ab" * 3), player=players)
    splits = load_splits(config(tmp_path, group_by="column:player"))
    for split in (splits.train, splits.val, splits.test):
        assert len({int(path.rpartition(":")[2]) // 2 for path in split.paths}) == 1


def test_parquet_beside_class_folders_that_is_no_list_does_not_take_their_place(tmp_path):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(png(RGB[0]))
    write(tmp_path / "train.parquet", id=[1], embedding=[0.5])
    assert data_settings_of(tmp_path)["name"] == "imagefolder"


@pytest.mark.parametrize("name", ["images.parquet", "one/train.parquet"])
def test_parquet_under_other_names_is_named_with_what_to_do(tmp_path, name):
    (tmp_path / "two").mkdir()
    write(tmp_path / name, image=embedded(0), label=["a"])
    said = rf"such as {Path(name).name}, are not read as they are: rename them to train.parquet"
    with pytest.raises(DataError, match=said):
        data_settings_of(tmp_path)
