"""`--data /my/images`: class folders, lists and tar files are recognised by their content."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clf.data.reader import DataError
from clf.data.recognise import data_settings_of
from clf.plan import compose
from tests.data.conftest import write_images

Maker = Callable[[Path], None]


def class_folders(root: Path) -> None:
    for name in ("ant", "bee"):
        write_images(root / name, 12, seed=len(name))


def split_folders(root: Path) -> None:
    for split in ("train", "val"):
        class_folders(root / split)


def write_list(path: Path, folder: str, count: int = 12) -> None:
    write_images(path.parent / folder, count)
    lines = [
        {"image": f"{folder}/{number:03d}.jpg", "label": ("ant", "bee")[number % 2]}
        for number in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))


def one_list(root: Path) -> None:
    write_list(root / "annotations.jsonl", "crops")


def lists(root: Path) -> None:
    """The images of each split in a folder of its name, as many tools export them."""
    for split in ("train", "val"):
        write_list(root / f"{split}.jsonl", split)


def lists_in_folders(root: Path) -> None:
    for split in ("train", "val"):
        (root / split).mkdir()
        write_list(root / split / "annotations.jsonl", "crops")


KINDS = [
    (class_folders, "imagefolder"),
    (split_folders, "imagefolder"),
    (one_list, "annotations"),
    (lists, "annotations"),
    (lists_in_folders, "annotations"),
]


@pytest.mark.parametrize(("make", "name"), KINDS)
def test_a_path_is_read_as_what_it_holds(tmp_path: Path, make: Maker, name: str) -> None:
    make(tmp_path)
    assert data_settings_of(tmp_path) == {"name": name, "root": str(tmp_path)}
    data = compose([f"data={tmp_path}", "data.batch_size=4"]).data
    assert (data.name, data.root, data.stage) == (name, str(tmp_path), "none")
    assert (data.image_size, data.augment.horizontal_flip) == (224, 0.5)  # nothing of digits


@pytest.mark.parametrize(("make", "name"), KINDS)
@pytest.mark.parametrize("inner", [".", "pictures"])
def test_a_tar_file_is_read_as_what_it_holds(
    tmp_path: Path, make: Maker, name: str, inner: str
) -> None:
    (tmp_path / "images").mkdir()
    make(tmp_path / "images")
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as file:
        file.add(tmp_path / "images", arcname=inner)
    assert data_settings_of(path) == {"name": name, "root": str(path), "stage": "node"}
    data = compose([f"data={path}", "data.batch_size=4"]).data
    assert (data.name, data.root, data.stage) == (name, str(path), "node")


@pytest.mark.parametrize("as_tar", [False, True])
def test_lists_beside_class_folders_are_not_guessed_about(tmp_path: Path, as_tar: bool) -> None:
    root = tmp_path / "images"
    class_folders(root)
    write_list(root / "train.jsonl", "crops")
    path = root
    if as_tar:
        path = tmp_path / "images.tar"
        with tarfile.open(path, "w") as file:
            file.add(root, arcname=".")
    with pytest.raises(DataError) as caught:
        data_settings_of(path)
    (fault,) = caught.value.faults
    assert "has lists (train.jsonl) and folders of images (ant, bee, crops)" in fault
    assert (
        f"say which of them count: data=annotations or data=imagefolder, with data.root={path}"
        in fault
    )


def test_what_is_neither_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "labels.csv").touch()
    (tmp_path / "labels.csv").write_text("image,label\n")
    for path, said in {
        tmp_path / "empty": "empty is empty; expected train/, val/ and test/",
        tmp_path / "notes": "has neither folders of images nor lists of them; expected train/",
        tmp_path / "labels.csv": "is neither a folder nor a tar file; give the folder",
        tmp_path / "gone": f"there is no folder {tmp_path}/gone; {tmp_path} exists and holds",
    }.items():
        with pytest.raises(DataError, match=f"^data.root: .*{said}"):
            data_settings_of(path)
        with pytest.raises(
            ValueError, match=f"1 fault in the configuration:\n- data.root: .*{said}"
        ):
            compose([f"data={path}"])


def test_a_compressed_tar_file_is_not_read_through_to_guess(tmp_path: Path) -> None:
    class_folders(tmp_path / "images")
    path = tmp_path / "images.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(tmp_path / "images", arcname=".")
    with pytest.raises(DataError, match="say it: data=imagefolder or data=annotations, with"):
        data_settings_of(path)
