"""`benchmark.py step --gpu`: its sides run, here on the CPU at a tiny size, and it says which of
loader and step bounds a run. No timing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch.benchmark import main
from launch.benchmarks import gpu
from launch.benchmarks.comparison import SMOKE, Measured, Reading, Side
from launch.benchmarks.gpu import NO_GPU, bound, ours, plain_loop, sides, step_on_gpu
from launch.benchmarks.jpegs import write_jpegs
from launch.benchmarks.meter import Meter


def test_without_a_gpu_it_says_that_nothing_was_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["step", "--gpu", "--smoke"]) == 1
    assert NO_GPU in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["loader", "--gpu"])
    assert "it is the section step that can be measured on a GPU" in capsys.readouterr().err


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(gpu, "WARM_UP", 1)
    return {"network": "resnet18", "images": 2, "pixels": 32, "steps": 2, "device": "cpu"}


@pytest.mark.parametrize("place", [1, 5])
def test_a_side_takes_the_steps_that_it_is_asked_for(tiny: dict[str, Any], place: int) -> None:
    meter, side = Meter(), sides(tiny)[place]
    side.function(meter, **json.loads(json.dumps(side.arguments)))
    assert meter.reading is not None
    assert meter.reading.amount == 4


def test_each_way_of_running_a_step_reaches_what_runs_it() -> None:
    by_name = {side.name: side for side in sides({"images": 2})}
    assert len(by_name) == 7
    assert all(side.arguments["images"] == 2 for side in by_name.values())
    graphs = by_name["clf, compiled, CUDA graphs"]
    assert (graphs.function, graphs.arguments["compile_mode"]) == (ours, "reduce-overhead")
    loop = by_name["plain torch loop, AdamW fused, compiled"]
    assert (loop.function, loop.arguments["compiled"]) == (plain_loop, True)


@pytest.mark.parametrize("cache", ["none", "device"])
def test_a_run_of_jpegs_goes_from_the_loader_to_the_step(
    tiny: dict[str, Any], tmp_path: Path, cache: str
) -> None:
    write_jpegs(tmp_path, count=8, copies=2, tiles=1, quality=90)
    meter = Meter()
    ours(meter, **tiny, folder=str(tmp_path), workers=2, cache=cache)
    assert meter.reading is not None
    assert meter.reading.amount == 4


def test_what_bounds_a_run_and_how_many_cores_would_do() -> None:
    rates = "the steps alone take 3,000 images/s, a core makes 800, and together, on"
    assert bound(3000, 2900, 800, 8) == (
        f"The steps bound it: {rates} 8 cores, they come to 2,900, 97% of the steps. "
        "5 cores would do"
    )
    assert bound(3000, 1500, 800, 2) == (
        f"The loader bounds it: {rates} 2 cores, they come to 1,500, 50% of the steps. "
        "5 cores a GPU would do"
    )
    assert bound(3000, 1500, 800, 8).startswith(f"Neither alone bounds it: {rates} 8 cores")


def test_on_a_gpu_each_network_is_measured_on_noise_and_on_jpegs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_turns(sizes: Any, *asked: Side) -> list[Measured]:
        for side in asked:
            if folder := side.arguments.get("folder"):
                assert len(list(Path(folder).rglob("*.jpg"))) >= (12 + SMOKE.gpu_steps + 1) * 4
        return [Measured(side.name, [Reading(1000, 1, 2)]) for side in asked]

    monkeypatch.setattr(gpu, "in_turns", in_turns)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    rows = [comparison.summary() for comparison in step_on_gpu(SMOKE)]
    assert [row["what"].split(",")[0] for row in rows] == [
        f"{name} training step" for name in ("resnet50", "resnet50", "resnet18", "resnet18")
    ]
    assert rows[0]["what"].endswith("A GPU, batches that are there")
    assert ["note" in row for row in rows] == [False, True] * 2
    assert rows[1]["note"].startswith("The steps bound it: the steps alone take 1,000 images/s, a")
    beside = ["clf, data.cache=device", "clf, fused AdamW", "its loader alone"]
    assert [peer["name"] for peer in rows[1]["peers"]] == beside
