"""On a real SLURM: `launch/benchmark.py scaling` trains on one node and on two, and says so where a
job fails or does not start."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.slurm.place import ROOT, Place, read_job
from tests.slurm.testbed import Testbed

SETTINGS = ("strategy.accelerator=cpu", "data.image_size=32", "data.eval_resize=32",
            "data.threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def place(slurm_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield Place(tmp_path_factory.mktemp("user"), slurm_testbed)
    slurm_testbed.cancel_all()
    slurm_testbed.repair()


def scaling(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch" / "benchmark.py"), "scaling", *words, *SETTINGS]
    return subprocess.run(
        command, cwd=place.folder, env=place.slurm, capture_output=True, text=True, timeout=240
    )


def test_a_user_sees_how_the_speed_grows_with_the_nodes(place: Place) -> None:
    words = ("--nodes", "1,2", "--gpus", "1", "--steps", "10", "--images-per-rank", "8")
    done = scaling(place, *words, "--name", "grown", "--json", "numbers.json")
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = json.loads((place.folder / "numbers.json").read_text())["scaling"]
    assert [(row["nodes"], row["gpus"], row["batch_size"]) for row in (one, two)] == [
        (1, 1, 8),
        (2, 1, 16),
    ]
    assert (one["speed_up"], one["efficiency"], one["lines"]) == (1.0, 1.0, 9)
    assert two["speed_up"] == pytest.approx(two["images_per_second"] / one["images_per_second"])
    assert two["efficiency"] == pytest.approx(two["speed_up"] / 2)
    assert two["step_s"] == pytest.approx(16 / two["images_per_second"])
    assert 0 <= two["waiting_share"] <= 1
    assert "weak scaling: 8 images a rank and step; medians of 9 log lines" in done.stdout
    assert len(place.nodes("grown/2x1").split(",")) == 2


def test_a_job_that_fails_and_one_that_never_starts_are_said(place: Place) -> None:
    words = ("--nodes", "1", "--gpus", "1", "--steps", "2", "--images-per-step", "16")
    failed = scaling(place, *words, "--name", "failed", "slurm.setup=['exit 3']")
    assert failed.returncode == 1, failed.stderr
    assert "1 x 1: failed" in failed.stdout
    begin = "slurm.options={begin: now+1hour}"
    late = scaling(place, *words, "--name", "late", "--queue-minutes", "0.01", begin)
    assert late.returncode == 1, late.stderr
    assert "1 x 1: not started within 0.01 min (BeginTime)" in late.stdout
    job = place.testbed.command("scontrol", "show", "job", read_job(place.run("late/1x1")))
    assert "JobState=CANCELLED" in job
