"""Each section of the benchmark at a tiny size: what a reader of its JSON relies on, no timing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launch.benchmark import main
from launch.benchmarks.comparison import SMOKE, Comparison, Side, in_turns

ROOT = Path(__file__).resolve().parents[2]


def test_every_section_runs_and_the_json_holds_both_sides_of_each_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "numbers.json"
    assert main(["all", "--smoke", "--json", str(file)]) == 0
    numbers = json.loads(file.read_text())
    assert numbers["cores"] >= 1
    assert set(numbers["versions"]) >= {"python", "torch", "torchvision", "simplejpeg"}
    assert {name: len(rows) for name, rows in numbers["results"].items()} == {
        "loader": 2,
        "step": 1,
        "metrics": 2,
        "startup": 2,
    }
    shown = capsys.readouterr().out
    for row in (row for rows in numbers["results"].values() for row in rows):
        ours, peer = row["ours"], row["peer"]
        for side in (ours, peer):
            assert len(side["values"]) == 1
            assert side["values"][0] > 0
            assert side["name"] in shown
        assert f"{row['what']} [{row['unit']}]: {row['ratio']:.2f} times as fast" in shown


def test_a_ratio_is_of_medians_and_above_one_where_ours_is_faster() -> None:
    fast, slow = Side("fast", [9.0, 1.0, 8.0]), Side("slow", [4.0, 2.0, 1.0])
    assert Comparison("", "images/s", ours=fast, peer=slow).summary()["ratio"] == 4.0
    summary = Comparison("", "us", ours=slow, peer=fast).summary()
    assert summary["ratio"] == 4.0
    assert summary["peer"] == {
        "name": "fast",
        "values": [9.0, 1.0, 8.0],
        "median": 8.0,
        "min": 1.0,
        "max": 9.0,
    }


def test_both_sides_take_turns_and_warm_ups_do_not_count() -> None:
    order: list[float] = []

    def measure(number: float) -> float:
        order.append(number)
        return number + len(order)

    sizes = replace(SMOKE, rounds=2, warm_ups=1)
    a, b = in_turns(sizes, lambda: measure(10), lambda: measure(20))
    assert order == [10, 20] * 3
    assert (a, b) == ([13, 15], [24, 26])


def test_an_unknown_section_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["loaders"])
    assert "invalid choice: 'loaders' (choose from" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["loader", "--rounds", "0"])
    assert "--rounds 0: expected at least 1" in capsys.readouterr().err


def test_help_shows_examples_and_does_not_wait_for_torch() -> None:
    program = (
        "import sys\nfrom launch.benchmark import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print({'torch', 'hydra', 'rich', 'numpy', 'PIL'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "examples:\n  python launch/benchmark.py loader" in done.stdout
    assert done.stdout.endswith("set()\n")
