"""On a real SLURM: a run on `--nodes 1-4` takes the nodes that there are, at each start, and ends
with the numbers of one that had the same number all the time.

`elastic` begins while one node is free, and goes on while there are three, of which a step can be
spread over two. `whole` is an undisturbed run of two ranks on this machine.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from clf.config.saved import load
from clf.run_folder import read_status
from slurm.records import read_events
from tests.slurm.place import ROOT, SETTINGS, STEPS, Place, read_job, table
from tests.slurm.testbed import Testbed


@pytest.fixture(scope="module")
def place(slurm_testbed: Testbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """All jobs, done."""
    made = Place(tmp_path_factory.mktemp("user"), slurm_testbed)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_testbed.environment.items():
            patch.setenv(name, value)
        whole = subprocess.Popen(
            [sys.executable, str(ROOT / "launch" / "submit.py"), "--name", "whole"]
            + ["--gpus", "2", "data.micro_batch_size=64", *SETTINGS],
            cwd=made.folder,
            env=made.local,
            stdout=subprocess.DEVNULL,
        )
        try:
            run_on_what_there_is(made)
            assert whole.wait(240) == 0
            yield made
        finally:
            if whole.poll() is None:
                whole.send_signal(signal.SIGINT)
                whole.wait(60)
            slurm_testbed.cancel_all()
            slurm_testbed.repair()


def run_on_what_there_is(place: Place) -> None:
    place.testbed.command("scontrol", "update", "node=node[2-4]", "state=drain", "reason=taken")
    place.submit({"elastic": ("--nodes", "1-4", "--gpus", "1", "model.pause=0.2")})
    place.wait_for_step("elastic", 5)  # in the second epoch
    place.testbed.command("scontrol", "update", "node=node[2-3]", "state=resume")
    place.testbed.command("scancel", "--signal=USR2", read_job(place.run("elastic")))
    place.wait_until_queued_again("elastic", 1)
    place.wait_for_end("elastic")


def test_each_start_takes_the_nodes_that_there_are(place: Place) -> None:
    run = place.run("elastic")
    assert load(run / "config.yaml").nodes == "1-4"
    starts = [event for event in read_events(run) if event["event"] == "start"]
    assert [len(start["nodes"]) for start in starts] == [1, 2]
    log = (run / "logs" / f"{read_job(run)}_0_log.out").read_text()
    assert "clf: nodes=1-4: SLURM has given 1, and the run uses 1" in log
    assert "clf: nodes=1-4: SLURM has given 3, and the run uses 2" in log
    shown = place.types("jobs.py", "status", "elastic")
    assert "(of 1-4)" in next(line for line in shown.splitlines() if line.startswith("nodes"))


def test_the_numbers_are_those_of_a_run_whose_nodes_stayed(place: Place) -> None:
    run, whole = place.run("elastic"), place.run("whole")
    status = read_status(run) or {}
    assert (status["state"], status["step"]) == ("finished", STEPS)
    mine, expected = (
        torch.load(path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for path in (run, whole)
    )
    for key, value in expected.items():
        print(key, float((mine[key] - value).abs().max()), float(value.abs().max()))
        if key.endswith("num_batches_tracked"):
            continue  # counts a rank's micro-batches, and decides nothing
        # Sums over ranks are taken in another order on another number of ranks.
        torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-6)
    steps = [row["step"] for row in table(run / "metrics.csv")]
    assert steps == [row["step"] for row in table(whole / "metrics.csv")]


def test_the_columns_by_node_are_those_of_the_nodes_that_counted(place: Place) -> None:
    run, whole = place.run("elastic"), place.run("whole")
    last = [event for event in read_events(run) if event["event"] == "start"][-1]["nodes"]
    first_epoch, rows = (table(run / "per_class" / f) for f in ("val_epoch001.csv", "test.csv"))
    assert not [name for name in first_epoch[0] if "/" in name]
    columns = [name for name in rows[0] if name.startswith("support/")]
    assert columns == [f"support/{node}" for node in last]
    for row, other in zip(rows, table(whole / "per_class" / "test.csv"), strict=True):
        assert (row["support"], row["correct"]) == (other["support"], other["correct"])
        assert sum(int(row[name]) for name in columns) == int(row["support"])


def test_the_recorded_run_says_what_was_asked_for_and_what_was_got(place: Place) -> None:
    found = sorted(place.run("elastic").glob("wandb/**/offline-run-*"))
    said = [b"".join(path.read_bytes() for path in one.glob("*.wandb")) for one in found]
    assert len(said) == 2
    assert all(b"nodes_asked" in one for one in said)


def test_the_job_record_says_the_range(place: Place) -> None:
    assert json.loads((place.run("elastic") / "job.json").read_text())["nodes"] == "1-4"
