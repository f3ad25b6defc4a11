"""The first epoch has the number 1 everywhere, and the terminal's lines are complete."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from clf.tracking.epochs import ProgressBar
from launch.terminal.follow import Follower

HEADER = "epoch,step,train/loss_step,val/loss,val/acc_top1,train/loss,test/loss\n"


class Plain(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_the_progress_bar_counts_the_epochs_from_1(monkeypatch) -> None:
    """It overrides a method of Lightning's bar, which would show 0/1 and 1/1."""
    shown: list[str] = []
    add, reset = ProgressBar._add_task, "rich.progress.Progress.reset"
    monkeypatch.setattr(
        ProgressBar,
        "_add_task",
        lambda self, total, text, visible=True: (
            shown.append(text.strip()),
            add(self, total, text, visible),
        )[1],
    )
    monkeypatch.setattr(reset, lambda self, task, **values: shown.append(values["description"]))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", callbacks=[ProgressBar()], **quiet)
    trainer.fit(Plain(), DataLoader(TensorDataset(torch.zeros(4, 1))))
    assert [text.strip() for text in shown] == ["Epoch 1/2", "Epoch 2/2"]


@pytest.fixture
def follower(tmp_path: Path) -> Follower:
    out = Console(file=io.StringIO(), width=200)
    return Follower(out, SimpleNamespace(job_id="1"), tmp_path)


def test_the_line_of_an_epoch_waits_for_its_train_loss(follower: Follower) -> None:
    path = follower.run_dir / "metrics.csv"
    path.write_text(HEADER + "1,9,0.9,0.5,0.75,,\n")  # the validation is done, the epoch is not
    follower._print_epochs()
    assert follower.out.file.getvalue() == ""
    # The train loss may stand in another row, as after a resume in mid-epoch.
    path.write_text(HEADER + "1,9,0.9,0.5,0.75,,\n1,9,,,,0.625,\n2,19,0.8,,,,\n")
    follower._print_epochs()
    follower._print_epochs()
    line = "epoch   1   val top-1 75.0 %   loss 0.5   train loss 0.625\n"
    assert follower.out.file.getvalue() == line


def test_what_a_job_that_died_has_validated_is_shown_at_its_end(follower: Follower) -> None:
    (follower.run_dir / "metrics.csv").write_text(HEADER + "1,9,0.9,0.5,0.75,,\n")
    follower._print_epochs(ended=True)
    assert follower.out.file.getvalue() == "epoch   1   val top-1 75.0 %   loss 0.5\n"


def test_the_final_evaluation_is_neither_an_epoch_nor_the_last_ones_numbers(follower) -> None:
    rows = "1,9,,0.5,0.75,0.625,\n1,10,,0.25,1.0,,\n"  # without test images: val, best weights
    (follower.run_dir / "metrics.csv").write_text(HEADER + rows)
    follower._print_epochs(ended=True)
    line = "epoch   1   val top-1 75.0 %   loss 0.5   train loss 0.625\n"
    assert follower.out.file.getvalue() == line


def test_a_run_that_is_followed_again_shows_its_new_epochs_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER + "1,9,,0.5,0.75,0.625,\n")
    again = Follower(Console(file=io.StringIO(), width=200), SimpleNamespace(job_id="1"), tmp_path)
    path.write_text(HEADER + "1,9,,0.5,0.75,0.625,\n2,19,,0.4,0.75,0.5,\n")
    again._print_epochs()
    assert again.out.file.getvalue().startswith("epoch   2   val top-1")
    assert again.out.file.getvalue().count("epoch") == 1
