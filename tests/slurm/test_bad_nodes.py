"""A node on which a run has failed twice by the hardware's doing is left out at the next start, and
no other node is."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.config.saved import load, save
from clf.plan import compose
from clf.run_folder import RunFolder
from slurm import after, bad_nodes, queue, records
from slurm.failures import START_MARK, diagnose
from slurm.job import EXIT_REQUEUE
from slurm.submitit_adapter import node_names
from tests.slurm.testbed import Testbed
from tests.slurm.user import SMALL, User

ECC = "CUDA error: uncorrectable ECC error encountered"


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[1-3]")
    folder = RunFolder.create(tmp_path / "run")
    save(compose(["name=run", "slurm.exclude=node9", "slurm.max_excluded=1"]), folder.config)
    RunFolder.write_json(folder.job, {"job_id": "7", "gpus": 2})
    (folder.logs / "job.sbatch").write_text("#!/bin/bash\n")
    return folder.path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The commands that SLURM was asked; it agrees to all. Signals that a requeue has blocked in
    this process, which in a job would end, are unblocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    commands: list[str] = []

    def ask(command: list[str], environment: object = None) -> str:
        commands.append(" ".join(command))
        return ""

    monkeypatch.setattr(queue, "ask", ask)
    monkeypatch.setattr(queue, "job", lambda job_id: queue.QueuedJob("7", "RUNNING"))
    monkeypatch.setattr(bad_nodes, "LEAVE_S", 0)
    yield commands
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fails(run_dir: Path, node: str, message: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """A start that ends by an error of a rank on `node`; the exit code of the script's end."""
    records.clear_errors(run_dir)
    records.record_event(run_dir, "start")
    with monkeypatch.context() as patch:
        patch.setenv("SLURMD_NODENAME", node)
        records.record_error(run_dir, 1, RuntimeError(message))
    return after.main([str(run_dir), "1"])


