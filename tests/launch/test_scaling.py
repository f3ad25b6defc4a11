"""`launch/benchmark.py scaling` without a cluster: what it asks for, reads and refuses.

tests/slurm/test_scaling.py runs it on a SLURM, and test_scaling_model.py holds the model.
"""

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clf.config import ConfigError
from launch.benchmark import main
from launch.benchmarks import scaling
from launch.benchmarks.scaling import Load, Measured, compared, measure, read_run, requests, sizes
from launch.benchmarks.scaling_costs import checkpoint_times, ring_seconds, state_bytes
from launch.runs.requests import Request
from slurm import devices
from slurm.queue import QueueError
from tests.slurm.user import SMALL

WEAK, STRONG = Load(steps=20, images=8), Load(steps=20, images=48, strong=True)
TINY = (*SMALL, "data.image_size=32", "data.eval_resize=32")


@pytest.fixture(autouse=True)
def _here_without_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for module in (devices, scaling):
        monkeypatch.setattr(module, "has_slurm", lambda: False)
    monkeypatch.setattr("launch.runs.requests.has_slurm", lambda: False)


def faults(*words: object) -> str:
    with pytest.raises(ConfigError) as refused:
        requests(*words)  # type: ignore[arg-type]
    return "\n".join(refused.value.faults)


