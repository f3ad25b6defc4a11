"""`jobs.py drill`: what a person sees of a run that comes back, and of one that does not. SLURM is
a stand-in here."""

import json
from pathlib import Path

import pytest

from clf.config import ConfigError
from launch.runs import drill as drill_module
from launch.runs.drill import drill
from launch.terminal.screen import console
from launch.terminal.tables import print_drill

PLACE = {"epoch": 2, "step": 50, "batch": 3, "learning_rate": 0.001}


def write_status(run_dir: Path, **fields: object) -> None:
    (run_dir / "status.json").write_text(json.dumps({"wandb_id": "abc", **fields}))


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A running job that leaves at step 50 when it is signalled."""
    (tmp_path / "job.json").write_text('{"cluster": "slurm", "job_id": "7"}')
    write_status(tmp_path, state="running", began={**PLACE, "step": 0})
    monkeypatch.setattr(drill_module, "POLL_S", 0.0)

    def ask(words: list[str]) -> str:
        assert words == ["scancel", "--signal=USR2", "7"]
        write_status(tmp_path, state="preempted", left=PLACE)
        return ""

    monkeypatch.setattr(drill_module.queue, "ask", ask)
    return tmp_path


def comes_back(run_dir: Path, monkeypatch: pytest.MonkeyPatch, place: dict[str, object]) -> None:
    def lives(job_id: str) -> bool:
        write_status(run_dir, state="running", began=place)
        return True

    monkeypatch.setattr(drill_module.queue, "lives", lives)


@pytest.mark.parametrize(("step", "result"), [(50, "same"), (49, "differs")])
def test_each_number_of_a_run_that_comes_back_is_compared(
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
    result: str,
) -> None:
    comes_back(run_dir, monkeypatch, {**PLACE, "step": step})
    assert print_drill(console(), drill(run_dir)) == (0 if result == "same" else 1)
    said = capsys.readouterr().out
    assert "sending SIGUSR2 to job 7" in said
    assert "left at step 50, all is saved" in said
    rows = [line.split() for line in said.splitlines()]
    assert ["optimizer", "step", "50", str(step), result] in rows
    assert ["W&B", "run", "abc", "abc", "same"] in rows


def test_a_job_that_does_not_come_back_ends_the_drill(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(drill_module.queue, "lives", lambda job_id: False)
    assert print_drill(console(), drill(run_dir)) == 1
    assert "the job is not in the queue any more" in capsys.readouterr().out


def test_a_run_that_does_not_train_is_refused(run_dir: Path) -> None:
    write_status(run_dir, state="finished")
    with pytest.raises(ConfigError, match="drill needs a job that trains now; it is finished"):
        list(drill(run_dir))
