"""Early stopping reports that it stopped the run and why; such a run does not train on later."""

import csv
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from clf import run
from clf.config.schema import EarlyStoppingConfig
from clf.run_folder import read_status
from clf.tracking.early_stopping import StopEarly, why_stopped
from launch.terminal.summary import print_result
from tests import tiny


def config(root: Path, **settings: Any):
    """A model that cannot become better: after the first epoch it stays as it is."""
    still = {"learning_rate": 0.0, "warmup_epochs": 0}
    cfg = tiny.config(str(root), limit_batches=2, model=still, **{"epochs": 9} | settings)
    cfg.early_stopping = EarlyStoppingConfig(patience=2, min_delta=0.9)
    return cfg


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, str]:
    """The folder of a run that stopped early, and its log."""
    place = tmp_path_factory.mktemp("stops")
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", log)
        run.fit(config(place / "digits"), place / "run", progress=False)
    return place / "run", log.getvalue()


def validated(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["val/acc_top1"]]


def test_the_log_the_status_and_the_end_of_the_command_say_why(stopped) -> None:
    folder, log = stopped
    reason = (read_status(folder) or {})["stopped_early"]
    best = float(validated(folder)[0]["val/acc_top1"])
    assert reason == (
        f"stopped early after epoch 3 of 9: val/acc_top1 has not become better than "
        f"{100 * best:.1f} % for 2 epochs (early_stopping.patience=2, "
        "early_stopping.min_delta=0.9)"
    )
    lines = log.splitlines()
    assert lines[-1] == reason
    assert [text for text in lines if text.startswith("epoch")][-1].startswith("epoch   3/9 ")
    shown = io.StringIO()
    print_result(Console(file=shown, width=200), folder, {"test/acc_top1": 0.5})
    assert f"The training {reason}" in shown.getvalue()


def test_every_epoch_has_a_line_with_its_train_loss(stopped) -> None:
    folder, log = stopped
    losses = [float(row["train/loss"]) for row in validated(folder)]
    found = re.findall(r"^epoch +(\d)/9   step \d+   val top-1 .*   train loss (\S+)   ", log, re.M)
    assert found == [(str(n), f"{loss:.4g}") for n, loss in enumerate(losses, 1)]
    assert [row["epoch"] for row in validated(folder)] == ["1", "2", "3"]


def test_a_stopped_run_that_starts_again_goes_on_with_its_evaluation(stopped, tmp_path) -> None:
    folder, _ = stopped
    before = read_status(folder) or {}
    run.fit(config(folder.parent / "digits"), folder, progress=False)
    after = read_status(folder) or {}
    assert after["step"] == before["step"]
    assert after["stopped_early"] == before["stopped_early"] is not None
    assert after["state"] == "finished"


def test_more_patience_lets_a_stopped_run_go_on() -> None:
    stop = StopEarly("val/acc_top1", 0.0, patience=2)
    state = stop.state_dict() | {"wait_count": 2, "stopping_reason": 3, "patience": 2}
    for patience, expected in ((2, True), (3, False)):
        again, trainer = (
            StopEarly("val/acc_top1", 0.0, patience),
            SimpleNamespace(should_stop=False),
        )
        again.load_state_dict(state)
        again.on_train_start(trainer, None)  # type: ignore[arg-type]
        assert (trainer.should_stop, again.patience) == (expected, patience)


def test_a_run_that_did_not_stop_early_does_not_say_so() -> None:
    trainer = SimpleNamespace(callbacks=[StopEarly("val/loss", 0.0, 1)], max_epochs=3)
    assert trainer.callbacks[0].mode == "min"
    assert why_stopped(trainer) is None
    assert why_stopped(SimpleNamespace(callbacks=[], max_epochs=3)) is None
