"""The commands as a person types them: what they answer, their exit codes, and what they leave.
Training is the stand-in of conftest.py; tests/test_end_to_end.py has the real one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("strategy.accelerator=cpu", "tracking.mode=disabled")


def typed(checkout: Path, script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of a checkout in the folder beside it, as in a terminal of 80 columns."""
    return subprocess.run(
        [sys.executable, str(checkout / "launch" / script), *words],
        cwd=checkout.parent,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "script",
    [
        *("submit.py", "train.py", "evaluate.py", "export.py", "jobs.py", "check_data.py"),
        "dashboard.py",
    ],
)
def test_help_shows_examples_and_does_not_wait_for_torch_or_hydra(script: str) -> None:
    program = (
        f"import sys, runpy; sys.argv = ['launch/{script}', '--help']\n"
        f"try: runpy.run_path('launch/{script}', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print({'torch', 'hydra', 'omegaconf', 'rich', 'numpy'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"examples:\n  python launch/{script}" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_a_dry_run_shows_config_and_resources_and_leaves_nothing() -> None:
    program = (
        "import sys; from launch.submit import main\n"
        "code = main(['--model', 'resnet50', 'epochs=3', '--dry-run', '--name', 'dry'])\n"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "_target_: clf.models.resnet.ResNet50Model" in done.stdout
    assert "epochs: 3" in done.stdout
    assert "# resources: this machine" in done.stdout
    assert not (ROOT / "runs" / "dry").exists()


@pytest.mark.parametrize("script", ["submit.py", "train.py"])
def test_mistakes_in_flags_and_settings_come_in_one_message_and_exit_code_2(script: str) -> None:
    done = typed(ROOT, script, "data.batchsize=16", "--model", "resnet19", "epochs=ten", "nodes=-1")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("4 faults in the configuration:\n- ")
    for given in ("data.batchsize=16", "model=resnet19", "epochs=ten", "nodes=-1"):
        assert f"- {given}: " in done.stderr


@pytest.mark.parametrize(
    ("script", "words", "answer"),
    [
        ("submit.py", "--batch-size 32", "without dashes: did you mean data.batch_size=32?"),
        ("submit.py", "--batch-size=32", "without dashes: did you mean data.batch_size=32?"),
        ("submit.py", "--lr --dry-run", "did you mean model.learning_rate=VALUE?"),
        ("submit.py", "--modle resnet50", "--modle: no such flag; did you mean --model?"),
        ("train.py", "--node 1", "--node: no such flag; did you mean --nodes?"),
        ("submit.py", "--dry", "--dry: no such flag; did you mean --dry-run?"),
        ("jobs.py", "list --swep x", "--swep: no such flag; did you mean --sweep?"),
        ("submit.py", "--qqq", "launch/submit.py --settings lists them"),
    ],
)
def test_an_unknown_flag_gets_the_flag_or_the_setting_that_was_meant(
    script: str, words: str, answer: str
) -> None:
    done = typed(ROOT, script, *words.split())
    assert done.returncode == 2
    assert answer in done.stderr


@pytest.mark.parametrize(
    "path", ["/my images/a", "/a,b", "/a=b", "/it's", "a, b='c'", "/tail\\", "/a\\'b", "[1]", "x"]
)
def test_a_path_given_to_a_flag_reaches_the_configuration_as_it_was_typed(path: str) -> None:
    from clf.config.overrides import parse as parse_settings
    from launch.arguments.parser import parse
    from launch.arguments.run import overrides, submit_parser

    for flag, key in (("--data", "data"), ("--config", "recipe")):
        read = parse_settings(overrides(parse(submit_parser(), [flag, path])))
        assert read.faults == []
        assert [(setting.key, setting.value) for setting in read.settings] == [(key, path)]


def test_the_settings_of_a_group_are_listed_with_their_defaults() -> None:
    done = typed(ROOT, "submit.py", "--settings", "checkpoint")
    assert done.returncode == 0
    assert "checkpoint.monitor=val/acc_top1" in done.stdout
    assert "model." not in done.stdout
    everything = typed(ROOT, "train.py", "--settings").stdout
    assert "model.learning_rate=0.0005" in everything
    assert "slurm.partition=null" in everything


def test_the_models_are_listed_with_their_weights_own_ones_first(tmp_path: Path) -> None:
    done = typed(ROOT, "submit.py", "--list-models", "RESNET50")
    first, second, *_ = [line.split() for line in done.stdout.splitlines()]
    assert first[:3] == ["--model", "from", "parameters"]
    assert second == ["resnet50", "clf.models.resnet.ResNet50Model", "25.6", "M", "80.9", "%"]
    assert "timm/resnet50" in done.stdout
    listed = typed(ROOT, "train.py", "--list-models").stdout.splitlines()[1:]
    names = [line.split()[0] for line in listed]
    assert names[:3] == ["resnet18", "resnet50", "alexnet"]
    assert len(names) == len(set(names)) > 1000
    done = typed(ROOT, "submit.py", "--list-models", "reznet18")
    assert done.returncode == 2
    assert "no name matches; did you mean resnet18?" in " ".join(done.stderr.split())
    done = typed(ROOT, "submit.py", "--list-models", "vit", "swin")
    assert (done.returncode, done.stdout) == (2, "")
    assert "swin: not a setting" in " ".join(done.stderr.split())


def test_models_of_ones_own_are_listed_first(tmp_path: Path) -> None:
    (tmp_path / "mine_to_list.py").write_text(
        "from clf.config import register\n\n\n@register(name='vit_of_mine')\n"
        "def vit_of_mine(num_classes): ...\n\n\n@register(name='vit_b_32')\n"
        "def another(num_classes): ...\n"
    )

    def listed(package: str) -> subprocess.CompletedProcess[str]:
        script = str(ROOT / "launch" / "submit.py")
        command = [
            sys.executable,
            script,
            "--list-models",
            "vit_*",
            f"trusted_packages=[{package}]",
        ]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    rows = [line.split() for line in listed("mine_to_list").stdout.splitlines()[1:]]
    assert rows[0] == ["vit_b_32", "mine_to_list.another"]  # without torchvision's numbers
    assert rows[1] == ["vit_of_mine", "mine_to_list.vit_of_mine"]
    assert rows[2][:2] == ["vit_b_16", "torchvision"]
    done = listed("nowhere_to_list")
    assert done.returncode == 2
    assert "importing nowhere_to_list failed" in " ".join(done.stderr.split())


def test_the_suggested_debug_command_is_one_that_train_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from launch.arguments.parser import parse
    from launch.arguments.run import train_parser
    from launch.command import debug_command

    monkeypatch.setattr("sys.argv", ["launch/submit.py"])
    words = ["--gpus", "2", "--model", "resnet50", "--time=4:00:00", "--partition", "a", "--follow"]
    command = debug_command([*words, "name=x", "slurm.mem_gb=4", "epochs=3"])
    assert command == ("python launch/train.py --model resnet50 slurm.mem_gb=4 epochs=3 --debug")
    assert parse(train_parser(), command.split()[2:]).settings == ["slurm.mem_gb=4", "epochs=3"]


def test_each_rule_is_applied_once_and_to_the_devices_that_the_run_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from clf.config import rules
    from launch.runs import requests

    seen: list[object] = []
    limit_faults, batches = rules.limit_faults, rules.DEVICE_RULES[-1]
    monkeypatch.setattr(requests, "devices_per_node", lambda cfg: 2)
    monkeypatch.setattr(
        rules, "limit_faults", lambda cfg: seen.append("limits") or limit_faults(cfg)
    )
    watched = [*rules.DEVICE_RULES[:-1], lambda cfg: seen.append(cfg.gpus) or batches(cfg)]
    monkeypatch.setattr(rules, "DEVICE_RULES", watched)
    request = requests.to_submit([*SMALL], fetch=False)
    assert seen == ["limits", 2]
    assert request.cfg.gpus == 2
    with pytest.raises(ValueError, match=r"data\.batch_size=63: not divisible by 2 ranks"):
        requests.to_submit(["data.batch_size=63", *SMALL], fetch=False)
    assert seen == ["limits", 2, "limits", 2]


def test_a_data_folder_that_does_not_exist_is_reported_at_once(tmp_path: Path) -> None:
    done = typed(ROOT, "submit.py", "--data", "imagefolder", f"data.root={tmp_path}/nowhere")
    assert done.returncode == 2
    assert "data.root" in done.stderr
    assert f"{tmp_path}/nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_one_process_takes_one_device_and_says_so() -> None:
    for words in (["gpus=2"], ["--gpus", "2"]):
        done = typed(ROOT, "train.py", *words)
        assert done.returncode == 2
        assert "gpus=2: this command runs in one process on one device" in done.stderr
        assert "launch/submit.py" in done.stderr
    done = typed(ROOT, "train.py", "--nodes", "2")
    assert "nodes=2: this command runs in one process on one device" in done.stderr


def test_a_dry_run_of_train_shows_the_config_and_leaves_nothing(checkout: Path) -> None:
    done = typed(
        checkout, "train.py", "--gpus", "1", "--dry-run", "--name", "dry", "epochs=2", "epochs=3"
    )
    assert done.returncode == 0, done.stderr
    assert "note: epochs is given twice: epochs=3 counts, epochs=2 does not\n" in done.stderr
    assert "epochs: 3\n" in done.stdout
    assert "gpus: 1\n" in done.stdout
    assert done.stdout.endswith("# nothing was trained\n")
    assert not (checkout.parent / "runs").exists()


def test_submit_runs_follows_and_ends_with_the_table_and_what_to_type_next(checkout: Path) -> None:
    done = typed(checkout, "submit.py", "--name", "first", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "epoch   1   val top-1 75.0 %   loss 0.5   train loss 0.625" in done.stdout
    assert done.stdout.index("cat") < done.stdout.index("dog")
    assert "n/a" in done.stdout
    assert "test  top-1 50.0 %   top-5 100.0 %   loss 0.25" in done.stdout
    assert f"python {checkout}/launch/evaluate.py runs/first" in done.stdout
    run = checkout.parent / "runs" / "first"
    assert (run / "config.yaml").is_file()
    assert (run / "code" / "launch" / "submit.py").is_file()
    assert run.stat().st_mode & 0o077 == 0

    again = typed(checkout, "submit.py", "--name", "first", *SMALL)
    assert again.returncode == 0
    assert "first is complete already; choose another --name" in again.stdout

    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "epoch": 10}))
    other = typed(
        checkout, "submit.py", "--name", "first", "epochs=5", "data.batch_size=32", *SMALL
    )
    assert other.returncode == 2
    assert "- epochs=5: the run first was begun with epochs=" in other.stderr
    assert "- data.batch_size=32: the run first was begun with data.batch_size=" in other.stderr