def test_the_second_failure_of_the_hardware_leaves_the_node_out(
    run_dir: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert fails(run_dir, "node2", ECC, monkeypatch) == EXIT_REQUEUE
    assert fails(run_dir, "node3", ECC, monkeypatch) == EXIT_REQUEUE
    assert asked == []
    assert load(run_dir / "config.yaml").slurm.exclude == "node9"
    assert fails(run_dir, "node2", ECC, monkeypatch) == 0, "it has requeued the job itself"
    assert [command.split()[:2] for command in asked] == [
        ["sbatch", "--test-only"],
        ["scontrol", "requeue"],
        ["scontrol", "update"],
    ]
    assert asked[-1].endswith("JobId=7 ExcNodeList=node9,node2")
    assert load(run_dir / "config.yaml").slurm.exclude == "node9,node2"
    assert "clf: node2 has failed 2 times (hardware): it is left out" in capsys.readouterr().out
    assert bad_nodes.left_out(run_dir, records.read_events(run_dir)) == [
        "node2 has failed 2 times (hardware)"
    ]
    assert bad_nodes.with_own(run_dir, "node9") == "node9,node2", "of the same command once more"
    assert bad_nodes.with_own(run_dir, "node[2-3]") == "node[2-3]"
    # One is allowed.
    assert fails(run_dir, "node3", ECC, monkeypatch) == 0
    assert "not left out: slurm.max_excluded=1 is reached" in capsys.readouterr().out
    assert load(run_dir / "config.yaml").slurm.exclude == "node9,node2"


def test_a_job_that_slurm_has_requeued_by_itself_leaves_the_node_out_too(
    run_dir: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = f"{START_MARK}0 of run, rank 0\nsrun: error: Node failure on node3\n"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    for state in ("CANCELLED", "PENDING", "PENDING"):  # an end that somebody wanted blames nobody
        assert load(run_dir / "config.yaml").slurm.exclude == "node9"
        said = queue.QueuedJob("7", state)
        monkeypatch.setattr(queue, "job", lambda job_id, said=said: said)
        records.record_event(run_dir, "start")
        (run_dir / "logs" / "7_0_log.out").write_text(log)
        assert after.main([str(run_dir), "1"]) == 0
    assert asked[-1] == "scontrol update JobId=7 ExcNodeList=node9,node3"
    assert "scontrol requeue 7" not in asked
    assert load(run_dir / "config.yaml").slurm.exclude == "node9,node3"


def test_where_slurm_refuses_the_batch_script_tries_it_once_more(
    run_dir: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(command: list[str], environment: object = None) -> str:
        if command[:2] == ["scontrol", "requeue"]:
            raise queue.QueueError("scontrol requeue 7: busy")
        return ""

    monkeypatch.setattr(queue, "ask", ask)
    assert [fails(run_dir, "node1", ECC, monkeypatch) for _ in range(2)] == [EXIT_REQUEUE] * 2
    assert "clf: scontrol requeue 7: busy" in capsys.readouterr().out


def test_a_job_that_slurm_did_not_change_is_changed_at_its_next_end(
    run_dir: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    agree = queue.ask

    def ask(command: list[str], environment: object = None) -> str:
        if command[:2] == ["scontrol", "update"]:
            raise queue.QueueError("busy")
        return agree(command)

    monkeypatch.setattr(queue, "ask", ask)
    assert [fails(run_dir, "node1", ECC, monkeypatch) for _ in range(2)] == [EXIT_REQUEUE, 0]
    assert "clf: this job does not leave out node9,node1 yet: busy" in capsys.readouterr().out
    monkeypatch.setattr(queue, "ask", agree)
    assert fails(run_dir, "node1", ECC, monkeypatch) == 0
    assert asked[-1] == "scontrol update JobId=7 ExcNodeList=node9,node1"


def test_an_error_in_code_blames_no_node(
    run_dir: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        assert fails(run_dir, "node2", "no such key", monkeypatch) == 0
    assert bad_nodes.failures(run_dir) == {}
    assert asked == []


def test_an_nccl_error_is_not_retried_for_ever_but_the_next_submission_leaves_the_node_out(
    run_dir: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert fails(run_dir, "node1", "NCCL error: unhandled system error", monkeypatch) == 0
    assert load(run_dir / "config.yaml").slurm.exclude == "node9,node1"
    assert not [command for command in asked if "requeue" in command]


def test_never_so_many_that_the_job_could_not_run(
    run_dir: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(command: list[str], environment: object = None) -> str:
        raise queue.QueueError("Requested node configuration is not available")

    monkeypatch.setattr(queue, "ask", refuse)
    for _ in range(2):
        fails(run_dir, "node1", ECC, monkeypatch)
    assert "is not left out: without it the job could not run (Requested" in capsys.readouterr().out
    assert load(run_dir / "config.yaml").slurm.exclude == "node9"


def test_a_lost_node_is_the_one_that_is_silent_and_not_those_that_lost_it(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.record_event(run_dir, "start")
    for rank, node in enumerate(("node1", "node3")):
        monkeypatch.setenv("SLURMD_NODENAME", node)
        error = RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:4")
        records.record_error(run_dir, rank, error)
    assert bad_nodes.suspect(run_dir) == {"bad_node": "node2", "kind": "node failure"}
    monkeypatch.setenv("SLURMD_NODENAME", "node2")
    records.record_error(run_dir, 2, RuntimeError("[gloo] Connection closed by peer"))
    assert bad_nodes.suspect(run_dir) == {}, "nobody knows"


def test_slurms_word_names_the_lost_node(run_dir: Path) -> None:
    records.record_event(run_dir, "start")
    log = f"{START_MARK}0 of run, rank 0\nsrun: error: Node failure on node3\n"
    (run_dir / "logs" / "7_0_log.out").write_text(log)
    assert bad_nodes.suspect(run_dir) == {"bad_node": "node3", "kind": "node failure"}


def test_a_drivers_line_in_the_log_of_a_rank_blames_the_node_of_that_rank(run_dir: Path) -> None:
    records.record_event(run_dir, "start")
    records.record_error(run_dir, 0, RuntimeError("NCCL error: remote process exited"))
    log = f"{START_MARK}0 of run, rank 5\nNVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off\n"
    (run_dir / "logs" / "7_5_log.out").write_text(log)
    found = diagnose(run_dir)
    assert found is not None
    assert (found.kind, found.rank, found.host) == ("hardware", 5, "node3")


def test_accuracy_that_departs_in_two_epochs_counts_as_two_failures(
    run_dir: Path, asked: list[str]
) -> None:
    folder = RunFolder(run_dir)
    for epoch in (3, 3, 4):  # an epoch that was validated again after a start counts once
        folder.record_departure("node2", "val", epoch)
    folder.record_departure("node1", "test", 4)
    assert bad_nodes.failures(run_dir) == {"node2": ["departing accuracy"] * 2}
    records.record_event(run_dir, "start")
    assert bad_nodes.leave_out(run_dir) == ["node2"]
    assert bad_nodes.failures(run_dir) == {}


def test_a_start_that_ended_without_a_word_is_the_doing_of_the_nodes_that_are_down(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.record_event(run_dir, "start")
    shown = "node1 idle\nnode2 down*\nnode3 alloc\n"
    monkeypatch.setattr(queue, "ask", lambda command, environment=None: shown)
    bad_nodes.record_lost(run_dir)
    assert bad_nodes.failures(run_dir) == {"node2": ["node failure"]}
    bad_nodes.record_lost(run_dir)
    assert bad_nodes.failures(run_dir) == {"node2": ["node failure"]}, "said once"


def test_a_config_without_the_line_is_left_as_it_is() -> None:
    assert bad_nodes.with_exclude("slurm:\n  exclude: null\n", "a[1-2],b") == (
        'slurm:\n  exclude: "a[1-2],b"\n'
    )
    assert bad_nodes.with_exclude("data:\n  exclude: x\nname: y\n", "a") is None


BROKEN = f"""if os.environ.get("SLURMD_NODENAME") == "node1":
        raise RuntimeError("{ECC}")
    if cfg.seed == 15:"""


def test_on_a_real_slurm_the_waiting_job_leaves_the_node_out(
    testbed: Testbed, checkout: Path
) -> None:
    user = User(testbed, checkout)
    user.edits("clf/run.py", "if cfg.seed == 15:", BROKEN)
    user.types("submit.py", "--gpus", "1", "--name", "bad", "slurm.exclude=node[3-4]", *SMALL)
    run, job = user.run("bad"), user.job_id("bad")
    for restarts in (1, 2):
        user.waits("requeued", lambda n=restarts: f"Restarts={n}" in shown(testbed, job))
        user.waits("it waits", lambda: user.state("bad") in ("PENDING", "RUNNING"))
        testbed.start_now(job)
    user.waits_until_finished("bad")
    story = [(one["event"], one["nodes"]) for one in records.read_events(run)]
    assert story == [
        *[("start", ["node1"]), ("requeued", ["node1"])] * 2,
        *[("left out", ["node1"]), ("start", ["node2"]), ("finished", ["node2"])],
    ]
    asked = re.search(r" ExcNodeList=(\S+)", shown(testbed, job))
    assert asked is not None
    assert sorted(node_names(asked[1])) == ["node1", "node3", "node4"]
    assert load(run / "config.yaml").slurm.exclude == "node[3-4],node1"
    assert user.status("bad")["left out"] == "node1 has failed 2 times (hardware)"
    log = (run / "logs" / f"{job}_0_log.out").read_text()
    assert "clf: node1 has failed 2 times (hardware): it is left out from now on" in log
    # The same command once more does not take it again.
    again = ("submit.py", "--gpus", "1", "--name", "bad", "slurm.exclude=node[3-4]", *SMALL)
    assert "exclude: node[3-4],node1" in user.types(*again, "epochs=99", "--dry-run")


def shown(testbed: Testbed, job: str) -> str:
    return testbed.command("scontrol", "-o", "show", "job", job)
