"""What another job has left in the shell's environment changes nothing, and ranks that are real are
told what to use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.environment import many_of_this, without_job

ROOT = Path(__file__).resolve().parents[2]
LEFT_OVER = {
    "RANK": "1",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "1",
    "NODE_RANK": "1",
    "MASTER_ADDR": "gone",
    "MASTER_PORT": "1",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_JOB_ID": "99",
    "SLURM_RESTART_COUNT": "7",
}


@pytest.mark.parametrize("script", ["train.py", "submit.py"])
def test_a_rank_that_is_left_over_does_not_keep_a_run_from_writing(
    script: str, checkout: Path
) -> None:
    words = ["strategy.accelerator=cpu", "tracking.mode=disabled", "name=left"]
    done = subprocess.run(
        [sys.executable, str(checkout / "launch" / script), *words],
        cwd=checkout.parent,
        env={**os.environ, **LEFT_OVER},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    run = checkout.parent / "runs" / "left"
    seen = json.loads((run / "seen0.json").read_text())
    assert (run / "metrics.csv").exists()
    if script == "train.py":
        assert {seen[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")} == {
            None
        }
        note = "RANK=1, LOCAL_RANK=1, NODE_RANK=1, SLURM_PROCID=3, WORLD_SIZE=2 are left over"
        assert f"note: {note}" in done.stdout
        assert note in (run / "notes.txt").read_text()
    else:
        assert (seen["RANK"], seen["WORLD_SIZE"], seen["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
        assert seen["MASTER_PORT"] != "1"
        events = [json.loads(line) for line in (run / "logs" / "events.jsonl").open()]
        assert events[0]["restart"] == 0
        assert events[0]["job_id"] != "99"


def test_one_process_of_torchrun_trains_and_several_are_told_what_to_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from launch import evaluate, submit, train

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert many_of_this() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    for main, words in ((train.main, []), (submit.main, []), (evaluate.main, ["run"])):
        assert main(words) == 2
        assert "torchrun has started this command 2 times" in (said := capsys.readouterr().err)
        assert "start it once, with `python launch/submit.py`" in said


@pytest.mark.parametrize(
    ("environment", "is_real"),
    [
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "7"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}, False),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PTY_PORT": "1"}, False),  # a shell of srun --pty
    ],
)
def test_tasks_of_srun_are_told_from_a_shell_in_which_its_variables_are_left(
    environment: dict[str, str], is_real: bool, tmp_path: Path
) -> None:
    program = "from slurm.environment import many_of_this; print(many_of_this())"
    command = [sys.executable, "-c", program]
    (tmp_path / "slurmstepd").symlink_to("/bin/bash")  # what stands above each task of a step
    step = [str(tmp_path / "slurmstepd"), "-c", '"$@"; exit $?', "step", *command]

    def says(words: list[str]) -> str:
        return subprocess.run(
            words,
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert says(command) == "None\n"
    said = says(step)
    assert ("srun has started this command 4 times" in said) == is_real
    assert ("--inside-job: in this allocation" in said) == is_real


def test_a_new_job_inherits_what_a_user_set_and_nothing_of_another_job() -> None:
    wishes = {"SLURM_CONF": "/etc/x", "SLURM_JWT": "t", "SLURM_MPI_TYPE": "pmix", "HOME": "/me"}
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_MEM_PER_NODE": "100",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x1",
        "SLURM_TRES_PER_TASK": "cpu:4",
        "SLURM_NTASKS_PER_NODE": "4",
        "SLURM_EXPORT_ENV": "NONE",
        "SLURM_GPUS_PER_NODE": "4",
        "SLURM_JOB_NUM_NODES": "2",
        "RANK": "1",
        "WORLD_SIZE": "8",
    }
    assert without_job({**wishes, **job}) == wishes
    bound = {"SLURM_CPU_BIND": "none"}  # by the user's own profile
    assert without_job({**wishes, **bound, "SLURM_MEM_PER_CPU": "100"}) == {**wishes, **bound}
