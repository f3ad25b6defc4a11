"""Submitting to a real SLURM by the commands that a user types: the right job runs.
Training is the stand-in of tests/conftest.py, once the real one."""

import csv
import stat
import sys
from pathlib import Path

import pytest

from tests.slurm.testbed import Testbed
from tests.slurm.user import SMALL, User

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def user(testbed: Testbed, checkout: Path) -> User:
    return User(testbed, checkout)


def test_two_nodes_of_two_tasks_are_one_group_with_a_log_a_rank(user: User) -> None:
    words = ("submit.py", "--nodes", "2", "--gpus", "2", "--name", "two", "--time", "0:20:00")
    dry = user.types(*words, "--dry-run", "tracking.mode=disabled")
    assert not user.run("two").exists()
    said = user.types(*words, "tracking.mode=disabled")
    job_id = user.job_id("two")
    assert f"submitted as SLURM job {job_id}\n" in said
    for command in ("status", "logs", "cancel"):
        assert f"python {user.checkout}/launch/jobs.py {command} runs/two" in said
    script = (user.run("two") / "logs" / "job.sbatch").read_text()
    assert script in dry  # to the letter
    for line in ("nodes=2", "ntasks-per-node=2", "gpus-per-node=2", "time=20", "signal=USR2@120"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --requeue\n" in script
    user.waits_until_finished("two")
    ranks = [user.seen("two", rank) for rank in range(4)]
    assert [(one["RANK"], one["NODE_RANK"], one["LOCAL_RANK"]) for one in ranks] == [
        ("0", "0", "0"),
        ("1", "0", "1"),
        ("2", "1", "0"),
        ("3", "1", "1"),
    ]
    assert {one["WORLD_SIZE"] for one in ranks} == {"4"}
    assert {one["MASTER_ADDR"] for one in ranks} == {"node1"}
    assert len({one["MASTER_PORT"] for one in ranks}) == 1
    assert 10000 <= int(ranks[0]["MASTER_PORT"]) < 32768
    assert ranks[0]["path"][0] == str(user.run("two") / "code")
    logs = user.run("two") / "logs"
    assert all((logs / f"{job_id}_{rank}_log.out").read_text() for rank in range(4))
    for path in [user.run("two"), *user.run("two").rglob("*")]:
        if "code" not in path.parts:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_what_is_not_asked_for_is_left_to_the_partition(user: User) -> None:
    script = user.types("submit.py", "--gpus", "1", "--dry-run", *SMALL).partition("#!/bin/bash")[2]
    for option in (
        "time",
        "partition",
        "account",
        "mem",
        "gpus",
        "wckey",
        "array",
        "cpus-per-task",
    ):
        assert f"#SBATCH --{option}" not in script


def test_a_profile_is_a_file_and_flags_go_over_it(user: User) -> None:
    profile = user.checkout / "configs" / "slurm" / "mine.yaml"
    profile.write_text(
        "partition: high\ntime: 30\ncpus_per_gpu: 3\nmem_gb: 8\nexclude: 'node[1-2]'\n"
        "setup: ['export FROM_SETUP=\"a b\"']\nenv: {WORD: $HOME and 'so on'}\n"
        "mail_user: me@example.org\nmail_type: END,FAIL\n"
    )
    user.types("submit.py", "--gpus", "2", "--slurm", "mine", "--time", "45", "--name", "p", *SMALL)
    job = user.testbed.command("scontrol", "show", "job", user.job_id("p"))
    for fact in ("Partition=high", "TimeLimit=00:45:00", "ExcNodeList=node[1-2]", "MailUser=me@"):
        assert fact in job
    assert "cpu=6,mem=8G,node=1" in job
    user.waits_until_finished("p")
    assert user.seen("p")["WORD"] == "$HOME and 'so on'"
    assert 'export FROM_SETUP="a b"\n' in (user.run("p") / "logs" / "job.sbatch").read_text()


def test_a_job_is_none_of_the_shell_s_own_allocation(user: User) -> None:
    """srun ends a job that has memory by the node and, from the shell, by the core."""
    left_over = {
        "SLURM_MEM_PER_CPU": "100",
        "SLURM_MEM_PER_GPU": "100",
        "SLURM_NTASKS": "7",
        "SLURM_NPROCS": "7",
        "SLURM_NNODES": "3",
        "SLURM_CPU_BIND": "quiet,mask_cpu:0x40000000",
        "SLURM_NTASKS_PER_NODE": "7",
        "SLURM_JOB_ID": "99999",
        "SLURM_PROCID": "3",
        "SBATCH_EXPORT": "ALL",
        "RANK": "3",
        "WORLD_SIZE": "8",
    }
    words = ("submit.py", "--gpus", "2", "--name", "clean", "slurm.mem_gb=1", *SMALL)
    user.types(*words, **left_over)
    user.waits_until_finished("clean")
    ranks = [user.seen("clean", rank) for rank in range(2)]
    assert [(one["RANK"], one["WORLD_SIZE"]) for one in ranks] == [("0", "2"), ("1", "2")]


def test_tasks_of_srun_are_told_what_to_use(user: User) -> None:
    words = ("srun", "-n2", "--mem=100", sys.executable, f"{user.checkout}/launch/train.py", *SMALL)
    said = user.types(*words, code=2)
    assert "srun has started this command 2 times" in said
    assert "(--inside-job: in this allocation)" in said
    assert not (user.home / "runs").exists()
    user.types(*words[:1], "-n1", *words[2:], "name=one")
    assert (user.run("one") / "metrics.csv").exists()


def test_all_faults_are_reported_together_and_nothing_is_queued(user: User) -> None:
    said = user.types(
        *("submit.py", "--nodes", "9", "--gpus", "3", "--time", "2:00:00", "--name", "wrong"),
        *("data.batchsize=8", "tracking.mode=online", "data=imagefolder", "slurm.mem_gb=900"),
        f"data.root={user.home}/nowhere",
        code=2,
        HOME=str(user.home),
    )
    for fault in (
        "- nodes=9: partition gpu gives at most 4",
        "- gpus=3: one task is started for each GPU, and the nodes of partition gpu have 2",
        "- slurm.time=120: partition gpu allows 60 minutes",
        "- slurm.mem_gb=900: the nodes of partition gpu have 62 GiB",
        "- data.batchsize=8: no such key; did you mean data.batch_size?",
        "- data.batch_size=64: not divisible by 27 ranks",
        f"- data.root: there is no folder {user.home}/nowhere",
        "- tracking.mode=online: there is no key",
    ):
        assert fault in said
    for setting, fault in {
        "slurm.partition=hihg": "slurm.partition=hihg: expected one of gpu, ",
        "slurm.constraint=h100": "slurm.constraint: SLURM refuses the job: ",
    }.items():
        assert fault in user.types("submit.py", "--gpus", "1", setting, *SMALL, code=2)
    assert user.testbed.command("squeue", "-h") == ""
    assert not (user.home / "runs").exists()


def test_a_job_that_is_followed_shows_its_epochs_and_its_end(user: User) -> None:
    words = ("submit.py", "--gpus", "2", "--name", "seen", "--follow", *SMALL)
    said = user.types(*words)
    assert "epoch   1   val top-1 75.0 %   loss 0.5" in said
    assert "test  top-1 50.0 %   top-5 100.0 %   loss 0.25" in said
    said = user.types(
        "submit.py", "--gpus", "2", "--name", "bad", "seed=13", "--follow", *SMALL, code=1
    )
    assert "The job failed on rank 1: RuntimeError: no more luck" in said


def test_a_run_goes_into_a_container_with_all_that_it_reads(user: User, tmp_path: Path) -> None:
    image = f"{tmp_path}/my image.sif"
    inside = ("slurm.container.mounts=['/scratch:/scratch']", f"slurm.container.image='{image}'")
    words = ("submit.py", "--gpus", "1", "--name", "c", "--dry-run", *inside, *SMALL)
    mounts = f"{user.home}/runs:{user.home}/runs,"
    pyxis = user.types(*words)
    assert f"'--container-image={image}' --container-mounts={mounts}" in pyxis
    assert ",/scratch:/scratch --output=" in pyxis
    assert ' env PYTHONPATH="$run/code" python -P -u -m submitit.core._submit' in pyxis
    apptainer = user.types(*words, "slurm.container.runtime=apptainer")
    assert f" apptainer exec --nv --bind {mounts}" in apptainer
    assert f",/scratch:/scratch '{image}' env PYTHONPATH=" in apptainer


def test_sbatch_by_hand_runs_the_same_job_and_a_requeue_goes_on_in_its_folder(user: User) -> None:
    user.edits("clf/run.py", 'run_dir / "wait"', 'run_dir.parent / "wait"')
    (user.home / "runs").mkdir()
    (user.home / "runs" / "wait").touch()
    train = str(user.checkout / "slurm" / "train.sbatch")
    asked = ("--parsable", "--nodes=2", "--ntasks-per-node=2", f"--chdir={user.checkout}")
    settings = (f"runs_dir={user.home}/runs", *SMALL)
    job_id = user.types("sbatch", *asked, train, "--model", "resnet18", *settings).strip()
    name = f"digits-resnet18-job{job_id}"
    user.waits("four ranks", lambda: len(list(user.run(name).glob("seen*.json"))) == 4)
    assert "running" in user.types("jobs.py", "list") or "starting" in user.types("jobs.py", "list")
    for path in user.run(name).glob("seen*.json"):
        path.unlink()
    user.testbed.command("scontrol", "requeue", job_id)
    user.waits("queued again", lambda: user.state(name) == "PENDING")
    (user.home / "runs" / "wait").unlink()
    user.testbed.start_now(job_id)
    user.waits_until_finished(name)
    assert {user.seen(name, rank)["WORLD_SIZE"] for rank in range(4)} == {"4"}
    assert [path.name for path in user.run(name).parent.iterdir()] == [name]


def test_within_salloc_the_same_file_runs_on_the_nodes_that_are_there(user: User) -> None:
    gpus, train = ("--nodes=2", "--gpus-per-node=2"), str(user.checkout / "slurm/train.sbatch")
    words = ("bash", train, "--name", "here", "tracking.mode=disabled")
    short = user.types("salloc", *gpus, *words, code=2)
    assert "this allocation has 1 cores on a node; ask for it with --ntasks-per-node=2" in short
    said = user.types("salloc", *gpus, "--ntasks-per-node=2", *words)
    assert "2 nodes x 2 tasks" in said
    assert [user.seen("here", rank)["NODE_RANK"] for rank in range(4)] == ["0", "0", "1", "1"]
    outside = user.types("submit.py", "--inside-job", *SMALL, code=2)
    assert "--inside-job: this shell is in no job" in outside


def test_two_nodes_train_for_real_and_the_table_tells_the_nodes_apart(
    testbed: Testbed, tmp_path: Path
) -> None:
    (tmp_path / "checkout").symlink_to(ROOT)
    user = User(testbed, tmp_path / "checkout")
    small = ("epochs=1", "model.warmup_epochs=0", "data.batch_size=256")
    said = user.types(
        *("submit.py", "--nodes", "2", "--gpus", "2", "--name", "real", "--follow"),
        *(*small, *SMALL),
    )
    assert "epoch   1   val top-1" in said
    with (user.run("real") / "per_class" / "val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for column in ("support", "correct"):
        for row in rows:
            assert int(row[f"{column}/node1"]) + int(row[f"{column}/node2"]) == int(row[column])
    # Both nodes had their share of scikit-learn's images.
    assert all(sum(int(row[f"support/{node}"]) for row in rows) > 50 for node in ("node1", "node2"))
    status = user.status("real")
    assert (status["state"], status["epoch"]) == ("finished", "1/1")