@pytest.mark.parametrize(
    ("load", "batches"), [(WEAK, [8, 16, 32]), (STRONG, [48, 48, 48])], ids=["weak", "strong"]
)
def test_weak_scaling_keeps_the_images_of_a_rank_and_strong_scaling_those_of_a_step(
    load: Load, batches: list[int]
) -> None:
    planned = [one.cfg for one in requests(sizes(None, [1, 2, 4]), TINY, load, "x")]
    assert [cfg.data.batch_size for cfg in planned] == batches
    assert [cfg.gpus for cfg in planned] == [1, 2, 4]
    assert {cfg.limit_batches for cfg in planned} == {20}
    assert {(cfg.epochs, cfg.tracking.log_every, cfg.report) for cfg in planned} == {(1, 2, False)}
    for cfg in planned:
        with open(f"{cfg.data.root}/train.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == 20 * cfg.data.batch_size


def test_an_accumulated_step_has_as_many_batches_as_it_is_cut_into() -> None:
    settings = (*TINY, "data.micro_batch_size=2")
    planned = [one.cfg for one in requests([(1, 1), (1, 2)], settings, WEAK, "x")]
    assert [cfg.limit_batches for cfg in planned] == [80, 80]


def test_the_users_own_settings_and_images_stay(tmp_path: Path) -> None:
    own = (*SMALL[:1], "data=digits", "epochs=3", "tracking=offline", "tracking.log_every=4")
    (planned,) = requests([(1, 1)], own, WEAK, "x")
    cfg = planned.cfg
    assert (cfg.data.name, cfg.epochs, cfg.tracking.mode) == ("digits", 3, "offline")
    assert cfg.tracking.log_every == 4
    assert not (tmp_path / "runs").exists()


def test_all_that_is_wrong_with_any_size_is_said_before_one_starts(tmp_path: Path) -> None:
    said = faults([(1, 1), (2, 1)], (*TINY, "epochs=0"), WEAK, "x")
    assert "epochs=0" in said
    said = faults([(1, 1), (2, 1), (4, 1)], TINY, WEAK, "x")
    assert "2 x 1: nodes=2: this machine has no SLURM" in said
    assert "4 x 1: nodes=4: this machine has no SLURM" in said
    assert not (tmp_path / "runs" / "x").exists()


def test_what_each_size_has_of_its_own_cannot_be_set() -> None:
    assert "data.batch_size: each size has its own" in faults(
        [(1, 1)], ("data.batch_size=3",), WEAK, "x"
    )
    assert "give a number, or null" in faults(
        [(1, 1)], (*TINY[1:], "data.micro_batch_size=auto"), WEAK, "x"
    )
    Path("runs/taken").mkdir(parents=True)
    assert "exists; choose another name" in faults([(1, 1)], TINY, WEAK, "taken")


def test_without_sizes_it_compares_one_with_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes(None, None) == [(1, 1), (1, 2)]
    monkeypatch.setattr(scaling, "has_slurm", lambda: True)
    assert sizes(None, None) == [(1, None), (2, None)]
    assert sizes([1, 2], [8]) == [(1, 8), (2, 8)]


def test_a_size_that_slurm_refuses_does_not_cost_the_others_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(request: Request, *_: object) -> Any:
        if request.cfg.gpus == 2:
            raise QueueError("sbatch: error: too many")
        run = Path(request.cfg.runs_dir, str(request.cfg.name))
        run.mkdir()
        write_rows(run, *[{"train/images_per_second": 9.0}] * 2)
        return SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(scaling, "Waiting", start)
    planned = requests([(1, 2), (1, 1)], TINY, WEAK, "x")
    refused, other = measure(planned, queue_s=1)
    assert (refused.fault, refused.images_per_second) == ("sbatch: error: too many", None)
    assert (other.fault, other.images_per_second) == (None, 9.0)


def write_rows(folder: Path, *rows: dict[str, float]) -> None:
    names = ["epoch", "train/loss", "train/images_per_second", "train/waiting_share"]
    with (folder / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def test_the_numbers_are_medians_of_the_log_lines_without_the_first(tmp_path: Path) -> None:
    speeds, waits = (1.0, 100.0, 400.0, 200.0), (0.9, 0.1, 0.3, 0.2)
    rows = [
        {"train/images_per_second": speed, "train/waiting_share": wait}
        for speed, wait in zip(speeds, waits, strict=True)
    ]
    write_rows(tmp_path, rows[0], {"train/loss": 2.0}, *rows[1:])
    found = read_run(tmp_path, 2, 4, 64)
    assert (found.images_per_second, found.waiting_share, found.lines) == (200.0, 0.2, 3)
    assert (found.ranks, found.step_s) == (8, 0.32)
    write_rows(tmp_path, rows[0])
    assert read_run(tmp_path, 2, 4, 64).fault == (
        "it wrote fewer than two log lines; give more --steps"
    )


def test_a_size_without_a_speed_does_not_hide_those_of_the_others() -> None:
    rows = [
        Measured(1, 2, 8, fault="failed"),
        Measured(2, 2, 8, images_per_second=100.0),
        Measured(4, 2, 8, images_per_second=150.0),
    ]
    assert compared(rows) == [(None, None), (1.0, 1.0), (1.5, 0.75)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scaling", "loader"], "scaling starts jobs, and stands alone"),
        (["loader", "data.threads=1"], "data.threads=1: only `scaling` takes it"),
        (["data.threads=1"], "data.threads=1: only `scaling` takes it"),
        (["loader", "--nodes", "2"], "--nodes: only `scaling` takes it"),
        (["scaling", "--steps", "0"], "--steps 0: expected more than 0"),
        (
            ["scaling", "--images-per-rank", "8", "--images-per-step", "8"],
            "--images-per-rank is weak and --images-per-step strong scaling: give one",
        ),
        (["scaling", "--nodes", "1-4"], "--nodes 1-4: expected whole numbers, such as"),
    ],
)
def test_words_that_do_not_go_together_are_refused(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = main(words)
    except SystemExit as leaving:
        code = leaving.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_the_costs_are_printed_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "costs.json"
    assert main(["scaling", "--costs", "--smoke", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["costs"]
    shown = capsys.readouterr().out
    assert {row["unit"] for row in rows} == {"us", "ms", "MB", "s", "s of CPU"}
    assert all(row["value"] >= 0 and row["what"] in shown for row in rows)


def test_an_all_reduce_is_timed_for_each_size(ranks: Any) -> None:
    for seconds in ranks(2).run(ring_seconds, (1 << 10, 1 << 20), 2):
        assert len(seconds) == 2
        assert all(one > 0 for one in seconds)


def test_a_checkpoint_of_adamw_holds_three_numbers_a_parameter() -> None:
    size, _, _ = checkpoint_times(10_000)
    assert 120_000 <= size < 130_000
    assert list(Path().iterdir()) == []


def test_the_counts_of_the_metrics_are_sent_once_and_two_of_each_class_for_a_node() -> None:
    one, two, many = (state_bytes(1_000, nodes) for nodes in (1, 2, 128))
    assert 3 * 8 * 1_000 <= one <= 4 * 8 * 1_000
    assert two - one == 2 * 8 * 1_000
    assert many - one == 128 * 8 * 1_000
