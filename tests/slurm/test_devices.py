"""How many devices a run gets where none were asked for, and what a machine cannot give."""

from pathlib import Path

import pytest

from clf.cores import CORES_PER_RANK, cores_per_rank
from clf.plan import compose
from slurm import devices


@pytest.fixture
def no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_slurm", lambda: False)


@pytest.mark.parametrize(
    ("visible", "count"), [("0,1,2", 3), ("", 0), ("-1", 0), ("GPU-3a,MIG-7b", 2)]
)
def test_gpus_are_those_that_the_user_left_visible(
    visible: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert len(devices.local_gpus()) == count


@pytest.mark.usefixtures("no_slurm")
def test_all_gpus_of_the_machine_are_taken_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.devices_per_node(compose()) == 2
    assert devices.devices_per_node(compose(["gpus=1"])) == 1
    assert devices.devices_per_node(compose(["strategy=single"])) == 1
    assert devices.devices_per_node(compose(["strategy.accelerator=cpu"])) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.devices_per_node(compose()) == 1


def test_gpus_of_a_slurm_node_are_those_of_the_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = "debug|gpu:2\\nbig*|gpu:a100:8(S:0-1)\\nbig*|gpu:a100:4\\nbig*|(null)\\n"
    for name in ("sbatch", "srun", "sinfo"):
        (tmp_path / name).write_text(f'#!/bin/sh\nprintf "{nodes}"\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.has_slurm()
    assert devices.slurm_gpus(None) == 4


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("overrides", "visible", "message"),
    [
        (["nodes=2"], "", "nodes=2: this machine has no SLURM"),
        (["gpus=4", "data.batch_size=64"], "0,1", "gpus=4: this machine has 2; set gpus=2"),
        (["strategy.accelerator=gpu"], "", "no GPU was found on this machine"),
        (["gpus=64"], "", "without GPUs each is a CPU process"),
    ],
)
def test_what_the_machine_cannot_give_is_told_with_what_to_do(
    overrides: list[str], visible: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    (fault,) = devices.resource_faults(compose(overrides))
    assert message in fault


@pytest.mark.parametrize(
    ("binds", "asked", "expected"),
    [
        (False, None, 16 // 4),  # the tasks of the node share what the job has
        (False, "8", 8),
        (True, None, 2),  # what a task sees is its own
        (True, "2", 2),
        (True, "8", 2),  # srun was not told
    ],
)
def test_a_task_takes_the_cores_that_slurm_gave_it_and_no_share_of_a_share(
    binds: bool, asked: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of four tasks on a node of which the job has 16 cores."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(2 if binds else 16)))
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "16")
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if asked:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", asked)
    monkeypatch.setenv(CORES_PER_RANK, str(devices.cores_of_task() or ""))
    assert cores_per_rank(4) == expected


def test_the_ranks_of_a_machine_without_slurm_share_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert devices.cores_of_task() is None
    assert [cores_per_rank(ranks) for ranks in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
