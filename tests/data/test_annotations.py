"""annotations.jsonl to splits, and bad lines named by file and line."""

import json
from pathlib import Path

import pytest

from clf.config import DataConfig
from clf.data.index import DataError, load_splits, survey


def config(root: Path) -> DataConfig:
    return DataConfig(name="annotations", root=str(root), batch_size=1)


def write(path: Path, rows: list, images: bool = True) -> None:
    """A file of annotations, and (empty) images beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    for row in rows if images else []:
        if isinstance(row, dict):
            (path.parent / row["image"]).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / row["image"]).touch()


def rows(labels: list, prefix: str = "crops") -> list[dict]:
    return [
        {"image": f"{prefix}/{n:03d}.jpg", "label": label, "source": "game 3"}
        for n, label in enumerate(labels)
    ]


def test_a_file_a_split_beside_the_images(tmp_path):
    write(tmp_path / "train.jsonl", rows(["7", "00", "0", "7"]))
    write(tmp_path / "val.jsonl", rows(["0", "7"], "v"))
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["0", "00", "7"]
    assert splits.train.labels.tolist() == [2, 1, 0, 2]
    assert splits.val.labels.tolist() == [0, 2]
    assert splits.val.paths == [f"{tmp_path}/v/000.jpg", f"{tmp_path}/v/001.jpg"]
    assert len(splits.test) == 0


def test_a_folder_a_split_has_paths_from_that_folder(tmp_path):
    for split in ("train", "val", "test"):
        write(tmp_path / split / "annotations.jsonl", rows(["a", "b"]))
    splits = load_splits(config(tmp_path))
    assert splits.test.paths == [f"{tmp_path}/test/crops/{n:03d}.jpg" for n in range(2)]


def test_a_single_file_is_split_class_by_class(tmp_path):
    write(tmp_path / "annotations.jsonl", rows(["a"] * 20 + ["b"] * 20))
    splits = load_splits(config(tmp_path))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (32, 4, 4)
    assert splits.test.labels.tolist() == [0, 0, 1, 1]


def test_whole_numbers_are_in_the_order_of_numbers(tmp_path):
    write(tmp_path / "train.jsonl", rows([10, 9, 2]))
    write(tmp_path / "val.jsonl", rows([9], "v"))
    assert load_splits(config(tmp_path)).classes == ["2", "9", "10"]


def test_a_name_among_numbers_makes_all_names(tmp_path):
    write(tmp_path / "train.jsonl", rows([10, "00", 2]))
    write(tmp_path / "val.jsonl", rows([2], "v"))
    splits = load_splits(config(tmp_path))
    assert splits.classes == ["00", "10", "2"]
    assert splits.val.labels.tolist() == [2]


def test_every_bad_line_is_named_by_file_and_line_with_its_fault(tmp_path):
    good = rows(["a", "b"])
    bad = [
        '{"image": "x.jpg", "label": ',
        "[1, 2]",
        '{"label": "a"}',
        '{"image": "crops/000.jpg"}',
        '{"image": "crops/000.jpg", "label": 1.5}',
        '{"image": "crops/000.jpg", "label": true}',
        '{"image": "crops/000.jpg", "label": ""}',
        '{"image": "crops/gone.jpg", "label": "a"}',
    ]
    write(tmp_path / "train.jsonl", [*good, "", *bad])
    write(tmp_path / "val.jsonl", good)
    with pytest.raises(DataError) as caught:
        load_splits(config(tmp_path))
    text, file = str(caught.value), tmp_path / "train.jsonl"
    assert text.startswith("data.root: 8 bad lines: ")
    for line, fault in {
        4: "no JSON (Expecting value at column 29)",
        5: 'expected {"image": ..., "label": ...}, got [1, 2]',
        6: '"image" must be the path of a file',
        7: '"label" must be a name or a whole number, got null',
        8: '"label" must be a name or a whole number, got 1.5',
        9: '"label" must be a name or a whole number, got true',
        10: '"label" must be a name or a whole number, got ""',
        11: f"no such image: {tmp_path}/crops/gone.jpg",
    }.items():
        assert f"{file}:{line}: {fault}" in text
    assert survey(config(tmp_path))[1] == [text]


def test_very_many_bad_lines_are_counted_and_ten_shown(tmp_path):
    write(tmp_path / "train.jsonl", [*rows(["a", "b"]), *["no"] * 30])
    write(tmp_path / "val.jsonl", rows(["a"]))
    with pytest.raises(DataError, match=r"30 bad lines: .*:12: no JSON .* and 20 more$"):
        load_splits(config(tmp_path))


def test_a_validation_label_that_training_lacks_is_named_by_its_line(tmp_path):
    write(tmp_path / "train.jsonl", rows(["a", "b"]))
    write(tmp_path / "val.jsonl", rows(["a", "dingo"], "v"))
    with pytest.raises(DataError, match=rf"'dingo' \({tmp_path}/val.jsonl:2\)"):
        load_splits(config(tmp_path))


def test_a_folder_without_annotations_is_refused_with_what_is_expected(tmp_path):
    (tmp_path / "classes.csv").touch()
    with pytest.raises(
        DataError, match=r"has no train.jsonl but classes.csv; expected train.jsonl"
    ):
        load_splits(config(tmp_path))


def test_an_empty_file_of_annotations_is_named(tmp_path):
    write(tmp_path / "train.jsonl", rows(["a", "b"]))
    (tmp_path / "val.jsonl").write_text("\n")
    with pytest.raises(DataError, match=r"val.jsonl has no line; expected"):
        load_splits(config(tmp_path))
