"""A run goes on with the data that it began with, and with other data where that is asked for: the
commands as they are typed, on images that change between two starts."""

import csv
from collections.abc import Callable

import pytest
import torch

from clf.config.saved import load
from clf.run import evaluate
from clf.run_folder import RunFolder, read_status
from launch import jobs, submit, train
from launch.runs import lifecycle
from tests.data.conftest import write_images

SETTINGS = (
    *("model._target_=tests.tiny.TinyModel", "trusted_packages=[tests]", "data.image_size=32"),
    *("data.batch_size=16", "data.threads=1", "strategy.accelerator=cpu", "tracking.mode=disabled"),
    *("strategy.precision=32-true", "report=false", "model.warmup_epochs=0"),
)
Train = Callable[..., int]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Train:
    """`train.py` on a folder of two classes, in a run of the name "mine"."""
    for seed, name in enumerate(("ant", "bee")):
        write_images(tmp_path / "images" / name, 40, seed=seed, side=32)
    monkeypatch.chdir(tmp_path)

    def typed(*words: str, images: str = "images") -> int:
        return train.main(["--name", "mine", "--data", images, *SETTINGS, *words])

    assert typed("epochs=1") == 0
    return typed


def rows(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics_csv.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_typed_command_goes_on_with_the_images_and_classes_of_the_run(run, tmp_path, capsys):
    write_images(tmp_path / "images" / "aardvark", 9, side=32)
    capsys.readouterr()
    assert run("epochs=2") == 0, "though there are three classes now"
    folder = RunFolder(tmp_path / "runs" / "mine")
    assert (read_status(folder.path) or {})["epoch"] == 2
    assert "aardvark" not in folder.labels_mapping.read_text()
    (tmp_path / "images").rename(tmp_path / "moved")
    assert run("epochs=3", images="moved") == 0
    assert "its own images are read from there" in " ".join(capsys.readouterr().out.split())
    (tmp_path / "moved").rename(tmp_path / "images")
    (tmp_path / "images" / "bee").rename(tmp_path / "images" / "wasp")
    capsys.readouterr()
    assert run("epochs=4") == 2
    said = capsys.readouterr().err
    assert "40 of the 80 images that the run began with are gone: " in said
    assert "--refresh-data" in said


def test_refreshing_the_data_begins_again_from_the_weights_and_keeps_all_of_before(
    run, tmp_path, capsys
):
    folder = RunFolder(tmp_path / "runs" / "mine")
    best = torch.load(folder.best, weights_only=True)["state_dict"]
    scalars = evaluate(folder.path, progress=False).scalars
    write_images(tmp_path / "images" / "wasp", 40, seed=8, side=32)
    capsys.readouterr()
    assert run("epochs=2", "--refresh-data", "--dry-run") == 0
    assert "# change: --refresh-data: the images are listed anew" in capsys.readouterr().out
    assert not (folder.path / "before-1").exists()
    assert run("epochs=2", "model.learning_rate=1e-12", "--refresh-data") == 0
    said = capsys.readouterr().out
    assert "from the weights of best.ckpt" in " ".join(said.split())
    assert "runs/mine/before-1" in said
    assert '"wasp": 2' in folder.labels_mapping.read_text()
    assert (read_status(folder.path) or {})["epoch"] == 2
    steps = [int(row["step"]) for row in rows(folder) if row["train/loss_step"]]
    assert steps == sorted(set(steps))
    # Hardly trained, the weights are those of before, and the last layer is one of three classes.
    now = torch.load(folder.last, weights_only=True)["state_dict"]
    assert torch.allclose(now["network.0.0.weight"], best["network.0.0.weight"], atol=1e-6)
    assert len(now["network.5.bias"]) == 3
    # What was before can be looked at, evaluated and compared, with its own data.
    before = folder.path / "before-1"
    assert evaluate(before, progress=False).scalars == pytest.approx(scalars)
    # And the run goes on like any other one, however it is called.
    assert run("epochs=3", "model.learning_rate=1e-12") == 0
    assert (read_status(folder.path) or {})["epoch"] == 3


def test_a_class_less_takes_the_last_layer_of_those_that_stay(run, tmp_path, capsys):
    folder = RunFolder(tmp_path / "runs" / "mine")
    write_images(tmp_path / "images" / "wasp", 40, seed=8, side=32)
    assert run("epochs=1", "--refresh-data") == 0
    bias = torch.load(folder.best, weights_only=True)["state_dict"]["network.5.bias"]
    (tmp_path / "images" / "bee").rename(tmp_path / "bee")
    assert run("epochs=1", "model.learning_rate=1e-12", "--refresh-data") == 0
    assert (folder.path / "before-2").is_dir()
    now = torch.load(folder.last, weights_only=True)["state_dict"]["network.5.bias"]
    assert torch.allclose(now, bias[[0, 2]], atol=1e-6)


def test_resume_refreshes_too_and_what_cannot_be_is_refused(run, tmp_path, capsys, monkeypatch):
    write_images(tmp_path / "images" / "wasp", 40, seed=8, side=32)
    submitted = []

    def submit_nothing(cfg, path, lease) -> None:
        submitted.append(cfg)
        lease.release()

    monkeypatch.setattr(lifecycle, "submit", submit_nothing)
    monkeypatch.setattr(jobs, "follow_job", lambda *words: 0)
    assert jobs.main(["resume", "mine", "--refresh-data"]) == 0
    folder = RunFolder(tmp_path / "runs" / "mine")
    assert load(folder.config) == submitted[0]
    assert submitted[0].model.num_classes == 3
    assert (read_status(folder.path), list(folder.checkpoints.iterdir())) == (None, [])
    assert (folder.code / "clf" / "run.py").is_file()
    assert (folder.path / "before-1" / "checkpoints" / "best.ckpt").is_file()
    capsys.readouterr()
    for command, words, answer in [
        (train.main, ["--name", "new", "--data", "images", *SETTINGS], "holds no run yet"),
        (submit.main, ["--sweep", "seed=1,2", "--data", "images", *SETTINGS], "not for --sweep"),
        (jobs.main, ["resume", "--sweep", "x"], "is for one run; name it"),
        (
            train.main,
            ["--name", "mine", "--data", "images", *SETTINGS[1:], "model=resnet18"],
            "begins from the weights of mine, which are those of tests.tiny.TinyModel",
        ),
    ]:
        assert command([*words, "--refresh-data"]) == 2
        assert answer in " ".join(capsys.readouterr().err.split())
