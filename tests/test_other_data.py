"""An evaluation on other data than the run's own scores all that it is given, and says so."""

import csv
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config.faults import one_line
from clf.config.saved import save
from clf.predictions import Predictions
from clf.run import evaluate
from clf.run_folder import RunFolder
from launch import evaluate as command
from launch.runs.evaluations import folder_of, keep, run_of
from launch.terminal.screen import console
from launch.terminal.summary import print_per_class, print_result
from slurm.stage import stage
from tests import tiny

CLASSES = {"c\ta\nt": (220, 40, 40), "dog": (40, 220, 40), "owl": (40, 40, 220)}
CAT = next(iter(CLASSES))


def write(root: Path, each: int, classes=tuple(CLASSES), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.normal(CLASSES[name], 70, size=(24, 24, 3)).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


def train(root: Path, folder: Path, **settings) -> Path:
    data = {"name": "imagefolder", **settings.pop("data", {})}
    cfg = tiny.config(str(root), data=data, model={"learning_rate": 0.03}, **settings)
    RunFolder.create(folder)
    save(cfg, RunFolder(folder).config)
    tiny.fit(stage(cfg), str(folder))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("other_data")
    train(write(place / "own", 24), place / "run")
    return place


def test_class_folders_alone_are_one_split_that_is_scored_whole(place, tmp_path):
    root = write(tmp_path / "other", 10, seed=1)  # 30 images, and a batch has 32
    result = evaluate(place / "run", data={"root": str(root)}, progress=False)
    assert result.split == "all"
    assert result.other
    assert [row.support for row in result.per_class] == [10, 10, 10]
    assert result.scalars["all/acc_top1"] > 0.5


def test_a_class_may_be_absent_and_one_image_is_enough(place, tmp_path):
    root = write(tmp_path / "one", 1, ["owl"])
    (root / "dog").mkdir()
    result = evaluate(place / "run", data={"root": str(root)}, progress=False)
    assert [row.support for row in result.per_class] == [0, 0, 1]
    assert result.notes == [
        f"2 of the checkpoint's 3 classes have no image here: {CAT}, dog",
    ]


@pytest.mark.parametrize(
    ("splits", "split", "scored"),
    [(["test"], None, "test"), (["val"], None, "val"), (["train", "val"], "train", "train")],
)
def test_splits_that_are_given_are_scored_as_they_are(place, tmp_path, splits, split, scored):
    for name in splits:
        write(tmp_path / "data" / name, 3)
    data = {"root": str(tmp_path / "data")}
    result = evaluate(place / "run", split, data=data, progress=False)
    assert result.split == scored
    assert [row.support for row in result.per_class] == [3, 3, 3]
    others = [f"{name} (9 images)" for name in splits if name != scored]
    assert ("scored, and not" in str(result.notes)) == bool(others)


def test_lists_are_recognised_and_none_of_them_has_to_train(place, tmp_path):
    root = tmp_path / "lists"
    write(root / "images", 2)
    lines = [f"images/{name}/01.png,{name}" for name in ("dog", "owl")]
    (root / "test.csv").write_text("\n".join(["image,label", *lines]))
    result = evaluate(place / "run", data={"root": str(root)}, progress=False)
    assert [row.support for row in result.per_class] == [0, 1, 1]


def test_a_class_that_the_run_does_not_know_is_refused(place, tmp_path):
    root = write(tmp_path / "other", 2)
    (root / "dog").rename(root / "wolf")
    with pytest.raises(ValueError, match=r"other classes .* differ in \['dog', 'wolf'\]"):
        evaluate(place / "run", data={"root": str(root)}, progress=False)


def test_a_split_that_has_to_be_drawn_is_said(place, tmp_path):
    copy = shutil.copytree(place / "own", tmp_path / "copy")
    own = evaluate(place / "run", progress=False)
    moved = evaluate(place / "run", "test", data={"root": str(copy)}, progress=False)
    assert moved.scalars == own.scalars
    assert "6 of their 72 images are drawn as for a training" in " ".join(moved.notes)
    assert not own.other
    write(tmp_path / "few", 3)
    few = {"root": str(tmp_path / "few")}
    with pytest.raises(ValueError, match="leave the split out to have all images scored"):
        evaluate(place / "run", "test", data=few, progress=False)


def test_every_class_has_its_probability_and_each_image_its_path_as_given(
    place, tmp_path, monkeypatch, capsys
):
    write(tmp_path / "other", 4, seed=2)
    monkeypatch.chdir(tmp_path)
    before = (place / "run" / "predictions" / "test.npz").read_bytes()
    words = [str(place / "run"), "data.root=other", "--predictions", "p.csv"]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    with open("p.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows[:2]] == [f"other/{CAT}/00.png", f"other/{CAT}/01.png"]
    result = evaluate(place / "run", data={"root": "other"}, progress=False)
    found = result.predictions
    for number, row in enumerate(rows):
        columns = [np.float32(row[f"probability/{name}"]) for name in CLASSES]
        assert columns == found.probabilities_NC[number].tolist()  # to the last bit
        assert np.float32(row["probability"]) == max(columns)
    run = run_of(result.checkpoint)
    kept = folder_of(run, result.cfg.data)
    assert f"kept in      {kept.path}" in said
    assert Predictions.read(kept.predictions_of("all")).images == found.images
    assert (place / "run" / "predictions" / "test.npz").read_bytes() == before
    keep(kept, found, result.per_class)  # once more, in the same place
    assert len(list((run.path / "evaluations").iterdir())) == 1


def test_the_report_of_other_data_lies_beside_what_is_kept_of_them(
    place, tmp_path, monkeypatch, capsys
):
    write(tmp_path / "other", 3, seed=3)
    monkeypatch.chdir(tmp_path)
    own = place / "run" / "report.html"
    before = own.read_bytes() if own.exists() else None
    assert command.main([str(place / "run"), "data.root=other", "--report"]) == 0
    (page,) = (place / "run" / "evaluations").glob("other-*/report.html")
    assert f"report       {page}" in capsys.readouterr().out
    assert "other/dog/00.png" in page.read_text()
    assert before == (own.read_bytes() if own.exists() else None)
    assert command.main([str(place / "run"), "--report", "data.root=other"]) == 2
    assert "the flag alone at the end" in capsys.readouterr().err
    assert command.main([str(place / "run"), "data.root=other", "--report", "here.html"]) == 0
    assert Path("here.html").is_file()


def test_a_run_that_was_trained_from_a_tar_file_is_evaluated_from_it(place, tmp_path, monkeypatch):
    archive = tmp_path / "own.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(place / "own", ".")
    staged = {"stage": "node", "stage_dir": str(tmp_path / "disk")}
    run = train(archive, tmp_path / "run", data=staged, epochs=1, limit_batches=2)
    shutil.rmtree(tmp_path / "disk")  # the job's copy is gone after it
    monkeypatch.chdir(tmp_path)
    assert command.main([str(run), "--predictions", "p.csv"]) == 0
    with open("p.csv", newline="") as file:
        images = [row["image"] for row in csv.DictReader(file)]
    assert len(images) == 6
    assert all(image.startswith(f"{archive}/") for image in images)

    out = console(width=200)
    with out.capture() as said:
        print_result(out, run, {"test/acc_top1": 0.5})
    assert "worst first (limit_batches=2: at most 2 batches a rank, 6 images)" in said.get()


def test_names_with_line_breaks_and_tabs_break_no_table(place):
    result = evaluate(place / "run", progress=False)
    out = console(width=200)
    with out.capture() as said:
        print_per_class(out, result.per_class, result.split, result.scalars)
    (line,) = [line for line in said.get().splitlines() if "c\\ta\\nt" in line]
    assert line.split()[:2] == ["c\\ta\\nt", "2"]
    assert one_line("caf\udce9\x1b[2J") == "caf\\xe9\\x1b[2J"
