"""The report of a run in a real browser: what a person sees, clicks and types."""

import base64
import csv
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix

from clf import run
from clf.config.saved import save
from clf.predictions import Predictions, confidently_wrong, largest_confusions, least_certain
from clf.report import charts, read_run, write_report
from clf.run_folder import RunFolder
from launch.report import main
from tests import tiny
from tests.report.conftest import write_predictions

EVIL = "<script>alert(1)</script>\n\"'&"
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of two epochs on digits, with what it wrote by itself when it ended."""
    place = tmp_path_factory.mktemp("report")
    torch.set_num_threads(1)
    cfg = tiny.config(str(place / "digits"), report=True, model={"learning_rate": 0.02})
    folder = RunFolder.create(place / "run")
    save(cfg, folder.config)  # as the commands do
    run.fit(cfg, folder.path, progress=False)
    return folder


def data_of(page: Path) -> dict[str, Any]:
    """What stands in the page for its script."""
    found = re.search(r'id="report-data">(.*?)</script>', page.read_text("utf-8"), re.S)
    assert found
    return json.loads(found[1])


def test_a_run_writes_its_report_when_it_ends(finished: RunFolder) -> None:
    data = data_of(finished.report)
    for name in ("curves.png", "confusion.png"):
        with Image.open(finished.path / name) as picture:
            assert min(picture.size) > 200
    kept = Predictions.read(finished.predictions_of("test"))
    expected = confusion_matrix(kept.labels_N, kept.predicted_N)
    drawn = data["charts"]["confusion"]["data"][0]
    np.testing.assert_array_equal(drawn["customdata"], expected)
    with (finished.per_class / "test.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row[:3] for row in data["tables"]["classes"]["rows"]] == [
        [row["class"], int(row["support"]), int(row["correct"])] for row in rows
    ]
    counts = json.loads(finished.data.read_text())["images"]
    assert sum(counts["test"].values()) == len(kept)
    pictures = [one["picture"] for one in data["images"]]
    assert pictures
    assert all(base64.b64decode(one)[:2] == b"\xff\xd8" for one in pictures)
    with Image.open(finished.train_images) as grid:
        assert grid.size == (8 * 32, 32)  # of the first micro-batch, 8 images of 32 pixels


def test_the_charts_are_what_plotly_takes(finished: RunFolder) -> None:
    for chart in data_of(finished.report)["charts"].values():
        go.Figure(chart)  # ValueError: an unknown name or value


def test_the_first_screen_says_what_was_trained_and_how_well(
    finished: RunFolder, open_page: Any
) -> None:
    page = open_page(finished.report)
    accuracy = json.loads(finished.status.read_text())["metrics"]["test/acc_top1"]
    shown = page.locator("header").inner_text()
    for words in (f"{100 * accuracy:.1f} %", "TinyModel, adamw", "10 classes", "CPU", "restarts"):
        assert words in shown
    assert f"--config {finished.config.resolve()}" in shown, "a command that works as it stands"
    assert page.locator("nav a").all_inner_texts()[:3] == ["Curves", "Classes", "Confusion"]


def test_the_table_sorts_and_filters_by_keyboard_alone(finished: RunFolder, open_page: Any) -> None:
    page = open_page(finished.report)
    first = page.locator("#classes tbody tr:first-child td:first-child")
    page.locator("#classes th button", has_text="class").focus()
    page.keyboard.press("Enter")
    assert first.inner_text() == "0"
    page.keyboard.press("Enter")
    assert first.inner_text() == "9"
    assert page.locator("#classes th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator("#classes input").focus()
    page.keyboard.type("3")
    assert page.locator("#classes tbody tr").count() == 1
    assert "1 rows" in page.locator("#classes .tools").inner_text()


def test_a_click_on_a_confusion_shows_its_images(finished: RunFolder, open_page: Any) -> None:
    page = open_page(finished.report)
    kept = Predictions.read(finished.predictions_of("test"))
    pair = largest_confusions(kept)[1]
    words = f"{pair.label}, taken for {pair.predicted}"
    panel = page.locator("#confusion-pictures")
    page.locator("#confusion-list button").nth(1).focus()
    page.keyboard.press("Enter")
    assert panel.locator("h3").inner_text() == words
    assert panel.locator("figure").count() == len(pair.rows)
    assert panel.locator("img").first.evaluate("image => image.naturalWidth") > 0
    page.locator("#confusion-list button").first.click()
    assert panel.locator("h3").inner_text() != words
    # The same by a click on the matrix: where the cell is, plotly itself knows.
    where = page.evaluate(
        """([row, column]) => {
            const place = document.getElementById("confusion"), inner = place._fullLayout;
            place.scrollIntoView({block: "center"});
            const box = place.getBoundingClientRect();
            return [box.left + inner.xaxis._offset + inner.xaxis.c2p(column),
                    box.top + inner.yaxis._offset + inner.yaxis.c2p(row)];
        }""",
        [pair.label, pair.predicted],
    )
    page.mouse.move(where[0], where[1])
    page.mouse.click(*where)
    page.wait_for_function(
        "words => document.querySelector('#confusion-pictures h3')?.textContent === words",
        arg=words,
        timeout=5000,
    )


def test_it_fits_a_phone_and_follows_the_dark_scheme(finished: RunFolder, open_page: Any) -> None:
    phone = open_page(finished.report, **PHONE)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    dark = open_page(finished.report, color_scheme="dark")
    assert dark.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    label = "document.querySelector('#curve-0 .xtick text').style.fill"
    assert dark.evaluate(label) == "rgb(230, 233, 238)"
    dark.emulate_media(color_scheme="light")
    dark.wait_for_function(f"{label} === 'rgb(27, 31, 36)'")


def test_names_are_shown_as_they_are_and_never_run(tmp_path: Path, open_page: Any) -> None:
    folder = RunFolder.create(tmp_path / "run")
    names = [EVIL, "caf\udce9", "שלום", "</script><b>x", "plain"]
    write_predictions(folder.path, names)
    folder.write_json(folder.status, {"state": "finished", "run": "run"})
    page = open_page(write_report(folder.path))
    page.on("dialog", lambda dialog: pytest.fail("a name was run as a script"))
    shown = page.locator("body").inner_text()
    for words in ("<script>alert(1)</script>", "caf\\xe9", "שלום", "</script><b>x"):
        assert words in shown
    assert page.locator("b", has_text=re.compile("^x$")).count() == 0
    assert "</script><b>x" in page.locator("#confusion .ytick text").all_text_contents()


def test_classes_that_are_numbers_stand_at_their_own_rows(tmp_path: Path, open_page: Any) -> None:
    folder = RunFolder.create(tmp_path / "run")
    names = ["3", "00", "0", "10", "2", "1"]  # each but two is the place of another, too
    write_predictions(folder.path, names)
    folder.write_json(folder.status, {"state": "finished", "run": "run"})
    folder.write_json(folder.data, {"root": "", "images": {"train": dict.fromkeys(names, 5)}})
    page = open_page(write_report(folder.path))
    ticks = page.locator("#confusion .ytick text")
    places = [(ticks.nth(i).bounding_box()["y"], ticks.nth(i).text_content()) for i in range(6)]
    assert [name for _, name in sorted(places)] == names
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    doubled = {one for one in ids if ids.count(one) > 1 and not one.startswith("clip")}
    assert not doubled, "a chart would be drawn over another part of the page"


def test_the_table_has_the_accuracy_on_each_node(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(folder.status, {"state": "finished", "run": "run"})
    (folder.per_class / "val.csv").write_text(
        "class,support,correct,accuracy,support/n1,correct/n1,support/n/2,correct/n/2\n"
        "cat,4,3,0.75,4,3,0,0\ndog,4,1,0.25,2,0,2,1\n"
    )
    table = data_of(write_report(folder.path))["tables"]["classes"]
    names = [column["name"] for column in table["columns"]]
    assert names == ["class", "support", "correct", "accuracy", "accuracy on n1", "accuracy on n/2"]
    assert table["rows"] == [["cat", 4, 3, 0.75, 0.75, None], ["dog", 4, 1, 0.25, 0, 0.5]]


def test_a_long_run_has_short_curves_that_keep_their_peaks(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_json(folder.status, {"state": "running", "run": "run"})
    rows = [f"0,{step},{9.0 if step == 33_333 else 1.0}" for step in range(50_000)]
    folder.metrics_csv.write_text("epoch,step,train/grad_norm\n" + "\n".join(rows) + "\n")
    ((title, chart),) = charts.curves(read_run(folder.path))
    assert title == "Gradient norm"
    steps, values = chart["data"][0]["x"], chart["data"][0]["y"]
    assert len(values) <= charts.MOST_POINTS
    assert steps == sorted(steps)
    assert values[steps.index(33_333)] == 9.0


def test_a_thousand_classes_stay_quick_and_whole(tmp_path: Path, open_page: Any) -> None:
    folder = RunFolder.create(tmp_path / "run")
    classes = [f"class {number}" for number in range(1000)]
    write_predictions(folder.path, classes, images=10_000)
    folder.write_json(folder.status, {"state": "finished", "run": "run"})
    with (folder.per_class / "test.csv").open("w") as file:
        file.write("class,support,correct,accuracy\n")
        file.writelines(
            f"{name},10,{number % 11},{number % 11 / 10}\n" for number, name in enumerate(classes)
        )
    began = time.perf_counter()
    report = write_report(folder.path)
    print(f"report of 10,000 images and 1,000 classes: {time.perf_counter() - began:.2f} s")
    matrix = data_of(report)["charts"]["confusion"]["data"][0]["customdata"]
    assert len(matrix) == 100
    assert np.sum(matrix) == 10_000
    page = open_page(report)
    assert page.locator("#classes tbody tr").count() == 50
    assert "rows 1 to 50 of 1000" in page.locator("#classes .tools").inner_text()
    page.locator("#classes .pager button", has_text="next").click()
    assert "rows 51 to 100 of 1000" in page.locator("#classes .tools").inner_text()
    page.locator("#classes input").fill("class 99")
    assert page.locator("#classes tbody tr").count() == 11
    page.locator("#classes input").fill("")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#classes tbody tr").count() == 1000, "a printed page has all rows"


def test_a_run_of_an_older_version_has_a_report_of_what_it_left(
    finished: RunFolder, tmp_path: Path, open_page: Any
) -> None:
    folder = RunFolder(tmp_path / "old")
    shutil.copytree(finished.path, folder.path, ignore=shutil.ignore_patterns("checkpoints"))
    for path in (folder.predictions_of("test"), folder.data, folder.train_images):
        path.unlink()
    page = open_page(write_report(folder.path, tmp_path / "old.html"))
    shown = page.locator("body").inner_text()
    assert "predictions of each image are not in the run folder" in shown
    assert "evaluate.py" in shown
    assert page.locator("#classes tbody tr").count() == 10


def test_restarts_are_marked_in_the_curves_with_their_nodes(
    finished: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.path, folder.path, ignore=shutil.ignore_patterns("checkpoints"))
    events = [
        {"event": "start", "restart": 0, "nodes": ["a"]},
        {"event": "preempted", "step": 17, "epoch": 0, "reason": "SIGUSR2", "nodes": ["a"]},
        {"event": "start", "restart": 1, "nodes": ["b", "c"]},
    ]
    folder.events.write_text("".join(json.dumps(one) + "\n" for one in events) + "{cut off")
    (_, chart), *_ = charts.curves(read_run(folder.path))
    assert [shape["x0"] for shape in chart["layout"]["shapes"]] == [17]
    assert chart["layout"]["annotations"][0]["text"] == "start 1 on b, c"


def test_the_worst_pictures_are_the_most_confident_errors_and_the_closest_calls() -> None:
    probabilities_NC = np.array(
        [[0.9, 0.1, 0], [0.2, 0.8, 0], [0.55, 0.45, 0], [0.1, 0.2, 0.7], [0, 0, 1]], np.float32
    )
    labels_N = np.array([1, 0, 0, 2, -1])
    predictions = Predictions(
        "val", ["a", "b", "c"], list("vwxyz"), np.arange(5), labels_N,
        probabilities_NC.argmax(axis=1), probabilities_NC,
    )  # fmt: skip
    assert confidently_wrong(predictions) == [0, 1]
    assert least_certain(predictions)[0] == 2
    assert [tuple(pair)[:3] for pair in largest_confusions(predictions)] == [(0, 1, 1), (1, 0, 1)]


def test_a_report_that_cannot_be_written_spoils_no_run(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.report.mkdir()  # in the way
    folder.write_json(folder.status, {"state": "finished"})
    run.leave_report(folder)
    (warning,) = (
        str(one.message) for one in recwarn if "no report was written" in str(one.message)
    )
    assert f"launch/report.py {folder.path}" in warning
    monkeypatch.setattr("clf.report.write_report", {}.__getitem__)  # a fault of our own
    with pytest.warns(UserWarning, match="no report was written .KeyError"):
        run.leave_report(folder)


def test_report_false_writes_none(finished: RunFolder, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cfg = tiny.config(str(finished.path.parent / "digits"), report=False, epochs=1)
    run.fit(cfg, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "report.html").exists()


def test_the_command_says_where_the_page_is_and_what_is_no_run(
    finished: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "there" / "page.html"
    assert main([str(finished.path), "--out", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    assert page.read_bytes()[:15] == b"<!doctype html>"
    assert main([str(tmp_path)]) == 2
    assert "no such run" in capsys.readouterr().err
    assert main([str(finished.path), "--out", "page.pdf"]) == 2
    assert "ends in .html" in capsys.readouterr().err


def test_the_pictures_of_the_docs(finished: RunFolder, tmp_path: Path, open_page: Any) -> None:
    """REPORT=<run folder> draws those in docs/images anew."""
    report = write_report(Path(os.environ.get("REPORT", finished.path)), tmp_path / "page.html")
    place = IMAGES if "REPORT" in os.environ else tmp_path
    for name, options in {"laptop": {}, "phone": PHONE, "dark": {"color_scheme": "dark"}}.items():
        picture = place / f"report-{name}.png"
        page = open_page(report, **options)
        page.wait_for_selector("#curve-0 .xtick")
        page.screenshot(path=picture)
        assert picture.stat().st_size < 300_000
        with Image.open(picture) as drawn:
            assert len(drawn.convert("RGB").getcolors(maxcolors=1 << 20)) > 50, "an empty page"
