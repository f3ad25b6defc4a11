"""What predict says of an image is what an evaluation says of it, wherever the image lies."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config import AugmentConfig, EmaConfig
from clf.config.saved import save
from clf.data.found import find_images
from clf.run import evaluate
from clf.run_folder import RunFolder
from clf.scoring import predict
from launch import predict as command
from tests import tiny

COLOURS = {"cat": (220, 40, 40), "dog": (40, 220, 40), "o\nwl": (40, 40, 220)}


def write(folder: Path, colour: tuple[int, int, int], count: int, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.normal(colour, 70, size=(40, 30, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.jpg")


def train(place: Path, name: str, **settings) -> Path:
    data = {"name": "imagefolder", **settings.pop("data", {})}
    model = {"learning_rate": 0.03}
    cfg = tiny.config(str(place / "data"), data=data, model=model, epochs=1, **settings)
    RunFolder.create(place / name)
    save(cfg, RunFolder(place / name).config)
    tiny.fit(cfg, str(place / name))
    return place / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("predict")
    for number, (name, colour) in enumerate(COLOURS.items()):
        write(place / "data" / name, colour, 20, number)
    train(place, "run", ema=EmaConfig(decay=0.5))
    return place


def test_the_numbers_are_the_evaluations_to_the_last_bit(place):
    """The last batch is not full, and the weights are an average, as in an evaluation."""
    run = place / "run"
    expected = evaluate(run, "train", progress=False).predictions
    found = predict(run, expected.images, top_k=9, progress=False)
    assert found.images == expected.images
    assert found.top_NK.shape == (len(expected), 3)
    assert found.top_NK[:, 0].tolist() == expected.predicted_N.tolist()
    ours_NC = np.take_along_axis(expected.probabilities_NC, found.top_NK, axis=1)
    assert found.probabilities_NK.tobytes() == ours_NC.tobytes()


def test_a_mirror_image_is_averaged_only_where_the_run_knows_mirror_images(place):
    run = train(place, "unflipped", data={"augment": AugmentConfig(horizontal_flip=0.0)})
    images = sorted(map(str, (place / "data" / "dog").iterdir()))
    with pytest.raises(ValueError, match="trained without mirror images"):
        predict(run, images, tta=True, progress=False)
    assert command.main([str(run), images[0], "--tta"]) == 2

    mirrored = []
    for path in images:
        pixels = np.asarray(Image.open(path))[:, ::-1]
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "PNG")
        mirrored.append(content.getvalue())
    as_png = [_png(path) for path in images]
    known = {"top_k": 3, "progress": False}
    one, other = (by_class(predict(place / "run", each, **known)) for each in (as_png, mirrored))
    both = predict(place / "run", as_png, tta=True, **known)
    assert both.views == ["the image", "its mirror image"]
    assert np.abs(one - other).max() > 1e-5
    np.testing.assert_allclose(by_class(both), (one + other) / 2, atol=1e-6)
    assert (np.diff(both.probabilities_NK) <= 0).all()


def _png(path: str) -> bytes:
    content = io.BytesIO()
    Image.open(path).save(content, "PNG")
    return content.getvalue()


def by_class(labelled) -> np.ndarray:
    """The probabilities [N, C] in label order."""
    probabilities_NC = np.empty_like(labelled.probabilities_NK)
    np.put_along_axis(probabilities_NC, labelled.top_NK, labelled.probabilities_NK, axis=1)
    return probabilities_NC


@pytest.fixture
def photos(place, tmp_path, monkeypatch) -> Path:
    """photos/ with two folders, what is no image, an image that is broken, and a tar file."""
    write(tmp_path / "photos" / "a", (220, 40, 40), 2, 7)
    write(tmp_path / "photos" / "b" / "deep", (40, 220, 40), 1, 8)
    (tmp_path / "photos" / "notes.txt").write_text("none")
    (tmp_path / "photos" / "b" / "back").symlink_to(tmp_path / "photos")
    with tarfile.open(tmp_path / "more.tar", "w") as tar:
        tar.add(place / "data" / "dog" / "00.jpg", "./x/00.jpg")
        tar.add(tmp_path / "photos" / "notes.txt", "x/notes.txt")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
    monkeypatch.chdir(tmp_path)
    return tmp_path


IN_PHOTOS = ["photos/a/00.jpg", "photos/a/01.jpg", "photos/b/deep/00.jpg"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["photos"], IN_PHOTOS),
        (["photos/b/deep/00.jpg", "photos"], [*IN_PHOTOS[2:], *IN_PHOTOS[:2]]),  # each once
        (["photos/*/0*.jpg"], IN_PHOTOS[:2]),
        (["photos/**/0*.jpg"], IN_PHOTOS),
        (["more.tar"], ["more.tar/x/00.jpg"]),
    ],
)
def test_files_folders_patterns_and_tar_files_are_found(photos, words, expected):
    found = find_images(words)
    assert [str(image) for image in found.images] == expected
    assert not found.unread


def test_what_gives_no_image_is_named_with_the_reason(photos):
    with tarfile.open("packed.tar.gz", "w:gz") as tar:
        tar.add("photos/a", "a")
    Path("cut.tar").write_bytes(Path("more.tar").read_bytes()[:3000])
    found = find_images(["gone.jpg", "*.webp", "packed.tar.gz", "photos", "cut.tar"])
    assert found.unread["gone.jpg"] == "there is no such file or folder"
    assert found.unread["*.webp"] == "nothing matches this pattern"
    assert "uncompress it" in found.unread["packed.tar.gz"]
    assert "cut.tar" in found.unread
    assert found.notes == ["1 file is not read, having no name of an image: 1 .txt"]


def test_the_command_labels_what_it_can_and_names_the_rest(place, photos, monkeypatch, capsys):
    class Input:
        buffer = io.BytesIO(b"photos/a\nbroken.jpg\n\ngone.jpg\n")

    monkeypatch.setattr("sys.stdin", Input)
    run = str(place / "run")
    assert command.main([run, "-", "more.tar", "--out", "l.csv", "--top-k", "2"]) == 1
    said = capsys.readouterr()
    assert "not labelled: broken.jpg: cannot be read as an image" in said.err
    assert "on_bad_image" not in said.err  # which is a setting of a training
    assert "not labelled: gone.jpg: there is no such file or folder" in said.err
    with open("l.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [*IN_PHOTOS[:2], "more.tar/x/00.jpg"]
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2"]
    assert all(row["path"] in said.out for row in rows)

    assert command.main([run, "more.tar", "--out", "l.jsonl"]) == 0
    assert command.main([run, "more.tar", "--out", "l.parquet", "--device", "cpu"]) == 0
    (line,) = map(json.loads, Path("l.jsonl").read_text().splitlines())
    assert line["path"] == "more.tar/x/00.jpg"
    top = [(one["label"], np.float32(one["probability"])) for one in line["top"]]
    assert top[0] == (line["label"], np.float32(line["probability"]))
    import pyarrow.parquet

    (row,) = pyarrow.parquet.read_table("l.parquet").to_pylist()
    assert (row["path"], row["label"]) == (line["path"], line["label"])
    assert [(one["label"], np.float32(one["probability"])) for one in row["top"]] == top


def test_of_many_images_there_is_a_summary_in_which_no_name_breaks_a_line(place, capsys):
    assert command.main([str(place / "run"), str(place / "data")]) == 0
    lines = capsys.readouterr().out.splitlines()
    (head,) = [number for number, line in enumerate(lines) if line.startswith("label ")]
    counts = {}
    for line in lines[head + 1 :]:
        if not line:
            break
        counts[line.split()[0]] = int(line.split()[1])
    assert sum(counts.values()) == 60
    assert set(counts) <= {"cat", "dog", "o\\nwl"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.jpg", "--top-k", "0"], "--top-k 0: expected at least 1"),
        (["x.jpg", "--out", "labels.xlsx"], "expected a file that ends in .csv, .jsonl or"),
        (["gone.jpg"], "there is no image to predict"),
        (["{image}", "--device", "tpu"], "device tpu: expected auto, cpu, cuda"),
    ],
)
def test_what_is_wrong_with_the_command_is_said_before_anything_runs(place, words, message, capsys):
    image = str(place / "data" / "cat" / "00.jpg")
    words = [word.format(image=image) for word in words]
    assert command.main([str(place / "run"), *words]) == 2
    assert message in capsys.readouterr().err
