"""Data sets of torchvision.datasets on disk, in torchvision's own layout, made by hand."""

import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from clf.config import ConfigError
from clf.data.decode import decode
from clf.data.index import ImageSplits, load_splits
from clf.plan import compose

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def read(name: str, root: Path) -> ImageSplits:
    words = [f"data.dataset={name}", f"data.root={root}", "data.batch_size=1"]
    return load_splits(compose(["data=torchvision", *words]).data)


def fault(name: str, root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read(name, root)
    return str(caught.value)


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(PIXELS[number]).save(path)


def labelled(splits: ImageSplits, split: str, root: Path) -> dict[str, str]:
    """Path from `root` -> the name of the class."""
    part = getattr(splits, split)
    return {
        str(Path(path).relative_to(root)): splits.classes[label]
        for path, label in zip(part.paths, part.labels, strict=True)
    }


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches; torchvision checks the sums of the original's files, so these are told."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(name: str, numbers: range) -> list:
        flat = PIXELS[list(numbers)].transpose(0, 3, 1, 2).reshape(len(numbers), -1)
        return [[name, write(name, {"data": flat, "labels": [n % 3 for n in numbers]})]]

    there = torchvision.datasets.CIFAR10
    monkeypatch.setattr(there, "train_list", batch("data_batch_1", range(8)))
    monkeypatch.setattr(there, "test_list", batch("test_batch", range(8, 12)))
    names = {"label_names": ["truck", "cat", "bird"]}
    meta = {"filename": "batches.meta", "key": "label_names", "md5": write("batches.meta", names)}
    monkeypatch.setattr(there, "meta", meta)


def test_cifar_has_its_own_pixels_and_the_names_of_its_classes(tmp_path, monkeypatch):
    cifar(tmp_path, monkeypatch)
    splits = read("CIFAR10", tmp_path)
    assert splits.classes == ["bird", "cat", "truck"]
    assert [splits.classes[label] for label in splits.test.labels] == [
        *("bird", "truck", "cat", "bird")  # 8, 9, 10 and 11, modulo 3
    ]
    assert np.array_equal([decode(image) for image in splits.test.images], PIXELS[8:])
    assert (len(splits.train) + len(splits.val), splits.test.path(1)) == (8, "CIFAR10/test/1")
    assert splits.notes[0] == (
        "CIFAR10 is read by torchvision, so torch is imported where the run is started"
    )
    assert splits.notes[1].startswith("12 images are no files; each process holds their 0.0 MiB")


def test_mnist_is_read_from_its_raw_files(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", 12), ("t10k", 4)):
        grey = PIXELS[:count, :28, :28, 0]
        head = struct.pack(">iiii", 0x803, count, 28, 28)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + grey.tobytes())
        labels = bytes(n % 2 * 9 for n in range(count))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 0x801, count) + labels)
    splits = read("MNIST", tmp_path)
    assert splits.classes == ["0 - zero", "9 - nine"]
    assert splits.test.labels.tolist() == [0, 1, 0, 1]
    assert np.array_equal(decode(splits.test.images[3])[..., 1], PIXELS[3, :28, :28, 0])


