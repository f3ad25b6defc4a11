"""Which settings may change when a run goes on: each rule with its message, and the commands that
apply them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from clf.config import ConfigError, registry
from clf.config.saved import load, save
from clf.plan import compose, resolve
from launch.runs.changes import changes
from launch.runs.requests import to_resume
from tests.launch.test_commands import SMALL, typed


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of ten epochs, of which four are done."""
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    cfg = resolve(compose([f"runs_dir={path.parent}", "name=first", "gpus=1", *SMALL]))
    save(cfg, path / "config.yaml")
    (path / "status.json").write_text(json.dumps({"state": "preempted", "epoch": 4}))
    mapping = {str(digit): digit for digit in range(10)}
    (path / "labels_mapping.json").write_text(json.dumps(mapping))
    return path


def found(run_dir: Path, *settings: str, allow: bool = False):
    saved = load(run_dir / "config.yaml")
    return changes(run_dir, saved, to_resume(run_dir, settings), allow)


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("epochs=20", "epochs=10 becomes 20: the learning rate follows the schedule"),
        ("epochs=4", "epochs=10 becomes 4: "),
        ("data.micro_batch_size=16", "data.micro_batch_size=null becomes 16: a step computes"),
        ("nodes=2", "nodes=1 becomes 2: the images of a step are spread"),
        ("gpus=2", "gpus=1 becomes 2: the images of a step are spread"),
        ("strategy.name=ddp", "strategy.name=auto becomes ddp: the work is spread"),
        ("strategy=ddp", "strategy.name=auto becomes ddp: the work is spread"),
        ("strategy.precision=bf16-mixed", "the steps from here on compute in this precision"),
        ("data.threads=2", "data.threads=null becomes 2: only the speed"),
        ("data.prefetch=2", "data.prefetch=4 becomes 2: only the speed"),
        ("tracking.project=other", "only what is recorded changes"),
        ("slurm.time=30", "slurm.time=null becomes 30: only what the next job asks"),
        ("slurm.env={WORD:a}", "slurm.env.WORD=null becomes a: only what the next job asks"),
        ("checkpoint.monitor=val/acc_macro", "the best checkpoint is judged in another way"),
        ("early_stopping.patience=3", "training may stop at another epoch"),
        ("debug=true", "only how the run can be looked at changes"),
    ],
)
def test_what_may_change_is_accepted_with_a_line_that_says_what_it_does(
    run_dir: Path, setting: str, line: str
) -> None:
    outcome = found(run_dir, setting)
    assert outcome.faults == []
    assert any(line in text for text in outcome.lines), outcome.lines
    assert outcome.more_epochs == (setting == "epochs=20")


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("seed=1", "the order of the images and their augmentation would be those of another run"),
        ("data.batch_size=32", "a step would see another number of images"),
        ("model.learning_rate=0.001", "the training would go on with other mathematics"),
        ("data.augment.hue=0.1", "the images would be changed in another way"),
        ("limit_batches=3", "the run would no longer be the one"),
    ],
)
def test_what_changes_the_mathematics_is_refused_until_it_is_allowed(
    run_dir: Path, setting: str, reason: str
) -> None:
    (fault,) = found(run_dir, setting).faults
    assert fault.startswith(f"{setting}: the run first was begun with {setting.split('=')[0]}=")
    assert fault.endswith("`jobs.py resume first` keeps all settings of the run")
    assert reason in fault
    assert "--allow-change" in fault
    assert f"model.weights={run_dir}/checkpoints/best.ckpt --name NEW" in fault
    allowed = found(run_dir, setting, allow=True)
    assert allowed.faults == []
    assert "(--allow-change)" in allowed.lines[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["model=resnet50"], "the weights of the run belong to its own network"),
        (["epochs=3"], "4 epochs are done already"),
        (["model.pretrained=true"], "goes on from its own checkpoint"),
        (["data=imagefolder", "data.root={other}"], "its classes are others than the run's"),
    ],
)
def test_what_the_checkpoint_cannot_follow_is_never_accepted(
    run_dir: Path, tmp_path: Path, settings: list[str], reason: str
) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "other" / split / name
            folder.mkdir(parents=True)
            for number in range(32):  # a step has 64 images
                Image.new("RGB", (40, 40)).save(folder / f"{number}.png")
    settings = [text.format(other=tmp_path / "other") for text in settings]
    outcome = found(run_dir, *settings, allow=True)
    assert any(reason in fault for fault in outcome.faults), outcome
    assert all("--allow-change" not in fault for fault in outcome.faults)
    assert all("--name NEW" in fault for fault in outcome.faults)