def test_a_failed_job_shows_the_first_error_and_goes_on_when_typed_again(checkout: Path) -> None:
    words = ("submit.py", "--name", "unlucky", "--gpus", "2", "seed=13", *SMALL)
    done = typed(checkout, *words)
    assert done.returncode == 1
    assert "The job failed on rank 1: RuntimeError: no more luck" in done.stdout
    assert "log: runs/unlucky/logs/" in done.stdout
    assert "launch/submit.py --name unlucky --gpus 2 seed=13" in done.stdout
    assert "launch/train.py seed=13" in done.stdout

    source = checkout / "clf" / "run.py"
    source.write_text(source.read_text().replace("cfg.seed == 13", "False"))
    (checkout.parent / "runs" / "unlucky" / "status.json").unlink()
    corrected = typed(checkout, *words)
    assert corrected.returncode == 0, corrected.stdout + corrected.stderr
    assert "(goes on where it stopped)" in corrected.stdout


def test_a_fault_in_the_data_is_shown_without_a_traceback(checkout: Path) -> None:
    done = typed(checkout, "submit.py", "seed=14", *SMALL)
    assert done.returncode == 1
    assert "data.root: this folder is not the one" in done.stdout
    assert "Traceback" not in done.stdout
    done = typed(checkout, "train.py", "seed=14", *SMALL)
    assert done.returncode == 2
    assert done.stderr == "data.root: this folder is not the one\n"


