"""On a real SLURM: whatever ends a job early, the run ends as if nothing had happened.

Jobs of two ranks, submitted once for all tests: `moved` is signalled, preempted, and loses a node
twice; `short` runs into its time limit; one rank of `broken` raises an error, and one of `killed`
is killed; `cancelled` is cancelled. `whole` is an undisturbed run on this machine.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.run_folder import RunFolder, read_status
from slurm.failures import diagnose
from slurm.records import read_events
from tests.chaos.equal import differences
from tests.slurm.place import ROOT, SETTINGS, STEPS, Place, read_job, table, wait_for
from tests.slurm.testbed import Testbed, processes


@pytest.fixture(scope="module")
def place(slurm_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All jobs, done."""
    made = Place(tmp_path_factory.mktemp("user"), slurm_testbed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_testbed.environment.items():
            patch.setenv(name, value)
        whole = subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "submit.py"), "--name", "whole"]
            + ["--gpus", "2", *SETTINGS],
            cwd=made.folder,
            env=made.local,
            stdout=subprocess.DEVNULL,
        )
        try:
            run_and_disturb(made)
            assert whole.wait(240) == 0
            yield made
        finally:
            if whole.poll() is None:
                whole.send_signal(signal.SIGINT)  # it ends its job
                whole.wait(60)
            slurm_testbed.cancel_all()
            slurm_testbed.repair()


def run_and_disturb(place: Place) -> None:
    testbed = place.testbed
    elsewhere = ("--nodes", "1", "--gpus", "2", "slurm.nodelist=node4")  # where all stays well
    place.submit(
        {
            # SLURM looks at time limits every 30 s only: the signal comes after 80 to 110 s.
            "short": ("model.pause=4.5", "--time", "2", "slurm.signal_s=10", *elsewhere),
            "moved": (
                *("--nodes", "2", "--gpus", "1", "slurm.exclude=node4"),
                *("model.pause=1.0", "--partition", "preempt"),
            ),
            # KillWait leaves five seconds for the step, the checkpoint and the end of the script.
            "cancelled": ("model.pause=1.5", *elsewhere),
        }
    )
    place.wait_for_step("moved", 2)
    testbed.command("scancel", "--signal=USR2", read_job(place.run("moved")))
    place.submit(
        {
            "broken": ("model.fail_at=3", *elsewhere),
            "killed": ("model.kill_at=3", *elsewhere),
        }
    )
    place.wait_until_queued_again("moved", 1)
    place.wait_for_step("cancelled", 1)
    testbed.command("scancel", read_job(place.run("cancelled")))
    place.wait_for_step("moved", 5)
    urgent = testbed.command(
        *("sbatch", "--parsable", "-p", "high", "--nodes=2", f"--nodelist={place.nodes('moved')}"),
        *("--exclusive", "--output=/dev/null", "--wrap=sleep 600"),
    ).strip()
    wait_for("moved off its nodes", lambda: (place.job("moved").restarts or 0) >= 2)
    testbed.command("scancel", urgent)
    place.wait_until_queued_again("moved", 2)
    place.wait_for_step("moved", 8)
    down = place.nodes("moved").split(",")[0]
    testbed.set_down(down)
    place.wait_until_queued_again("moved", 3)
    place.wait_for_step("moved", 11)
    testbed.repair(down)
    testbed.kill_node(place.nodes("moved").split(",")[1])
    place.wait_until_queued_again("moved", 4)
    for name in ("moved", "short", "broken", "killed", "cancelled"):
        place.wait_for_end(name)


def happened(run_dir: Path) -> list[str]:
    return [event["event"] for event in read_events(run_dir)]


@pytest.mark.parametrize("name", ["moved", "short"])
def test_a_run_that_was_interrupted_ends_with_the_weights_and_table_of_one_that_was_not(
    place: Place, name: str
) -> None:
    run, whole = place.run(name), place.run("whole")
    assert place.job(name).state == "COMPLETED"
    status = read_status(run) or {}
    assert (status["state"], status["step"], status["epoch"]) == ("finished", STEPS, 6)
    assert differences(RunFolder(run), RunFolder(whole)) == []
    # Its counts are by node where there are two.
    for row, other in zip(
        table(run / "per_class" / "test.csv"), table(whole / "per_class" / "test.csv"), strict=True
    ):
        for column in ("class", "support", "correct", "accuracy"):
            assert row[column] == other[column]
        for count in ("support", "correct"):  # by node, and in all
            by_node = [int(row[key]) for key in row if key.startswith(f"{count}/")]
            assert len(by_node) == (2 if name == "moved" else 0)
            assert not by_node or sum(by_node) == int(row[count])
    rows, others = (table(path / "metrics.csv") for path in (run, whole))
    assert [row["step"] for row in rows] == [row["step"] for row in others]


def test_a_run_is_one_run_in_wandb_however_often_it_starts(place: Place) -> None:
    for name, least in (("moved", 5), ("short", 2)):
        run = place.run(name)
        assert happened(run).count("start") >= least
        segments = list((run / "wandb").glob("**/offline-run-*"))
        assert len(segments) >= least
        assert len({segment.name.rpartition("-")[2] for segment in segments}) == 1


def test_a_run_goes_on_from_the_step_at_which_it_left(place: Place) -> None:
    story = read_events(place.run("moved"))
    left = [event for event in story if event["event"] == "preempted"]
    # Signalled, then preempted; after a lost node SLURM itself requeues.
    assert [event["reason"].partition(":")[0] for event in left[:2]] == ["SIGUSR2", "SIGTERM"]
    assert 2 <= left[0]["step"] < left[1]["step"] < STEPS
    starts = [event for event in story if event["event"] == "start"]
    assert len(starts) == 5
    assert starts[2]["nodes"][0] not in starts[3]["nodes"]
    assert starts[3]["nodes"][1] not in starts[4]["nodes"]


def test_a_run_continues_after_a_time_limit(place: Place) -> None:
    assert happened(place.run("short"))[:3] == ["start", "preempted", "requeued"]
    assert happened(place.run("short"))[-1] == "finished"


def test_an_error_on_one_rank_ends_the_job_at_once_and_is_reported_with_rank_and_node(
    place: Place,
) -> None:
    run = place.run("broken")
    assert place.job("broken").state == "FAILED"
    assert happened(run) == ["start", "failed"]
    found = diagnose(run)
    assert found is not None
    assert (found.kind, found.rank) == ("error in code", 1)
    assert found.host == read_events(run)[0]["nodes"][-1]
    assert "nothing of that name" in found.summary


def test_a_rank_that_is_killed_ends_the_job_and_is_named(place: Place) -> None:
    assert place.job("killed").state == "FAILED"
    found = diagnose(place.run("killed"))
    assert found is not None
    assert (found.kind, found.rank) == ("killed", 1)


def test_scancel_is_final_and_loses_nothing(place: Place) -> None:
    run = place.run("cancelled")
    assert place.job("cancelled").state == "CANCELLED"
    assert happened(run) == ["start", "preempted", "ended"]
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_no_process_stays_behind(place: Place) -> None:
    wait_for("tasks gone", lambda: not processes.of_jobs(place.testbed.folder))
