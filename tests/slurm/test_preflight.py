"""The checks before a job is queued that need no cluster; test_submitting.py
asks a real one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from clf.config import RunConfig
from clf.plan import compose, resolve
from slurm import preflight
from slurm.devices import has_slurm
from slurm.partitions import Partition
from slurm.preflight import disk_faults, partition_faults, weights_faults
from slurm.script import BLOCKED, body, can_block

NET = """
class Net:
    @classmethod
    def fetch_weights(cls, weights):
        if weights == "LOST":
            raise ValueError("could not download lost.pth")
        open("fetched.txt", "a").write(f"{weights}\\n")
"""
CPU_ONLY = Partition("cpu", "UP", None, nodes=3, gpus=0, cpus=8, mem_mb=16000)


def config(*settings: str) -> RunConfig:
    return resolve(compose(["gpus=2", "name=x", *settings]))


def test_weights_are_fetched_before_the_job_whose_node_has_no_internet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clf_test_net.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    cfg = config()
    cfg.model._target_ = "clf_test_net.Net"
    assert list(weights_faults(cfg)) == []
    assert not Path("fetched.txt").exists()  # nothing was asked for
    cfg.model.pretrained = True
    assert list(weights_faults(cfg)) == []
    assert Path("fetched.txt").read_text() == "None\n"
    cfg.model.weights = "LOST"
    assert list(weights_faults(cfg)) == ["model.weights=LOST: could not download lost.pth"]
    cfg.model.weights = str(tmp_path / "clf_test_net.py")  # a file, which clf.config.rules checks
    assert list(weights_faults(cfg)) == []


def test_a_full_or_wrong_place_for_run_folders_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(disk_faults(tmp_path / "new" / "runs")) == []
    (tmp_path / "file").touch()
    (fault,) = disk_faults(tmp_path / "file" / "runs")
    assert f"{tmp_path}/file cannot be written to" in fault
    full = type("Usage", (), {"free": 2**29})()
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: full)
    (fault,) = disk_faults(tmp_path)
    assert "0.50 GiB are free there" in fault


@pytest.mark.parametrize(
    ("settings", "faults"),
    [
        ([], ["strategy.accelerator=auto: partition cpu has no GPUs"]),
        (["strategy.accelerator=cpu"], []),
        (
            ["strategy.accelerator=cpu", "slurm.cpus_per_gpu=5"],
            ["slurm.cpus_per_gpu=5: 10 cores on a node, and those of partition cpu have 8"],
        ),
        (["slurm.partition=gpu"], ["slurm.partition=gpu: expected one of cpu"]),
    ],
)
def test_what_a_partition_cannot_give_is_reported_by_the_setting(
    settings: list[str], faults: list[str]
) -> None:
    found = list(partition_faults(config(*settings), {"": CPU_ONLY, "cpu": CPU_ONLY}))
    assert [text.startswith(start) for text, start in zip(found, faults, strict=True)] == [
        True for _ in faults
    ]


def test_a_client_without_a_cluster_does_not_count_as_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    said = "sinfo: fatal: Could not establish a configuration source"
    (tmp_path / "sinfo").write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
    (tmp_path / "sinfo").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_CONF", raising=False)
    if not Path("/etc/slurm/slurm.conf").exists():
        assert not has_slurm()
    monkeypatch.setenv("SLURM_CONF", "/somewhere/slurm.conf")
    assert has_slurm()


def port(cfg: RunConfig, **environment: str) -> int:
    """MASTER_PORT as the batch script of a job sets it."""
    lines = body(cfg, [Path("/runs/x")])
    first = next(place for place, line in enumerate(lines) if line.startswith("MASTER_PORT="))
    last = lines.index("export MASTER_PORT")
    text = "\n".join([*lines[first : last + 1], "echo $MASTER_PORT"])
    done = subprocess.run(
        ["bash", "-c", text], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_ranks_meet_at_a_port_that_no_other_job_of_the_node_has() -> None:
    cfg = config("strategy.accelerator=cpu")
    ports = [port(cfg, SLURM_JOB_ID=str(1234567 + job)) for job in range(5)]
    restarted = port(cfg, SLURM_JOB_ID="1234567", SLURM_RESTART_COUNT="1")
    assert len({*ports, restarted}) == 6
    assert all(10000 <= one < 32768 for one in [*ports, restarted])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        assert port(cfg, SLURM_JOB_ID="1234567") == ports[0] + 1


def test_signals_wait_where_this_machine_s_env_can_hold_them_back() -> None:
    """As the srun line does it: a process that is started so outlives what would end it."""
    if not can_block():
        pytest.skip("env of this machine knows no --block-signal (coreutils below 8.31)")
    program = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); print('lives')"
    command = ["env", f"--block-signal={BLOCKED}", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert done.stdout == "lives\n"
