"""`nodes=1-4` in the batch script, on a machine without SLURM, and in `train.py`."""

import subprocess
from pathlib import Path

import pytest

from clf.parallel.strategies import on_nodes_here, world_size
from clf.plan import compose, resolve
from launch.runs.requests import to_train
from launch.terminal.summary import resources as in_words
from slurm import devices
from slurm.environment import allocation_faults
from slurm.script import script
from tests.slurm.user import SMALL

RANGE = ("nodes=1-4", "gpus=2", "data.batch_size=256", "name=x", *SMALL)


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_slurm", lambda: False)


def test_sbatch_gets_the_range_and_the_cores_but_no_tasks(tmp_path: Path) -> None:
    cfg = resolve(compose([*RANGE, "slurm.cpus_per_gpu=3"]))
    asked = [line for line in script(cfg, [tmp_path / "x"]).splitlines() if line[:7] == "#SBATCH"]
    assert {"#SBATCH --nodes=1-4", "#SBATCH --mincpus=6"} <= set(asked)
    assert not [line for line in asked if "ntasks" in line or "cpus-per-task" in line]


@pytest.mark.parametrize(("given", "used"), [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_srun_takes_the_most_nodes_over_which_a_step_can_be_spread(
    given: int, used: int, tmp_path: Path
) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "env").write_text("#!/bin/sh\n")
    for program in ("srun", "env"):
        (tmp_path / program).chmod(0o755)
    text = script(resolve(compose(RANGE)), [tmp_path / "x"])
    environment = {"PATH": str(tmp_path), "SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": str(given)}
    done = subprocess.run(
        ["/bin/bash", "-c", text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"SLURM has given {given}, and the run uses {used}" in done.stdout
    assert f"--nodes={used} --ntasks={used * 2} --ntasks-per-node=2 " in done.stdout


@pytest.mark.parametrize(("ranks", "nodes"), [("2", 1), ("4", 2), ("8", 4), (None, 1)])
def test_a_start_trains_on_the_nodes_whose_ranks_were_started(
    ranks: str | None, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("WORLD_SIZE", ranks)
    cfg = on_nodes_here(resolve(compose(RANGE)))
    assert (cfg.nodes, world_size(cfg), cfg.data.micro_batch_size) == (nodes, nodes * 2, 32)


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_it_has_one_node_and_says_so() -> None:
    found = devices.resources(compose(RANGE))
    assert found.faults == []
    assert "nodes=1-4: this machine has no SLURM, so the run has 1 node" in found.notes
    (fault,) = devices.resources(compose([*RANGE, "nodes=2-4"])).faults
    assert fault.startswith("nodes=2-4: this machine has no SLURM")


@pytest.mark.usefixtures("no_slurm")
def test_train_takes_one_node_of_a_range_and_says_so() -> None:
    request = to_train(["nodes=1-4", *SMALL], "train")
    assert "nodes=1-4: this command takes 1 node" in request.notes
    with pytest.raises(ValueError, match="nodes=2-4: this command runs in one process"):
        to_train(["nodes=2-4", *SMALL], "train")


def test_an_allocation_with_fewer_nodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "1")
    assert allocation_faults(1, 1) == []
    assert allocation_faults(2, 1) == [
        "nodes=2: this allocation has 1; set nodes=1, or leave it out"
    ]


def test_what_the_run_takes_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.terminal.summary.has_slurm", lambda: True)
    assert in_words(compose(RANGE)) == "SLURM, 1 to 4 nodes x 2 tasks"