def test_a_job_that_was_killed_is_not_called_done(checkout: Path) -> None:
    done = typed(checkout, "submit.py", "seed=15", *SMALL)
    assert done.returncode == 1
    assert "The job failed: rank 0 was ended by SIGKILL, without a word" in done.stdout
    assert "log: runs/" in done.stdout


@contextlib.contextmanager
def followed(checkout: Path, sigint: signal.Handlers) -> Iterator[subprocess.Popen]:
    """`submit.py --name slow` of a run that waits for ever, once it has begun. The command and its
    job are a process group of their own, as in a terminal.

    Args:
        sigint: how the process that started it has set its SIGINT; it blocks SIGTERM
    """
    source = checkout / "clf" / "run.py"
    source.write_text(source.read_text().replace('run_dir / "wait"', "run_dir"))

    def as_started() -> None:
        signal.signal(signal.SIGINT, sigint)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    process = subprocess.Popen(
        [sys.executable, str(checkout / "launch" / "submit.py"), "--name", "slow", *SMALL],
        cwd=checkout.parent,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=as_started,
    )
    try:
        deadline = time.time() + 60
        while not (checkout.parent / "runs" / "slow" / "seen0.json").exists():
            assert time.time() < deadline, "the run has not begun"
            time.sleep(0.1)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_stops_the_job_leaves_no_process_and_says_how_to_go_on(checkout: Path) -> None:
    with followed(checkout, signal.SIG_DFL) as following:
        os.killpg(following.pid, signal.SIGINT)
        output, _ = following.communicate(timeout=30)
        assert following.returncode == 130
        assert "Stopping: " in output
        assert "\nStopped: SIG" in output
        assert "left before training began; what was saved before is kept" in output
        assert "launch/submit.py --name slow" in output
        with pytest.raises(ProcessLookupError):
            os.killpg(following.pid, 0)
        status = typed(checkout, "jobs.py", "status", "slow").stdout
        assert "stopped (by SIGINT)" in status
        assert "what is wrong" not in status


