"""The reason why a job ended is one line, and only jobs that should be requeued are requeued.

Logs and records as SLURM 22.05 and the ranks leave them; tests/slurm/test_preemption.py and
test_failing.py have them made by a real SLURM.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clf.config.saved import save
from clf.plan import compose
from clf.run_folder import HANG, RunFolder
from slurm import after, queue, records
from slurm.failures import START_MARK, diagnose
from slurm.job import EXIT_REQUEUE
from slurm.records import record_error

OLD = "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0\n"  # of an earlier start
START = f"{START_MARK}1 of run, rank 0\n"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "logs").mkdir()
    settings = ["slurm.retries=1", "slurm.max_requeues=2", "name=run"]
    save(compose(settings), tmp_path / "config.yaml")
    records.record_event(tmp_path, "start")
    return tmp_path


def says(run_dir: Path, log: str) -> None:
    (run_dir / "logs" / "7_0_log.out").write_text(OLD + START + log)


def fails(run_dir: Path, rank: int, error: BaseException) -> None:
    try:
        raise error
    except BaseException as raised:
        record_error(run_dir, rank, raised)


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to"), "out of memory", "micro_batch_size"),
        (MemoryError("no"), "out of memory", "slurm.mem_gb"),
        (RuntimeError("NCCL error: unhandled system error"), "NCCL", "NCCL_DEBUG"),
        (ValueError("data.root: /x has no images"), "bad data", "repair or remove the file"),
        (KeyError("label"), "error in code", "launch/train.py --debug"),
    ],
)
def test_an_error_is_named_with_rank_host_and_remedy(
    run_dir: Path, error: BaseException, kind: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    fails(run_dir, 3, error)
    says(run_dir, "")
    found = diagnose(run_dir)
    assert found is not None
    assert (found.kind, found.rank, found.host) == (kind, 3, "node2")
    assert remedy in found.remedy
    assert "\n" not in found.line()


@pytest.mark.parametrize(
    ("log", "kind", "rank"),
    [
        ("srun: error: node2: task 3: Out Of Memory\n", "out of memory", 3),
        ("srun: error: node2: tasks 2-3: Killed\nsrun: error: node1: task 0: Exited with exit\n",
         "killed", 2),
        ("srun: forcing job termination\nsrun: error: node1: task 0: Killed\n", "signalled", 0),
        ("slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 1 DUE TO TIME LIMIT ***\n",
         "time limit", None),
        ("slurmstepd: error: *** JOB 7 ON node1 CANCELLED AT 1 DUE TO NODE FAILURE, SEE\n",
         "node failure", None),
    ],
)  # fmt: skip
def test_what_no_rank_could_say_is_read_from_slurms_words(
    run_dir: Path, log: str, kind: str, rank: int | None
) -> None:
    says(run_dir, log)
    # The others lose their connection, which is no cause.
    fails(run_dir, 0, RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4"))
    found = diagnose(run_dir)
    assert found is not None
    assert (found.kind, found.rank) == (kind, rank)


def test_a_lost_connection_without_another_word_is_a_lost_node(run_dir: Path) -> None:
    says(run_dir, "srun: error: node1: task 0: Exited with exit code 1\n")
    fails(run_dir, 0, RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4"))
    found = diagnose(run_dir)
    assert found is not None
    assert found.kind == "node failure"
    assert decide(run_dir)[0] == "requeued"


def test_a_job_whose_srun_was_signalled_goes_on_from_its_last_checkpoint(run_dir: Path) -> None:
    says(run_dir, "srun: forcing job termination\nsrun: error: node1: task 0: Killed\n")
    verdict, reason = decide(run_dir, 137)
    assert verdict == "requeued"
    assert reason.startswith("signalled (rank 0, node1): srun: forcing job termination; it goes on")


def test_an_earlier_start_is_not_blamed_for(run_dir: Path) -> None:
    says(run_dir, "all is well\n")
    assert diagnose(run_dir) is None


@pytest.fixture(autouse=True)
def job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What SLURM says of the job: that it runs, until a test says otherwise."""

    def say(state: str, out_of_time: bool = False) -> None:
        said = queue.QueuedJob("7", state, out_of_time=out_of_time)
        monkeypatch.setattr(queue, "job", lambda job_id: said)

    say("RUNNING")
    return say


def decide(run_dir: Path, code: int = 1) -> tuple[str, str]:
    return after.decide(run_dir, code)