def test_settings_that_are_wrong_in_themselves_are_refused_when_a_run_goes_on(
    run_dir: Path,
) -> None:
    with pytest.raises(ConfigError) as caught:
        to_resume(run_dir, ["epochs=many", "data.prefech=3"])
    assert "epochs=many: expected a whole number" in str(caught.value)
    assert "did you mean data.prefetch?" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.batch_size=64: not divisible by 3 ranks"):
        to_resume(run_dir, ["gpus=3"])


def test_a_finished_run_goes_on_when_it_gets_more_epochs(checkout: Path) -> None:
    assert typed(checkout, "submit.py", "--name", "first", *SMALL).returncode == 0
    run = checkout.parent / "runs" / "first"
    (run / "seen0.json").unlink()
    (run / "code" / "mark").touch()
    refused = typed(checkout, "jobs.py", "resume", "first", "epochs=20", "seed=7")
    assert refused.returncode == 2
    assert "seed=7: the run first was begun with seed=0" in refused.stderr
    assert not (run / "seen0.json").exists()

    done = typed(checkout, "jobs.py", "resume", "first", "epochs=20", "data.threads=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "change: epochs=10 becomes 20: " in done.stdout
    assert "change: data.threads=null becomes 1: " in done.stdout
    assert (run / "seen0.json").exists()  # the job ran
    assert (run / "code" / "mark").exists()  # with the run's own code
    cfg = load(run / "config.yaml")
    assert (cfg.epochs, cfg.data.threads, cfg.seed) == (20, 1, 0)

    again = typed(checkout, "jobs.py", "resume", "first")
    assert "first is complete already" in again.stdout
    allowed = typed(checkout, "jobs.py", "resume", "first", "--allow-change", "epochs=30", "seed=7")
    assert "change: seed=0 becomes 7 (--allow-change)" in allowed.stdout
    assert load(run / "config.yaml").seed == 7

    same = typed(checkout, "submit.py", "--name", "first", "epochs=40", *SMALL)
    assert "seed=0: the run first was begun with seed=7" in same.stderr
    submitted = typed(checkout, "submit.py", "--name", "first", "epochs=40", "seed=7", *SMALL)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "change: epochs=30 becomes 40: " in submitted.stdout


def test_a_run_goes_on_where_its_folder_was_moved_to(checkout: Path) -> None:
    assert typed(checkout, "submit.py", "--name", "first", *SMALL).returncode == 0
    (checkout.parent / "runs").rename(checkout.parent / "elsewhere")
    words = ("jobs.py", "--runs-dir", "elsewhere", "resume", "first", "epochs=11")
    done = typed(checkout, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert load(checkout.parent / "elsewhere" / "first" / "config.yaml").epochs == 11


def test_the_runs_of_a_sweep_go_on_with_more_epochs(checkout: Path) -> None:
    sweep = ("submit.py", "--sweep", "seed=1,2", "--name", "sw", *SMALL)
    assert typed(checkout, *sweep).returncode == 0
    nothing = typed(checkout, "jobs.py", "resume", "--sweep", "sw")
    assert "Nothing to start" in nothing.stdout
    done = typed(checkout, "jobs.py", "resume", "--sweep", "sw", "epochs=12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "change: epochs=10 becomes 12: " in done.stdout
    assert "run 2 of 2: seed-2" in done.stdout
    for run in ("seed-1", "seed-2"):
        assert load(checkout.parent / "runs" / "sw" / run / "config.yaml").epochs == 12


def test_what_a_network_was_built_with_can_never_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wide_net.py").write_text(
        "from clf.config import register\n\n\n"
        '@register(name="wide_net")\n'
        "class WideNet:\n"
        "    def __init__(self, width: int = 16, **settings): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entries", {})
    words = ["trusted_packages=[wide_net]", "model=wide_net", "name=wide", *SMALL]
    saved, now = compose(words), compose([*words, "model.width=3", "model.optimizer=sgd"])
    outcome = changes(tmp_path, saved, now, allow=True)
    width, optimizer = (
        next(fault for fault in outcome.faults if fault.startswith(key))
        for key in ("model.width", "model.optimizer")
    )
    assert "its network was built with that" in width
    assert "the state of its own optimizer" in optimizer
