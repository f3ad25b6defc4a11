"""Each section of the benchmark at a tiny size: what a reader of its JSON relies on, no timing."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.benchmark import main
from launch.benchmarks import comparison, peers, side
from launch.benchmarks.comparison import (
    SMOKE,
    BenchmarkError,
    Comparison,
    Measured,
    Reading,
    Side,
    in_turns,
    run_side,
)
from launch.benchmarks.meter import Meter, cpu_seconds
from launch.benchmarks.startup import command

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides run here, where what they import has been imported once. Their arguments travel as
    JSON all the same."""

    def run_here(one: Side) -> Reading:
        function = f"{one.function.__module__}:{one.function.__name__}"
        return side.measure(function, json.loads(json.dumps(one.arguments)))

    monkeypatch.setattr(comparison, "run_side", run_here)


@pytest.mark.usefixtures("in_this_process")
def test_every_section_runs_and_the_json_holds_each_side_of_each_comparison(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # for the tests that follow
    file = tmp_path / "numbers.json"
    assert main(["all", "--vs", "torchvision,timm", "--smoke", "--json", str(file)]) == 0
    numbers = json.loads(file.read_text())
    assert numbers["cores"] >= 1
    assert set(numbers["versions"]) >= {"python", "torch", "torchvision", "simplejpeg"}
    assert numbers["versions"]["jpeg_region"] in ("compiled", "not compiled")
    assert {name: len(rows) for name, rows in numbers["results"].items()} == {
        "loader": 3,
        "step": 1,
        "metrics": 2,
        "startup": 4,
        "scale": 6,
    }
    shown = capsys.readouterr().out
    for section, row in ((name, row) for name, rows in numbers["results"].items() for row in rows):
        assert f"{row['what']} [{row['unit']} by the wall, by CPU time]" in shown
        peers_of_it = 0 if section == "scale" else 2 if "JPEGs" in row["what"] else 1
        assert len(row["peers"]) == peers_of_it
        for one in (row["ours"], *row["peers"]):
            assert len(one["wall"]["values"]) == len(one["cpu"]["values"]) == 1
            assert min(*one["wall"]["values"], *one["cpu"]["values"]) > 0
            assert one["name"] in shown
        for peer in row["peers"]:
            faster = peer["times_as_fast"]["wall"]
            assert f"{faster:.2f} times as fast as {peer['name']}" in shown


def test_a_ratio_is_of_medians_and_above_one_where_ours_is_faster() -> None:
    fast = Measured("fast", [Reading(8, 1, 2), Reading(8, 8, 8), Reading(9, 1, 3)])
    slow = Measured("slow", [Reading(4, 2, 1), Reading(2, 1, 1), Reading(4, 1, 4)])
    row = Comparison("", "images/s", [fast, slow]).summary()
    assert row["ours"] == {
        "name": "fast",
        "wall": {"values": [8, 1, 9], "median": 8, "min": 1, "max": 9},
        "cpu": {"values": [4, 1, 3], "median": 3, "min": 1, "max": 4},
    }
    assert row["peers"][0]["times_as_fast"] == {"wall": 4.0, "cpu": 1.5}
    row = Comparison("", "us", [fast, slow]).summary()
    assert row["ours"]["wall"]["median"] == 125_000
    assert row["peers"][0]["times_as_fast"] == {"wall": 4.0, "cpu": 1.5}


def test_the_sides_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(one: Side) -> Reading:
        order.append(one.name)
        return Reading(len(order), 1, 1)

    monkeypatch.setattr(comparison, "run_side", run)
    sides = [Side(name, command) for name in "abc"]
    a, b, c = in_turns(replace(SMOKE, rounds=2), *sides)
    assert order == list("abcabc")
    assert [[one.amount for one in measured.readings] for measured in (a, b, c)] == [
        [1, 4],
        [2, 5],
        [3, 6],
    ]


def test_a_side_is_a_process_of_its_own_and_what_it_prints_is_no_answer(tmp_path: Path) -> None:
    program = f"import os; open({str(tmp_path / 'of')!r}, 'a').write(f'{{os.getppid()}} ')"
    loud = Side("loud", command, {"words": ["-c", f"{program}; print('hello')"]})
    readings = [run_side(loud), run_side(loud)]
    assert all(one.amount == 1 and one.wall_s > 0 and one.cpu_s > 0 for one in readings)
    assert len({str(os.getpid()), *(tmp_path / "of").read_text().split()}) == 3


def test_a_side_that_fails_says_what_it_said_last_and_what_to_do() -> None:
    bad = Side("ours", command, {"words": ["-c", "raise SystemExit(3)"]}, hint="Try more.")
    with pytest.raises(BenchmarkError, match=r"^ours: .* exit status 3\.\. Try more\.$"):
        run_side(bad)


def spin(started: Any = None) -> None:
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    if started is not None:
        started.wait()


def test_the_cpu_seconds_are_those_of_children_too_while_they_run_and_afterwards() -> None:
    meter = Meter()
    leave = multiprocessing.get_context("fork").Event()
    child = multiprocessing.get_context("fork").Process(target=spin, args=(leave,))
    meter.start()
    before = cpu_seconds()
    child.start()
    while cpu_seconds() < before + 0.04:
        time.sleep(0.01)
    leave.set()
    child.join()
    meter.stop(5)
    assert meter.reading is not None
    assert meter.reading.amount == 5
    assert meter.reading.cpu_s >= 0.04


def test_the_peak_is_that_of_the_memory_between_start_and_stop() -> None:
    program = (
        "from launch.benchmarks.meter import Meter\nmeter = Meter()\n"
        "before = b'1' * 200_000_000\ndel before\nmeter.start()\n"
        "within = b'1' * 80_000_000\ndel within\nmeter.stop(1)\nprint(meter.reading.peak_mb)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 60 < float(done.stdout) < 150


def test_a_meter_that_was_not_used_is_no_reading() -> None:
    with pytest.raises(BenchmarkError, match="without a start"):
        Meter().stop(1)
    meter = Meter()
    meter.start()
    with pytest.raises(BenchmarkError, match="nothing was done: amount 0"):
        meter.stop(0)


def test_a_peer_that_is_unknown_or_not_installed_is_told_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["loader", "--smoke", "--vs", "torchvision,dalli"]) == 1
    assert "--vs dalli: no such peer; there are torchvision, " in capsys.readouterr().err
    absent = replace(peers.PEERS["dali"], needs=("nvidia_of_nobody.dali",))
    monkeypatch.setitem(peers.PEERS, "dali", absent)
    assert main(["loader", "--smoke", "--vs", "dali"]) == 1
    assert "--vs dali: it is not installed: pip install 'clf[bench]'" in capsys.readouterr().err
    assert "torchvision" in peers.chosen_peers(None)
    assert "dali" not in peers.chosen_peers(None)


def test_the_lock_has_every_extra_but_that_of_the_peers() -> None:
    said = subprocess.run(["make", "-n", "lock"], cwd=ROOT, capture_output=True, text=True).stdout
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = set(re.findall(r"--extra (\S+)", said))
    assert locked == project["optional-dependencies"].keys() - {"bench"}
    assert "nvidia-dali" not in (ROOT / "requirements.lock").read_text()


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
