"""From Enter to a run's first training step: ours beside a plain script that does the same.

Both read the same pictures, train a ResNet-18 from random weights and look at a batch of the
validation first, as Lightning does. Both end their process when the first step is done.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from launch.benchmarks.comparison import ROOT, BenchmarkError
from launch.benchmarks.meter import Meter

REACHED = 64  # the exit code of a process whose first training step is done
END = f"""
import os

from lightning import Callback


class End(Callback):
    def on_train_batch_end(self, *args):
        os._exit({REACHED})
"""
PLAIN = """
import lightning
import torch
from end import End
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import (
    Compose, Normalize, RandomHorizontalFlip, RandomResizedCrop, ToTensor
)


class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = resnet18(num_classes=10)

    def training_step(self, batch, index):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def validation_step(self, batch, index):
        self.log("val/loss", self.training_step(batch, index))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


transform = Compose(
    [RandomResizedCrop(32), RandomHorizontalFlip(), ToTensor(), Normalize([0.5] * 3, [0.25] * 3)]
)
train, val = (ImageFolder(f"images/{split}", transform) for split in ("train", "val"))
trainer = lightning.Trainer(
    max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
    enable_model_summary=False, num_sanity_val_steps=1, callbacks=[End()],
)
trainer.fit(Model(), DataLoader(train, 64, shuffle=True), DataLoader(val, 64))
"""
OURS = (
    str(ROOT / "launch" / "train.py"),
    "--smoke",
    *("--model", "resnet18", "--data", "imagefolder"),
    *("data.root=images", "data.image_size=32", "data.batch_size=64", "strategy.accelerator=cpu"),
    *("tracking.mode=disabled", "trusted_packages=[end]", "callbacks=[{_target_: end.End}]"),
)


def train(meter: Meter) -> None:
    _first_step(meter, OURS)


def plain_script(meter: Meter) -> None:
    _first_step(meter, ["plain.py"])


def _first_step(meter: Meter, words: Sequence[str]) -> None:
    from clf.data.digits import write_digits

    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder, "images"), split_seed=0)
        Path(folder, "end.py").write_text(END)
        Path(folder, "plain.py").write_text(PLAIN)
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        meter.start()
        done = subprocess.run(
            [sys.executable, *words], cwd=folder, env=hidden, capture_output=True, text=True
        )
        meter.stop(1)
    if done.returncode != REACHED:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise BenchmarkError(f"{words[0]}: no training step was reached: {last}")
