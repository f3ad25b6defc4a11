"""launch/check_data.py --run finds labels that are wrong, and no run judges what it has learned.
The truth is known here: the tests give some images another label."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clf.config import DataConfig
from clf.config.saved import save
from clf.data.findings import Item
from clf.data.inspection import Facts
from clf.data.label_errors import Scores, fingerprints, suspects
from clf.data.overlap import Member
from clf.data.reader import DataError
from clf.predictions import Predictions
from launch.check_data import main
from tests import tiny

CLASSES = ["ant", "bee", "cow", "dog", "eel"]
CFG = DataConfig(root="/data")


class Made:
    """Images with known classes, some under another label, and what networks say of them.

    Args:
        flipped: share of the labels that are wrong
    """

    def __init__(self, images: int = 1000, flipped: float = 0.1, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        C = len(CLASSES)
        self.truth_M = self.rng.integers(C, size=images)
        self.wrong_M = self.rng.random(images) < flipped
        other_M = (self.truth_M + self.rng.integers(1, C, size=images)) % C
        self.labels_M = np.where(self.wrong_M, other_M, self.truth_M)
        self.members = [
            Member("train", CLASSES[label], b"", f"/data/{CLASSES[label]}/{place}.png")
            for place, label in enumerate(self.labels_M)
        ]
        self.facts = [Facts(one.place, content=one.place) for one in self.members]

    def probabilities(self) -> np.ndarray:
        """Of a network that knows 95 images in 100."""
        logits_MC = self.rng.normal(size=(len(self.truth_M), len(CLASSES)))
        logits_MC[np.arange(len(logits_MC)), self.truth_M] += 4.5 * self.rng.beta(
            5, 1.2, size=len(logits_MC)
        )
        exp_MC = np.exp(logits_MC)
        return (exp_MC / exp_MC.sum(axis=1, keepdims=True)).astype(np.float32)

    def predictions(self, chosen: np.ndarray, root: str = "/data", order: str = "") -> Predictions:
        """Of a split, by a run of its own.

        Args:
            chosen: the members
            order: the run's classes by their first letters; "": as here
        """
        columns = [[name[0] for name in CLASSES].index(letter) for letter in order]
        columns = columns or [*range(len(CLASSES))]
        probabilities_NC = self.probabilities()[chosen][:, columns]
        return Predictions(
            "val",
            [CLASSES[column] for column in columns],
            [self.members[place].place.replace("/data", root, 1) for place in chosen],
            np.arange(len(chosen)),
            np.full(len(chosen), -1),
            probabilities_NC.argmax(axis=1),
            probabilities_NC,
        )

    def fingerprints(self, chosen: np.ndarray) -> np.ndarray:
        return fingerprints([self.members[place].place for place in chosen], CFG)

    def scores(self) -> Scores:
        return Scores(self.members, self.facts, CFG, CLASSES)

    def found(self, scores: Scores) -> list[int]:
        items = [Item(str(place), one.split, one.label) for place, one in enumerate(self.members)]
        found, _, _ = scores.findings(items)
        return [int(group[0].place) for one in found for group in one.groups]


NONE = np.array([], dtype=np.uint64)


def test_most_wrong_labels_are_found_and_most_of_what_is_found_is_wrong() -> None:
    made = Made()
    found = suspects(made.labels_M, made.probabilities())
    right = made.wrong_M[found]
    assert right.mean() >= 0.9  # precision; of the images where the network is wrong: 0.5
    assert right.sum() / made.wrong_M.sum() >= 0.85  # recall
    assert right[: len(right) // 2].mean() >= 0.95  # the worst come first


def test_a_network_that_errs_makes_no_label_wrong() -> None:
    made = Made(flipped=0)
    assert len(suspects(made.labels_M, made.probabilities())) <= 5


def test_runs_together_score_every_image_once_and_find_its_wrong_labels() -> None:
    made = Made()
    together, all_images = made.scores(), np.arange(len(made.members))
    for fold in range(4):
        held_out = all_images[fold::4]
        trained_on = made.fingerprints(np.setdiff1d(all_images, held_out))
        assert together.add(f"run{fold}", made.predictions(held_out), trained_on) == len(held_out)
    members_N, _, runs_N = together.mean()
    assert members_N.tolist() == all_images.tolist()
    assert set(runs_N) == {1}
    found = made.found(together)
    assert made.wrong_M[found].sum() / made.wrong_M.sum() >= 0.85
    assert made.wrong_M[found].mean() >= 0.85


def test_a_run_never_scores_an_image_that_it_was_trained_on_nor_a_copy_of_one() -> None:
    made = Made(images=100)
    made.facts[7].content = made.facts[90].content  # the same bytes under two names
    scores = made.scores()
    trained_on = made.fingerprints(np.arange(50, 100))
    all_images = made.predictions(np.arange(100))
    assert scores.add("run", all_images, trained_on) == 49
    assert scores.mean()[0].tolist() == [place for place in range(50) if place != 7]


def test_several_runs_on_one_image_count_as_their_mean_whatever_their_order_of_classes() -> None:
    made = Made(images=60)
    chosen = np.arange(60)
    first, second = made.predictions(chosen), made.predictions(chosen, order="dabec")
    scores = made.scores()
    scores.add("first", first, NONE)
    scores.add("second", second, NONE)
    _, probabilities_NC, runs_N = scores.mean()
    assert set(runs_N) == {2}
    for place, name in enumerate(CLASSES):
        columns = [one.probabilities_NC[:, one.classes.index(name)] for one in (first, second)]
        np.testing.assert_allclose(probabilities_NC[:, place], np.mean(columns, axis=0), rtol=1e-6)


def test_images_are_known_again_where_they_lay_in_another_folder() -> None:
    made = Made(images=60)
    chosen = np.arange(0, 60, 3)
    scores = made.scores()
    moved = made.predictions(chosen, root="/tmp/node/disk")
    assert scores.add("staged", moved, NONE) == 20
    assert scores.mean()[0].tolist() == chosen.tolist()


def test_runs_on_other_images_or_classes_are_refused() -> None:
    made, other = Made(images=60), Made(images=60, seed=1)
    strange = other.predictions(np.arange(60))
    strange.images[:] = [f"/elsewhere/{place}" for place in range(60)]
    with pytest.raises(DataError, match="--run mine: of the 60 images of its val split only 0 are"):
        made.scores().add("mine", strange, NONE)
    fewer = made.predictions(np.arange(60), order="abcd")
    with pytest.raises(DataError, match="has 4 classes and the data 5.*only the data has eel"):
        made.scores().add("mine", fewer, NONE)


COLOURS = {"blue": 2, "green": 1, "red": 0}  # class -> channel that is bright
FLIPPED = {"blue": "red", "green": "blue", "red": "green"}  # of three images of each class


@pytest.fixture(scope="module")
def coloured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """Images of three colours, nine of them in the folder of another; the names of the nine."""
    root = tmp_path_factory.mktemp("coloured") / "images"
    rng, wrong = np.random.default_rng(0), set()
    for name, channel in COLOURS.items():
        for place in range(40):
            pixels = rng.integers(0, 120, size=(32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 100
            label = FLIPPED[name] if place < 3 else name
            path = root / label / f"{name}{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            if place < 3:
                wrong.add(f"{label}/{path.name}")
    return root, wrong


@pytest.fixture(scope="module")
def runs(coloured: tuple[Path, set[str]], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two, each on half of the images, and not on the same half."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        data = {
            **{"name": "imagefolder", "split_seed": seed, "val_fraction": 0.3},
            **{"test_fraction": 0.2, "batch_size": 16, "micro_batch_size": 16},
        }
        cfg = tiny.config(str(coloured[0]), data=data, epochs=8, model={"learning_rate": 2e-2})
        path = folder / f"seed{seed}"
        tiny.fit(cfg, str(path))
        cfg.name, cfg.runs_dir = path.name, str(folder)
        save(cfg, path / "config.yaml")
    return [str(folder / f"seed{seed}") for seed in (0, 1)]


def test_the_command_finds_what_was_put_into_another_folder(
    coloured: tuple[Path, set[str]],
    runs: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root, wrong = coloured
    fix = ["--fix-list", "bad.txt", "--exact"]
    assert main([str(root), "--run", *runs, *fix, "--suspects"]) == 0
    said = capsys.readouterr().out
    report = json.loads(Path("data_check/images/report.json").read_text())
    (found,) = (one for one in report["findings"] if one["title"] == "probably another label")
    scored = sum(one["scored"] for one in report["labels"])
    assert f"2 runs scored {scored} of 120 images without having trained on them" in said
    assert 80 <= scored < 120  # of each image, half of the runs know it: three in four in the mean
    suspected = {item["place"] for group in found["groups"] for item in group}
    assert len(suspected & wrong) >= 5
    assert len(suspected - wrong) <= 1
    assert suspected == set(Path("bad.txt").read_text().splitlines()[1:])
    words = {item["words"] for group in found["groups"] for item in group}
    assert all(one.startswith("rather ") for one in words)
    page = Path("data_check/images/index.html").read_text()
    assert "probably another label" in page
    assert "Doubtful labels of each class" in page
    assert page.count("data:image/jpeg;base64") == len(suspected)

    sweep = str(Path(runs[0]).parent)
    assert main([str(root), "--run", sweep, *fix]) == 0  # without being asked nothing is left out
    assert json.loads(Path("data_check/images/report.json").read_text()) | {"fix_list": []} == (
        report | {"fix_list": []}
    )
    assert Path("bad.txt").read_text().splitlines()[1:] == []


def test_a_run_that_does_not_tell_what_it_learned_from_is_refused(
    coloured: tuple[Path, set[str]],
    runs: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    record = Path(runs[0]) / "predictions" / "trained_on.npy"
    record.rename(record.with_suffix(".away"))
    try:
        assert main([str(coloured[0]), "--run", runs[0]]) == 2
    finally:
        record.with_suffix(".away").rename(record)
    assert "nobody knows which images it was trained on" in capsys.readouterr().err
    assert main([str(coloured[0]), "--suspects"]) == 2
    assert "--suspects: goes with --fix-list FILE and --run RUN" in capsys.readouterr().err
