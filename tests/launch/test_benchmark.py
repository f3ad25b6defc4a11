"""Each section of the benchmark at a tiny size: what a reader of its JSON relies on, no timing."""

import json
import statistics
from pathlib import Path

import pytest

from launch.benchmark import main


def test_every_section_runs_and_the_json_holds_both_sides_of_each_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    assert main(["all", "--smoke", "--rounds", "2", "--json", str(file)]) == 0
    numbers = json.loads(file.read_text())
    assert numbers["cores"] >= 1
    assert set(numbers["versions"]) >= {"python", "torch", "torchvision", "simplejpeg"}
    assert {name: len(rows) for name, rows in numbers["results"].items()} == {
        "loader": 1,
        "step": 1,
        "metrics": 2,
        "startup": 2,
    }
    shown = capsys.readouterr().out
    for row in (row for rows in numbers["results"].values() for row in rows):
        ours, peer = row["ours"], row["peer"]
        for side in (ours, peer):
            assert len(side["values"]) == 2
            assert all(value > 0 for value in side["values"])
            assert side["median"] == statistics.median(side["values"])
            assert (side["min"], side["max"]) == (min(side["values"]), max(side["values"]))
            assert side["name"] in shown
        more_is_better = row["unit"] == "images/s"
        up, down = (ours, peer) if more_is_better else (peer, ours)
        assert row["ratio"] == pytest.approx(up["median"] / down["median"])
        assert f"{row['what']} [{row['unit']}]: {row['ratio']:.2f} times as fast" in shown


def test_a_section_that_there_is_not_is_told_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["loaders"])
    assert "invalid choice: 'loaders' (choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["loader", "--rounds", "0"])
    assert "--rounds 0: expected at least 1" in capsys.readouterr().err