def test_images_that_are_files_stay_files(tmp_path):
    listed = {"pie": ["pie/0", "pie/1"], "fries": ["fries/2", "fries/3"]}
    for split in ("train", "test"):
        (tmp_path / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (tmp_path / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(listed))
    for name in sum(listed.values(), []):
        save(tmp_path / "food-101" / "images" / f"{name}.jpg", int(name[-1]))
    splits = read("Food101", tmp_path)
    assert labelled(splits, "test", tmp_path / "food-101" / "images") == {
        "pie/0.jpg": "pie",
        "pie/1.jpg": "pie",
        "fries/2.jpg": "fries",
        "fries/3.jpg": "fries",
    }
    assert len(splits.notes) == 1
    (tmp_path / "food-101" / "images" / "fries" / "3.jpg").unlink()
    assert "(FileNotFoundError: 1 images are not there: " in fault("Food101", tmp_path)


def test_breeds_of_pets_are_neither_cat_or_dog_nor_their_outlines(tmp_path):
    folder = tmp_path / "oxford-iiit-pet"
    names = [("Bengal_1", 1, 1), ("beagle_1", 2, 2), ("pug_1", 3, 2), ("Bengal_2", 1, 1)]
    for number, (name, _, _) in enumerate(names):
        save(folder / "images" / f"{name}.jpg", number)
        save(folder / "annotations" / "trimaps" / f"{name}.png", 11)
    for split in ("trainval", "test"):
        lines = [f"{name} {breed} {kind} 1" for name, breed, kind in names]
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines))
    assert labelled(read("OxfordIIITPet", tmp_path), "test", folder / "images") == {
        "Bengal_1.jpg": "Bengal",
        "beagle_1.jpg": "Beagle",
        "pug_1.jpg": "Pug",
        "Bengal_2.jpg": "Bengal",
    }


def test_a_data_set_without_splits_is_split(tmp_path):
    for number in range(12):
        save(tmp_path / "eurosat" / "2750" / ["Forest", "River"][number % 2] / f"{number}.jpg", 0)
    splits = read("EuroSAT", tmp_path)
    assert splits.classes == ["Forest", "River"]
    assert len(splits.train) + len(splits.val) + len(splits.test) == 12


def test_textures_and_aircraft_have_three_splits(tmp_path):
    aircraft, textures = tmp_path / "fgvc-aircraft-2013b" / "data", tmp_path / "dtd" / "dtd"
    (textures / "labels").mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        names = [f"{number}0", f"{number}1"]
        for name, label in zip(names, ("banded", "woven"), strict=True):
            save(textures / "images" / label / f"{name}.jpg", number)
            save(aircraft / "images" / f"{name}.jpg", number)
        text = f"banded/{names[0]}.jpg\nwoven/{names[1]}.jpg\n"
        (textures / "labels" / f"{split}1.txt").write_text(text)
        text = f"{names[0]} Boeing 717\n{names[1]} A310\n"
        (aircraft / f"images_variant_{split}.txt").write_text(text)
    (aircraft / "variants.txt").write_text("Boeing 717\nA310\n")
    assert labelled(read("DTD", tmp_path), "val", textures / "images") == {
        "banded/10.jpg": "banded",
        "woven/11.jpg": "woven",
    }
    assert labelled(read("FGVCAircraft", tmp_path), "test", aircraft / "images") == {
        "20.jpg": "Boeing 717",
        "21.jpg": "A310",
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cifar-10", "MNIST, OxfordIIITPet; did you mean CIFAR10? Others of torchvision.datasets"),
        ("FasionMNIST", "data.dataset=FasionMNIST: expected one of CIFAR10, CIFAR100, DTD, "),
        ("FasionMNIST", "; did you mean FashionMNIST?"),
        ("null", "data.dataset=null: expected one of CIFAR10"),
        ("Kinetics", "MNIST, OxfordIIITPet. Others of torchvision.datasets are read by a reader"),
    ],
)
def test_a_name_that_is_none_suggests_the_nearest(tmp_path, name, said):
    assert said in fault(name, tmp_path)


def test_a_folder_without_the_files_says_what_torchvision_expects(tmp_path):
    assert "is empty; expected MNIST/raw/ in it" in fault("MNIST", tmp_path)
    (tmp_path / "photos").mkdir()
    text = fault("CIFAR10", tmp_path)
    assert f"torchvision.datasets.CIFAR10 cannot read its files in {tmp_path}, which holds " in text
    assert (
        "photos (RuntimeError: Dataset not found or corrupted.); expected cifar-10-batches" in text
    )
    assert "as torchvision.datasets.CIFAR10(root, download=True) writes them" in text
