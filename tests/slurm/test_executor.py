"""A job runs the snapshot, knows its rank, holds no secret, and is private; asked of a real local
executor."""

import json
import os
import pickletools
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clf.config import RunConfig
from clf.config.saved import save
from clf.plan import compose, resolve
from clf.resilience.lease import take
from slurm.executor import local_executor, submit
from slurm.job import Job
from slurm.records import clear_errors, first_error, read_job, record_error


def make_config(*overrides: str) -> RunConfig:
    given = {"gpus": "1", "strategy.accelerator": "cpu"}
    given |= dict(override.split("=", 1) for override in overrides)
    return resolve(compose([f"{key}={value}" for key, value in given.items()]))


@pytest.fixture
def run_dir(tmp_path: Path, checkout: Path) -> Path:
    """A run folder with config and snapshot."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(checkout, folder / "code")
    save(make_config(), folder / "config.yaml")
    return folder


def seen(run_dir: Path, rank: int = 0) -> dict[str, str]:
    return json.loads((run_dir / f"seen{rank}.json").read_text())


def test_editing_the_checkout_does_not_change_a_job_that_was_submitted(
    checkout: Path, run_dir: Path
) -> None:
    module = checkout / "clf" / "run.py"
    module.write_text(module.read_text().replace("as submitted", "edited"))
    # Submitted in the checkout, with it on the path, as by a user.
    program = (
        "import sys; from pathlib import Path; from slurm.executor import submit\n"
        "from clf.config.saved import load; run = Path(sys.argv[1])\n"
        "from clf.resilience.lease import take\n"
        "print(submit(load(run / 'config.yaml'), run, take(run)).result())"
    )
    command = [sys.executable, "-c", program, str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    )
    assert "'test/acc_top1': 0.5" in done.stdout
    assert seen(run_dir)["mark"] == "as submitted"
    assert seen(run_dir)["path"][0] == str(run_dir / "code")


def test_each_device_of_a_machine_gets_a_rank_of_one_group(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "7")  # left by an outer job
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    cfg = make_config("gpus=2")
    save(cfg, run_dir / "config.yaml")
    job = submit(cfg, run_dir, take(run_dir))
    assert [result["test/acc_top1"] for result in job.results()] == [0.5, 0.5]
    ranks = [seen(run_dir, rank) for rank in (0, 1)]
    assert [(one["RANK"], one["LOCAL_RANK"]) for one in ranks] == [("0", "0"), ("1", "1")]
    assert {(one["WORLD_SIZE"], one["NODE_RANK"], one["MASTER_ADDR"]) for one in ranks} == {
        ("2", "0", "127.0.0.1")
    }
    assert len({one["MASTER_PORT"] for one in ranks}) == 1
    record = read_job(run_dir)
    assert (record["cluster"], record["job_id"], record["gpus"]) == ("local", job.job_id, 2)


def test_the_error_of_the_rank_that_failed_first_is_the_one_to_show(run_dir: Path) -> None:
    cfg = make_config("gpus=2", "seed=13")
    save(cfg, run_dir / "config.yaml")
    job = submit(cfg, run_dir, take(run_dir))
    job.wait()
    error = first_error(run_dir)
    assert error is not None
    assert (error["rank"], error["type"], error["message"]) == (1, "RuntimeError", "no more luck")
    assert 'raise RuntimeError("no more luck")' in error["traceback"]
    record_error(run_dir, 0, RuntimeError("lost rank 1"))  # later, and only for that reason
    assert first_error(run_dir) == error
    clear_errors(run_dir)
    assert first_error(run_dir) is None


def test_nothing_secret_is_pickled_and_nobody_else_can_read_the_files(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t-k3y")
    job = submit(make_config(), run_dir, take(run_dir))
    job.result()
    (pickled,) = (run_dir / "logs").glob("*_submitted.pkl")
    texts = {
        argument
        for _, argument, _ in pickletools.genops(pickled.read_bytes())
        if isinstance(argument, str)
    }
    assert {"slurm.job", "Job", str(run_dir)} <= texts
    for path in (run_dir / "logs").iterdir():
        assert b"s3cr3t-k3y" not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_a_requeued_job_is_the_same_job(run_dir: Path) -> None:
    again = Job(str(run_dir)).checkpoint()
    assert vars(again.function) == vars(Job(str(run_dir)))
    assert (again.args, again.kwargs) == ((), {})


def test_a_local_job_is_not_stopped_after_five_minutes(run_dir: Path) -> None:
    assert local_executor(make_config(), run_dir, {}).parameters["timeout_min"] > 60 * 24 * 30
