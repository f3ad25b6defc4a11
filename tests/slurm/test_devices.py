"""How many devices a run gets if none were requested, and requests that a machine cannot meet."""

from pathlib import Path

import pytest

from clf.config.faults import Findings
from clf.cores import CORES_PER_RANK, cores_per_rank
from clf.plan import compose
from slurm import devices
from slurm.environment import cores_of_task
from slurm.partitions import Partition, partitions


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
def test_all_gpus_of_the_machine_are_taken_unless_a_number_is_given(
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
    nodes = [
        *("debug|n1|2|8|gpu:2", "big|n2|4+|8|gpu:a100:8(S:0-1)"),
        *("big|n3|8|16|gpu:a100:4", "big|n4|2|8|(null)"),
    ]
    shown = [
        "PartitionName=debug MaxTime=UNLIMITED MaxNodes=UNLIMITED State=UP Default=NO",
        "PartitionName=big MaxTime=1-00:00:00 MaxNodes=2 State=UP Default=YES",
    ]
    answers = {"sbatch": [], "srun": [], "sinfo": nodes, "scontrol": shown}
    for name, lines in answers.items():
        text = "\n".join(lines)
        asked = f"echo asked >>{tmp_path}/asked"
        (tmp_path / name).write_text(f"#!/bin/sh\n{asked}\ncat <<'END'\n{text}\nEND\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_CONF", "/somewhere")
    assert devices.has_slurm()
    assert devices.devices_per_node(compose()) == 4
    assert devices.devices_per_node(compose(["slurm.partition=debug"])) == 2
    assert devices.devices_per_node(compose(["slurm.options={gres: 'gpu:a100:3'}"])) == 3
    assert partitions()[""] == Partition(
        "big", "UP", 1440, nodes=2, gpus=8, cpus=8, mem_mb=16, fewest_gpus=4
    )
    assert (tmp_path / "asked").read_text() == "asked\n" * 2, "each command is run once"


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("overrides", "visible", "message"),
    [
        (["nodes=2"], "", "nodes=2: this machine has no SLURM"),
        (["gpus=4", "data.batch_size=64"], "0,1", "gpus=4: this machine has 2; set gpus=2"),
        (["strategy.accelerator=gpu"], "", "no GPU was found on this machine"),
    ],
)
def test_what_the_machine_cannot_give_is_reported_with_what_to_do(
    overrides: list[str], visible: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = devices.resources(compose(overrides))
    (fault,) = found.faults
    assert message in fault
    assert found.notes == []


@pytest.mark.usefixtures("no_slurm")
def test_more_processes_than_cores_are_a_note_and_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(devices, "usable_cores", lambda: 2)
    found = devices.resources(compose(["gpus=64"]))
    assert found.faults == []
    (note,) = found.notes
    assert note.startswith("gpus=64: without GPUs each is a CPU process, and this machine has 2")
    assert devices.resources(compose(["gpus=2"])) == Findings()


@pytest.mark.parametrize(
    ("binds", "asked", "expected"),
    [
        (False, None, 16 // 4),  # the tasks of the node share what the job has
        (False, "8", 8),
        (True, None, 2),  # what a task sees is its own
        (True, "2", 2),
        (True, "8", 2),  # srun does not know of it
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
    monkeypatch.setenv(CORES_PER_RANK, str(cores_of_task() or ""))
    assert cores_per_rank(4) == expected


def test_the_ranks_of_a_machine_without_slurm_share_its_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLURM_PROCID", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert cores_of_task() is None
    assert [cores_per_rank(ranks) for ranks in (1, 2, 3, 8, 16)] == [8, 4, 2, 1, 1]
