"""slurm.options: any other option of sbatch reaches SLURM exactly as it was written."""

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from clf.config import RunConfig
from clf.config.job_rules import OWN_OPTIONS
from clf.plan import compose, resolve
from slurm.script import _asked, script
from tests.slurm.testbed import Testbed
from tests.slurm.user import SMALL, User


def config(options: str, *settings: str) -> RunConfig:
    return resolve(compose(["name=x", f"slurm.options={options}", *settings]))


def lines(cfg: RunConfig) -> list[str]:
    text = script(cfg, [Path(cfg.runs_dir, "x")])
    return [line for line in text.splitlines() if line.startswith("#SBATCH")]


def test_each_option_is_a_line_of_the_script_and_null_is_none() -> None:
    asked = lines(
        config("{comment: 'try 3; rm x', nice: 100, exclusive: true, wckey: null}", "gpus=1")
    )
    assert '#SBATCH --comment="try 3; rm x"' in asked
    assert "#SBATCH --nice=100" in asked
    assert "#SBATCH --exclusive" in asked
    assert not any("wckey" in line for line in asked)


def test_gres_decides_about_the_gpus() -> None:
    asked = lines(config("{gres: 'gpu:a100:2'}", "gpus=2"))
    assert "#SBATCH --gres=gpu:a100:2" in asked
    assert not any("gpus-per-node" in line for line in asked)
    # Another resource leaves the GPUs to be asked for.
    asked = lines(config("{gres: 'scratch:100G'}", "gpus=2"))
    assert {"#SBATCH --gres=scratch:100G", "#SBATCH --gpus-per-node=2"} <= set(asked)
    with pytest.raises(ValueError, match=r"gpus=4: .*asks for 2 on each node; set gpus=2"):
        config("{gres: 'gpu:a100:2'}", "gpus=4")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            "{nodes: 2}",
            "slurm.options.nodes=2: every job has this option from elsewhere; set nodes",
        ),
        ("{time: 2}", "set slurm.time"),
        ("{mem: 4G}", "set slurm.mem_gb"),
        ("{array: 0-3}", "use --sweep and slurm.parallel"),
        ("{signal: USR1}", "set slurm.signal_s"),
        ("{output: x.log}", "set runs_dir"),
        ("{gpus-per-node: 2}", "set gpus, or slurm.options.gres"),
        ("{requeue: true}", "set slurm.max_requeues"),
        ("{part: a}", "slurm.options.part=a: every job has this option (partition) from elsewhere"),
        ("{N: 2}", "N cannot be an option of sbatch; write its long name"),
        ("{--nice: 2}", "--nice cannot be an option of sbatch"),
        ("{a_b: 2}", "a_b cannot be an option of sbatch"),
        ("{comment: [1, 2]}", "slurm.options.comment=[1,2]: expected a text or a number"),
        ("{exclusive: false}", "or null to leave it out"),
        ('{comment: "a\nb"}', "line break"),
        ("3", "slurm.options=3: expected names and values"),
    ],
)
def test_an_option_that_is_ours_or_none_is_refused_with_the_setting_to_use(
    options: str, fault: str
) -> None:
    with pytest.raises(ValueError, match="fault") as caught:
        config(options)
    assert fault in str(caught.value)


def test_every_option_that_the_script_sets_is_known_as_ours() -> None:
    settings = [
        *("gpus=1", "slurm.time=9", "slurm.mem_gb=1", "slurm.cpus_per_gpu=1", "slurm.partition=p"),
        *("slurm.account=a", "slurm.qos=q", "slurm.constraint=c", "slurm.exclude=e"),
        *("slurm.nodelist=n", "slurm.reservation=r", "slurm.dependency=singleton"),
        *("slurm.mail_user=u@h", "slurm.mail_type=END", "name=x"),
    ]
    cfg = resolve(compose(settings))
    names = {name for name, _ in _asked(cfg, [Path("/r/x")], Path("/r"))}
    assert len(names) > 18
    assert names <= set(OWN_OPTIONS)


def test_no_name_and_no_value_runs_as_shell(tmp_path: Path) -> None:
    cfg = config("{comment: x}", "gpus=1", *SMALL)
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    for text in ("$(: >MARK)", "`: >MARK`", "a; : >MARK", '"; : >MARK #', "'; : >MARK #"):
        for options in ({"comment": text}, {text: "x"}):
            cfg.slurm.options = options  # as if no check had looked at it
            command = ["/bin/bash", "-c", script(cfg, [tmp_path / "x"])]
            environment = {"PATH": str(tmp_path), "SLURM_JOB_ID": "1"}
            subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
            assert not (tmp_path / "MARK").exists(), shlex.join(options)
    for options in ({"comment": "a\n: >MARK"}, {"a\n: >MARK": "x"}):
        cfg.slurm.options = options
        with pytest.raises(ValueError, match="line break"):
            script(cfg, [tmp_path / "x"])


def test_a_real_slurm_takes_the_options_and_refuses_wrong_ones_before_a_job_is_queued(
    testbed: Testbed, checkout: Path
) -> None:
    user = User(testbed, checkout)
    nasty = "try 3 $(echo >MARK) \"two\" 'one' %j"
    (checkout / "configs" / "slurm" / "mine.yaml").write_text(
        f"options:\n  comment: {json.dumps(nasty)}\n  nice: 100\n  gres: gpu:2\n"
    )
    user.types("submit.py", "--name", "o", "--slurm", "mine", "tracking.mode=disabled")
    shown = testbed.command("scontrol", "-o", "show", "job", user.job_id("o"))
    assert f"Comment={nasty}" in shown
    assert "Nice=100" in shown
    assert "gres:gpu:2" in shown
    user.waits_until_finished("o")
    assert user.seen("o")["WORLD_SIZE"] == "2", "a task for each GPU of gres"
    assert not list(user.home.rglob("MARK"))
    for wrong, fault in {
        "{gres: 'gpu:h100:1'}": "slurm: SLURM refuses the job: ",
        "{gres: 'flux:1'}": "slurm.options.gres: SLURM refuses the job: ",
        "{flavour: x}": "slurm.options.flavour: SLURM refuses the job: ",
    }.items():
        for dry in (["--dry-run"], []):
            words = ("submit.py", "--name", "w", f"slurm.options={wrong}", *dry)
            assert fault in user.types(*words, "tracking.mode=disabled", code=2)
    assert not user.run("w").exists()
    assert testbed.command("squeue", "-h") == ""
