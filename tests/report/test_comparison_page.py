"""Several runs side by side: in a page, and in short on the terminal."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clf.predictions import Predictions
from clf.run_folder import RunFolder
from launch import jobs
from launch.report import main
from slurm.records import write_sweep
from tests.report.conftest import write_predictions

CLASSES = [f"number {number}" for number in range(6)]


def make_run(folder: Path, seed: int, rate: float, better: bool = True) -> None:
    """A run folder as a finished run leaves it; not `better`: wrong for every second image of the
    first class."""
    run = RunFolder.create(folder)
    write_predictions(folder, CLASSES, images=600, seed=3)
    kept = Predictions.read(run.predictions_of("test"))
    worse_N = (kept.labels_N == 0) & (kept.indices_N % 2 == 0)
    predicted_N = kept.predicted_N if better else np.where(worse_N, 1, kept.predicted_N)
    replace(kept, predicted_N=predicted_N).write(run.predictions_of("test"))
    run.config.write_text(f"name: {folder.name}\nseed: {seed}\nmodel:\n  learning_rate: {rate}\n")
    metrics = {"test/acc_top1": 0.8 + rate, "test/acc_macro": 0.7, "test/loss": 0.5}
    run.write_json(run.status, {"state": "finished", "run": folder.name, "metrics": metrics})
    run.metrics_csv.write_text("epoch,step,val/acc_top1,val/loss\n1,9,0.5,1.2\n2,19,0.75,0.8\n")


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "runs" / name for name in ("first", "second")]
    make_run(folders[0], 0, 0.01, better=False)
    make_run(folders[1], 1, 0.1)
    return folders


def test_the_page_says_class_by_class_what_is_more_than_noise(
    two: list[Path], open_page: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(path) for path in two]) == 0
    file = two[0].parent / "compare-first-second.html"
    assert str(file) in capsys.readouterr().out
    page = open_page(file)
    verdict = page.locator("#runs li").first.inner_text()
    assert "second beside first on 600 images" in verdict
    assert "1 of 6 classes differ by more than noise" in verdict
    first = page.locator("#classes-0 tbody tr").first.locator("td").all_inner_texts()
    assert (first[0], first[-1]) == ("number 0", "yes")
    assert first[4].startswith("+")
    assert page.locator("#settings tbody tr").all_inner_texts() == [
        "seed\t0\t1",
        "model.learning_rate\t0.01\t0.1",
    ]
    assert page.locator("#compared-0 .scatterlayer .trace").count() == 2


def test_a_sweep_is_drawn_over_its_settings(
    tmp_path: Path, open_page: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, swept = tmp_path / "runs" / "rates", {}
    for number, rate in enumerate((0.01, 0.05, 0.1)):
        make_run(sweep / f"r{number}", number, rate)
        swept[f"r{number}"] = {"model.learning_rate": str(rate), "seed": str(number)}
    write_sweep(sweep, swept)
    monkeypatch.chdir(tmp_path)
    assert main(["--sweep", "rates"]) == 0
    page = open_page(sweep / "report.html")
    page.wait_for_selector("#sweep .chart .parcoords")
    card, drawn = page.locator("#sweep .chart"), page.locator("#sweep .svg-container")
    inner, outer = drawn.bounding_box(), card.bounding_box()
    assert outer["y"] <= inner["y"]
    assert inner["y"] + inner["height"] <= outer["y"] + outer["height"]
    labels = page.locator("#sweep .axis-title").all_text_contents()
    assert labels == ["model.learning_rate", "seed", "macro", "top-1"]
    assert page.locator("#sweep dl").inner_text().split("\n")[1] == "r2: top-1 90.0 %"
    assert page.locator("#sweep tbody tr").count() == 3


def test_jobs_compare_prints_the_short_form(
    two: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert jobs.main(["--runs-dir", str(two[0].parent), "compare", "first", "second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "second beside first"
    assert [line.split("  ")[0] for line in lines[2:5]] == ["top-1", "macro", "number 0"]
    assert lines[4].endswith("more than noise")
    assert "1 of 6 classes differ by more than noise" in lines
    assert any(line.split() == ["model.learning_rate", "0.01", "0.1"] for line in lines)


def test_runs_that_cannot_be_compared_say_why_and_show_their_totals(
    two: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    RunFolder(two[1]).predictions_of("test").unlink()
    assert jobs.main(["--runs-dir", str(two[0].parent), "compare", "first", "second"]) == 0
    out = capsys.readouterr().out
    assert "second has no predictions of each image" in out
    assert "top-1 81.0 %" in out
    assert jobs.main(["--runs-dir", str(two[0].parent), "compare", "first"]) == 2
    assert "expected two runs or more" in capsys.readouterr().err


def test_report_wants_runs_or_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "expected one or more runs, or --sweep NAME" in capsys.readouterr().err