def test_a_run_that_left_goes_into_the_queue_until_its_limit(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.record_event(run_dir, "preempted", reason="SIGUSR2: left")
    assert decide(run_dir, 75) == ("requeued", "SIGUSR2: left")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert decide(run_dir, 75) == (
        "failed",
        "SIGUSR2: left (slurm.max_requeues=2 reached)",
    )


def test_a_time_limit_is_known_before_slurm_has_written_it(
    run_dir: Path, job: Callable[..., None]
) -> None:
    says(run_dir, "srun: error: node4: task 1: Killed\n")
    job("COMPLETING", out_of_time=True)
    assert decide(run_dir) == ("requeued", "time limit")


def test_a_run_that_never_makes_a_step_does_not_stay_in_the_queue_for_ever(run_dir: Path) -> None:
    for _ in range(after.IDLE_STARTS):
        records.record_event(run_dir, "start")
        records.record_event(run_dir, "preempted", reason="SIGUSR2: left", epoch=0, step=0)
    verdict, reason = decide(run_dir, 75)
    assert verdict == "failed"
    assert "set a longer slurm.time" in reason
    records.record_event(run_dir, "preempted", reason="SIGUSR2: left", epoch=0, step=3)
    assert decide(run_dir, 75)[0] == "requeued"


def test_a_run_whose_epochs_advance_goes_on_though_its_ranks_are_killed_at_every_limit(
    run_dir: Path, job: Callable[..., None]
) -> None:
    job("COMPLETING", out_of_time=True)
    for step in range(0, 20, 2):
        records.record_event(run_dir, "start")
        RunFolder.write_json(run_dir / "status.json", {"state": "running", "began": {"step": step}})
        assert after.main([str(run_dir), "137"]) == EXIT_REQUEUE
    for _ in range(after.IDLE_STARTS - 1):
        records.record_event(run_dir, "start")
        verdict = after.main([str(run_dir), "137"])
    assert verdict == 0
    assert "5 starts saved no step" in records.read_events(run_dir)[-1]["reason"]


def test_an_error_in_code_is_tried_again_as_often_as_asked_and_no_more(run_dir: Path) -> None:
    fails(run_dir, 1, KeyError("label"))
    verdict, reason = decide(run_dir)
    assert verdict == "requeued"
    assert reason.startswith("retry 1: error in code (rank 1")
    records.record_event(run_dir, "requeued", reason=reason)
    assert decide(run_dir)[0] == "failed"


def hangs(run_dir: Path) -> None:
    """As `clf.resilience.hang_report` leaves it; what the others then met comes later."""
    said = {"message": "rank 1 on node2: no progress for 600 s", "for_the_user": True}
    record = {"time": 1.0, "rank": 1, "host": "node2", "type": HANG, "traceback": ""}
    RunFolder.write_json(RunFolder(run_dir).error(1), record | said)
    fails(run_dir, 0, RuntimeError("Connection closed by peer"))


def test_a_job_that_hangs_starts_again_twice_and_no_more(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    hangs(run_dir)
    found = diagnose(run_dir)
    assert found is not None
    assert (found.kind, found.rank, found.host) == ("hang", 1, "node2")
    assert "logs/stacks_rank*.txt" in found.remedy
    for _ in range(2):
        assert after.main([str(run_dir), "76"]) == EXIT_REQUEUE
        records.record_event(run_dir, "start")
    assert after.main([str(run_dir), "76"]) == 0
    assert "it hung 3 times" in records.read_events(run_dir)[-1]["reason"]
    monkeypatch.setenv("SLURM_JOB_ID", "8")  # somebody has looked at it and goes on
    assert after.main([str(run_dir), "76"]) == EXIT_REQUEUE


def test_a_job_that_is_done_or_cancelled_stays_out_of_the_queue(
    run_dir: Path, job: Callable[..., None]
) -> None:
    assert decide(run_dir, 0)[0] == "finished"
    records.record_event(run_dir, "preempted", reason="SIGTERM: left")  # scancel sends it too
    job("COMPLETING")
    assert decide(run_dir, 75) == ("ended", "by SLURM (COMPLETING)")


def test_a_line_that_a_full_disk_cut_does_not_hide_the_others(run_dir: Path) -> None:
    path = run_dir / "logs" / "events.jsonl"
    path.write_text(path.read_text() + json.dumps({"event": "preempted"})[:8])
    read: list[dict[str, Any]] = records.read_events(run_dir)
    assert [one["event"] for one in read] == ["start"]