def test_train_runs_in_this_process(checkout: Path) -> None:
    done = typed(checkout, "train.py", "--smoke", "--debug", "--name", "here", "data.prefetch=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this process, " in done.stdout
    assert "test  top-1 50.0 %" in done.stdout
    config = (checkout.parent / "runs" / "here" / "config.yaml").read_text()
    for line in ("limit_batches: 1", "epochs: 1", "debug: true", "threads: 0", "prefetch: 2"):
        assert f"{line}\n" in config


def test_a_folder_that_is_not_a_run_is_not_written_into(checkout: Path) -> None:
    folder = checkout.parent / "runs" / "mine"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(folder / "holiday.png")
    done = typed(checkout, "submit.py", "--name", "mine", *SMALL)
    assert done.returncode == 2
    assert "exists and is no run folder" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["holiday.png"]


def test_a_run_that_is_running_is_not_started_a_second_time(checkout: Path) -> None:
    assert typed(checkout, "submit.py", "--name", "busy", *SMALL).returncode == 0
    status = checkout.parent / "runs" / "busy" / "status.json"
    status.write_text('{"state": "running", "epoch": 0, "epochs": 10}')
    done = typed(checkout, "submit.py", "--name", "busy", *SMALL)
    assert done.returncode == 2
    assert "name=busy: this run is running now" in done.stderr


def test_evaluating_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    done = typed(ROOT, "evaluate.py", str(tmp_path / "no_run"), "epochs=3", "data.threads=many")
    assert done.returncode == 2
    assert "- epochs=3: only the data may differ" in done.stderr
    assert "- data.threads=many: expected a whole number" in done.stderr


def test_a_time_limit_that_is_none_is_refused_with_the_forms_it_can_take() -> None:
    done = typed(ROOT, "submit.py", "--time", "soon")
    assert "slurm.time=soon: expected minutes, or a time as SLURM writes it" in done.stderr


def test_more_cpu_processes_than_cores_are_a_note_and_the_run_is_not_refused() -> None:
    words = ("--gpus", "64", "--dry-run", "strategy.accelerator=cpu", "data.batch_size=64")
    done = typed(ROOT, "submit.py", *words)
    assert done.returncode == 0, done.stderr
    assert "note: gpus=64: without GPUs each is a CPU process, and this machine has" in done.stderr
    assert "nothing was submitted" in done.stdout


def test_a_sweep_without_slurm_runs_one_after_the_other_and_ends_with_its_table(
    checkout: Path,
) -> None:
    words = ("--sweep", "seed=1,14", "--sweep", "model.learning_rate=1e-4", "--name", "sw")
    done = typed(checkout, "submit.py", *words, *SMALL)
    assert done.returncode == 1
    assert "run 2 of 2: seed-14_learning_rate-1e-4" in done.stdout
    assert "The job failed: data.root: this folder is not the one" in done.stdout
    table = done.stdout[done.stdout.index("model.learning_rate") :]
    assert [line.split()[2] for line in table.splitlines()[1:3]] == ["finished", "failed"]
    listed = typed(checkout, "jobs.py", "list", "--sweep", "sw")
    assert listed.stdout.splitlines()[1].split()[:3] == ["1", "1e-4", "finished"]
    again = typed(checkout, "submit.py", *words, *SMALL)
    assert "run 1 of 1: seed-14_learning_rate-1e-4" in again.stdout


def test_a_local_run_is_listed_and_cancelled_from_another_terminal(checkout: Path) -> None:
    with followed(checkout, signal.SIG_IGN) as following:  # as a script's `&` has it
        assert "slow  starting" in typed(checkout, "jobs.py", "list").stdout
        done = typed(checkout, "jobs.py", "cancel", "slow")
        assert "was asked to stop" in done.stdout
        output, _ = following.communicate(timeout=60)
        assert following.returncode == 1, output
        assert "cancelled" in typed(checkout, "jobs.py", "status", "slow").stdout


STAND_IN_WANDB = """
import pathlib, sys
log = pathlib.Path("uploads.txt")
with log.open("a") as file:
    print(*sys.argv[1:], file=file)
for word in sys.argv[4:]:
    if "refused" in word: sys.exit(1)
    for recording in pathlib.Path(word).glob("*.wandb"):
        recording.with_name(recording.name + ".synced").touch()
"""


def test_offline_recordings_are_uploaded_once_and_those_still_written_as_a_copy(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = checkout.parent / "stand_in" / "wandb"
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    (stand_in / "__main__.py").write_text(STAND_IN_WANDB)
    monkeypatch.setenv("PYTHONPATH", str(stand_in.parent))
    uploads = checkout.parent / "uploads.txt"
    for name, state in (("done", "finished"), ("writes", "running")):
        recording = checkout.parent / "runs" / name / "wandb" / "wandb" / f"offline-run-1-{name}"
        recording.mkdir(parents=True)
        (recording / f"run-{name}.wandb").write_text("all of it")
        run = checkout.parent / "runs" / name
        (run / "config.yaml").touch()
        status = {"state": state, "epoch": 1, "epochs": 9, "updated": time.time()}
        (run / "status.json").write_text(json.dumps(status))
    done = typed(checkout, "jobs.py", "sync")
    assert "2 runs uploaded" in done.stdout, done.stdout + done.stderr
    lines = uploads.read_text().splitlines()
    assert all(line.startswith("sync --yes --include-synced /") for line in lines)
    own = [str(checkout.parent / "runs") in line for line in lines]
    assert sorted(own) == [False, True]  # the running one's copy lies elsewhere
    assert not list((checkout.parent / "runs" / "writes").rglob("*.synced"))
    assert typed(checkout, "jobs.py", "sync", "done").stdout == "nothing to upload\n"
    recording = checkout.parent / "runs/done/wandb/wandb/offline-run-1-done"
    recording.rename(recording.with_name("offline-run-1-refused"))
    (recording.with_name("offline-run-1-refused") / "run-done.wandb.synced").unlink()
    failed = typed(checkout, "jobs.py", "sync", "done")
    assert failed.returncode == 1
    assert "1 of 1 runs were not uploaded" in failed.stdout


def test_why_a_run_stopped_early_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of an epoch say it, and a progress bar does not."""
    from launch.terminal.screen import console
    from launch.terminal.summary import print_result

    (tmp_path / "status.json").write_text('{"stopped_early": "stopped early after epoch 3"}')
    print_result(console(), tmp_path, {})
    assert "The training stopped early after epoch 3" in capsys.readouterr().out
    print_result(console(), tmp_path, {}, has_said_why=True)
    assert "stopped early" not in capsys.readouterr().out
