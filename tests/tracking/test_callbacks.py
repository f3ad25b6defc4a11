"""What a run leaves behind, by training a tiny module for real.

C classes, N nodes.
"""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, LearningRateMonitor, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from clf.config import DataConfig, TrackingConfig
from clf.resilience.bad_loss import BadLoss
from clf.resilience.signals import Stopped
from clf.run_folder import RunFolder, read_departures, read_status
from clf.tracking import callbacks, steps
from clf.tracking.callbacks import PerClassTables, StatusFile
from clf.tracking.csv_logger import CsvLogger
from clf.tracking.epochs import EpochLines
from clf.tracking.steps import GradientNorm, Throughput
from clf.tracking.wandb_run import close, wandb_logger

BATCH, TRAIN_BATCHES, EVERY = 4, 10, 4
VAL_LABELS = [0, 0, 0, 2, 2, 3, 0, 2]  # class 1 has no images
TEST_LABELS = [3, 3, 3, 1, 0]
# What the model of the tests answers in epoch e of the training, whatever it sees.
ANSWER = [0, 2, 3]


class Data(LightningDataModule):
    classes = ["zero", "one", "two", "three"]

    def __init__(self, micro_batch: int = BATCH) -> None:
        super().__init__()
        self.micro_batch = micro_batch

    def loader(self, labels: list[int], size: int) -> DataLoader:
        return DataLoader(TensorDataset(torch.tensor(labels)), batch_size=size)

    def train_dataloader(self) -> DataLoader:
        return self.loader([0] * (BATCH * TRAIN_BATCHES), self.micro_batch)

    def val_dataloader(self) -> DataLoader:
        return self.loader(VAL_LABELS, 3)

    def test_dataloader(self) -> DataLoader:
        return self.loader(TEST_LABELS, 3)


class Tiny(LightningModule):
    """Counts its answers; `during` is called at the start of each step with the split's name."""

    def __init__(self, during=lambda module, split: None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.during = during
        self.counts_3C = torch.zeros(3, 4, dtype=torch.int64)
        self.done: dict[str, torch.Tensor] = {}

    def training_step(self, batch, batch_idx):
        self.during(self, "train")
        self.log("train/loss_step", float(self.global_step))
        return self.weight.sum()

    def evaluation_step(self, batch, split: str) -> None:
        self.during(self, split)
        answer = ANSWER[min(self.current_epoch, 2)]
        for label in batch[0].tolist():
            self.counts_3C[:2, label] += torch.tensor([1, int(label == answer)])
            self.counts_3C[2, answer] += 1

    def validation_step(self, batch, batch_idx):
        self.evaluation_step(batch, "val")

    def test_step(self, batch, batch_idx):
        self.evaluation_step(batch, "test")

    def on_train_epoch_end(self):
        self.log("train/loss", 0.25 + self.current_epoch)

    def end(self, split: str) -> None:
        self.done[split], self.counts_3C = self.counts_3C, torch.zeros_like(self.counts_3C)
        support_C, correct_C, _ = self.done[split]
        self.log(f"{split}/acc_top1", correct_C.sum() / support_C.sum())

    def on_validation_epoch_end(self):
        self.end("val")

    def on_test_epoch_end(self):
        self.end("test")

    def per_class_counts(self, split: str):
        support_C, correct_C, predicted_C = self.done[split]
        return support_C[None], correct_C[None], predicted_C

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)


def trainer(folder: RunFolder, loggers=None, epochs=2, class_scalars=False, **options) -> Trainer:
    last = ModelCheckpoint(folder.checkpoints, "last", enable_version_counter=False)
    bad_loss = BadLoss("stop", folder, [])
    return Trainer(
        max_epochs=epochs,
        logger=[CsvLogger(folder.metrics_csv)] if loggers is None else loggers,
        callbacks=[
            LambdaCallback(on_before_optimizer_step=bad_loss.on_before_optimizer_step),
            LearningRateMonitor(logging_interval="step"),
            Throughput(BATCH),
            GradientNorm(bad_loss.gradient_norm),
            PerClassTables(folder, class_scalars),
            StatusFile(folder),
            last,
        ],
        log_every_n_steps=EVERY,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]


def counted(labels: list[int], answer: int) -> list[list]:
    support_C = np.bincount(labels, minlength=4).tolist()
    correct_C = [n if c == answer else 0 for c, n in enumerate(support_C)]
    shares = [k / n if n else None for n, k in zip(support_C, correct_C, strict=True)]
    predicted_C = [len(labels) if c == answer else 0 for c in range(4)]
    sums = list(zip(support_C, correct_C, predicted_C, strict=True))
    precision_C = [k / p if p else None for _, k, p in sums]
    f1_C = [2 * k / (n + p) if n + p else None for n, k, p in sums]
    counts = (Data.classes, support_C, correct_C, shares, predicted_C)
    columns = (*counts, precision_C, shares, f1_C)
    return [list(row) for row in zip(*columns, strict=True)]


def as_text(table: list[list]) -> list[list[str]]:
    return [["" if cell is None else str(cell) for cell in row] for row in table]


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """Two epochs and the final test, with W&B offline."""
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / "whole")
    loggers = [
        CsvLogger(folder.metrics_csv),
        wandb_logger(TrackingConfig(mode="offline"), folder, {}, "whole"),
    ]
    made, model, data = trainer(folder, loggers), Tiny(), Data()
    made.fit(model, data)
    made.test(model, data, verbose=False)
    close(loggers)
    return folder


def test_each_table_is_what_was_counted_in_that_evaluation(run):
    def table(name: str) -> list[list[str]]:
        with (run.per_class / name).open(newline="") as file:
            return list(csv.reader(file))[1:]

    assert table("val_epoch001.csv") == as_text(counted(VAL_LABELS, ANSWER[0]))
    assert table("val_epoch002.csv") == as_text(counted(VAL_LABELS, ANSWER[1]))
    assert table("val.csv") == table("val_epoch002.csv")
    assert table("test.csv") == as_text(counted(TEST_LABELS, ANSWER[2]))
    assert len(list(run.per_class.iterdir())) == 4, "the sanity check counts for nothing"


def test_the_dashboard_has_the_same_tables(run):
    def tables(split: str) -> list[list[list]]:
        files = run.wandb.glob(f"offline-run-*/files/media/table/{split}/per_class*.json")
        return [json.loads(path.read_text())["data"] for path in files]

    first, second = (counted(VAL_LABELS, ANSWER[epoch]) for epoch in (0, 1))
    for row in first:
        row.insert(4, None)  # what changed since the epoch before, of which there is none
    for row, change in zip(second, [-1.0, None, 1.0, 0.0], strict=True):
        row.insert(4, change)
    assert sorted(tables("val"), key=str) == sorted([first, second], key=str)
    assert tables("test") == [counted(TEST_LABELS, ANSWER[2])]


def test_a_finished_run_says_so_with_its_last_numbers(run):
    status = read_status(run.path)
    expected = {"state": "finished", "run": "whole", "device": "CPU", "error": None}
    expected |= {"epoch": 2, "epochs": 2, "step": 20, "steps": 20, "eta_s": 0.0}
    assert {name: status[name] for name in expected} == expected
    assert status["metrics"] == pytest.approx(
        {"train/loss": 1.25, "val/acc_top1": 3 / 8, "test/acc_top1": 3 / 5}
    )
    assert status["speed"]["now"] > 0
    assert status["started"] <= status["updated"]
    assert status["wandb"] == str(next(run.wandb.glob("offline-run-*")))


def test_metrics_csv_has_a_row_a_step_with_speed_and_learning_rate(run):
    found = rows(run.metrics_csv)
    # Every fourth step, the last of each epoch, and the final test.
    assert [int(row["step"]) for row in found] == [3, 7, 9, 11, 15, 19, 20]
    for row in found[:-1]:
        assert float(row["train/images_per_second"]) > 0
    for row in found[:2] + found[3:5]:
        assert float(row["lr-SGD"]) == 0.5
    epoch = [float(found[2][name]) for name in ("epoch", "train/loss", "val/acc_top1")]
    assert epoch == pytest.approx([1, 0.25, 4 / 8])
    assert [row["epoch"] for row in found] == ["1"] * 3 + ["2"] * 4, "the test is not a third epoch"
    assert float(found[5]["val/acc_top1"]) == 3 / 8
    assert float(found[6]["test/acc_top1"]) == pytest.approx(3 / 5)


def test_a_resumed_run_says_everything_once_and_in_order(folder, run):
    def breaks(module, split):
        if module.global_step == 17:
            raise RuntimeError("node lost")

    made = trainer(folder)
    with pytest.raises(RuntimeError, match="node lost"):
        made.fit(Tiny(breaks), Data())
    assert [row["step"] for row in rows(folder.metrics_csv)][-2:] == ["11", "15"]
    for _ in range(2):  # the second time there is nothing left to train
        made, model = trainer(folder), Tiny()
        made.fit(model, Data(), ckpt_path=folder.checkpoints / "last.ckpt", weights_only=False)
        made.test(model, Data(), verbose=False)
        again, whole = rows(folder.metrics_csv), rows(run.metrics_csv)
        assert [(r["epoch"], r["step"]) for r in again] == [(r["epoch"], r["step"]) for r in whole]
        for name in ("train/loss_step", "train/loss", "val/acc_top1", "test/acc_top1"):
            assert [r.get(name) for r in again] == [r.get(name) for r in whole], name
        assert read_status(folder.path)["state"] == "finished"


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (ValueError("labels: 43 classes"), "failed", "ValueError: labels: 43 classes"),
        (KeyboardInterrupt(), "stopped", None),
        (Stopped("SIGTERM"), "stopped", None),
    ],
)
def test_a_failed_run_says_why_and_a_stopped_one_is_not_called_failed(folder, error, state, said):
    def breaks(module, split):
        if module.global_step == 5:
            raise error

    made = trainer(folder)
    with pytest.raises((ValueError, SystemExit, Stopped)):  # Lightning turns Ctrl-C into SystemExit
        made.fit(Tiny(breaks), Data())
    status = read_status(folder.path)
    assert (status["state"], status["step"], status["error"]) == (state, 5, said)


def test_a_failed_run_is_closed_in_wandb_too(folder):
    def breaks(module, split):
        raise RuntimeError("out of memory")

    logger = wandb_logger(TrackingConfig(mode="offline"), folder, {}, "one")
    made = trainer(folder, [logger])
    with pytest.raises(RuntimeError, match="out of memory"):
        made.fit(Tiny(breaks), Data())
    assert logger.closed


class Clock:
    """Stands in for the time module: a training step takes 0.25 s, one of an evaluation 100 s."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.time = self.monotonic = self.perf_counter = self.process_time = lambda: self.now

    def passes(self, module, split) -> None:
        self.now += 0.25 if split == "train" else 100.0


def test_images_per_second_is_of_the_global_batch_and_of_training_alone(folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    monkeypatch.setattr(steps, "time", clock)
    made = trainer(folder, accumulate_grad_batches=2, val_check_interval=10)
    made.fit(Tiny(clock.passes), Data(micro_batch=BATCH // 2))
    name = "train/images_per_second"
    found = {int(r["step"]): float(r[name]) for r in rows(folder.metrics_csv) if name in r}
    assert sorted(found) == [3, 7, 9, 11, 15, 19]
    assert [*found.values()] == pytest.approx([BATCH / 0.5] * len(found))
    assert read_status(folder.path)["speed"]["now"] == pytest.approx(BATCH / 0.5)


class LateData(Data):
    """Its training loader keeps the loop waiting for 0.75 s a batch, and says so."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def train_dataloader(self) -> DataLoader:
        late, clock = super().train_dataloader(), self.clock

        class Late(DataLoader):
            waited_s = 0.0

            def __iter__(self):
                for batch in super().__iter__():
                    clock.now += 0.75
                    self.waited_s += 0.75
                    yield batch

        return Late(late.dataset, batch_size=late.batch_size)


def test_the_waiting_share_is_the_loaders_part_of_the_time_of_training(folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    trainer(folder, epochs=2).fit(Tiny(clock.passes), LateData(clock))
    name = "train/waiting_share"
    found = {int(r["step"]): float(r[name]) for r in rows(folder.metrics_csv) if name in r}
    assert sorted(found) == [3, 7, 9, 11, 15, 19]
    assert [*found.values()] == pytest.approx([0.75] * 6)
    speed = read_status(folder.path)["speed"]
    expected = {"now": BATCH, "average": BATCH, "waiting_share": 0.75}
    assert {key: speed[key] for key in expected} == pytest.approx(expected)
    assert (speed["memory_of"], speed["advice"]) == ("process", None)
    assert 0.1 < speed["memory_gib"] < 100
    last = rows(folder.metrics_csv)[-1]
    assert float(last["train/images_per_second_average"]) == pytest.approx(BATCH)
    assert float(last["train/process_memory_gib"]) == pytest.approx(speed["memory_gib"])


def test_the_average_is_of_all_windows_and_now_of_the_last(folder, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)

    def slower(module, split) -> None:
        clock.now += 100.0 if split != "train" else 1.0 if module.current_epoch else 0.25

    trainer(folder, epochs=2).fit(Tiny(slower), Data())
    speed = read_status(folder.path)["speed"]
    assert speed["now"] == pytest.approx(BATCH)
    assert speed["average"] == pytest.approx(20 * BATCH / (10 * 0.25 + 10 * 1.0))


def test_a_run_that_waits_for_its_data_says_once_what_to_set(folder, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr(steps, "time", clock)
    made = trainer(folder, epochs=3)
    throughput = next(one for one in made.callbacks if isinstance(one, Throughput))
    throughput.data, throughput.cores = DataConfig(name="digits", threads=2), 8
    made.callbacks.append(EpochLines())
    made.fit(Tiny(clock.passes), LateData(clock))
    advice = "training waits for its data 75 % of the time (rank 0): set data.threads=null; "
    advice += "it is 2, and the rank has 8 cores"
    assert read_status(folder.path)["speed"]["advice"] == advice
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count(f"note: {advice}") == 1
    lines = [line for line in (shown.out + shown.err).splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert f"{BATCH} images/s ({BATCH} on average)   waited for data 75 %   process" in lines[0]


def test_a_loader_that_does_not_count_its_seconds_has_no_waiting_share(run):
    assert not any("train/waiting_share" in row for row in rows(run.metrics_csv))


class Sloped(Tiny):
    """The gradient of micro-batch n is n times (3, 4) on two weights, and nothing on a third."""

    def __init__(self) -> None:
        super().__init__()
        self.slopes = torch.nn.Parameter(torch.zeros(2))
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.batches = 0

    def training_step(self, batch, batch_idx):
        self.batches += 1
        return self.batches * (self.slopes * torch.tensor([3.0, 4.0])).sum()


def test_the_gradient_norm_is_that_of_the_whole_step_before_clipping(folder):
    made = trainer(folder, epochs=1, accumulate_grad_batches=2, gradient_clip_val=0.5)
    made.fit(Sloped(), Data(micro_batch=BATCH // 2))
    name = "train/grad_norm"
    found = {int(r["step"]): float(r[name]) for r in rows(folder.metrics_csv) if name in r}
    # Step s, from 0, has micro-batches 2s + 1 and 2s + 2.
    assert found == pytest.approx({s: 5 * (2 * s + 1.5) for s in (3, 7, 9)})


def test_the_status_is_written_at_most_once_a_second_of_training(folder, monkeypatch):
    clock, times = Clock(), []
    monkeypatch.setattr(callbacks, "time", clock)
    write = RunFolder.write_json

    def noted(path, content):
        if content["state"] == "running" and 0 < content["step"] < 10:
            times.append(clock.now)
        write(path, content)

    monkeypatch.setattr(RunFolder, "write_json", staticmethod(noted))
    trainer(folder, epochs=1, num_sanity_val_steps=0).fit(Tiny(clock.passes), Data())
    assert len(times) == 2  # ten steps take 2.5 s
    assert np.diff(times) == pytest.approx([1.0])


def test_accuracy_by_class_is_a_scalar_only_when_asked_for(folder, run):
    assert not any("acc_class" in name for row in rows(run.metrics_csv) for name in row)
    trainer(folder, epochs=1, class_scalars=True).fit(Tiny(), Data())
    found = rows(folder.metrics_csv)[-1]
    scalars = {name: float(value) for name, value in found.items() if "acc_class" in name}
    of_class = "val/acc_class/"
    assert scalars == {f"{of_class}zero": 1.0, f"{of_class}two": 0.0, f"{of_class}three": 0.0}
    assert (found["step"], "val/acc_top1" in found) == ("9", True), "in the epoch's own row"


@pytest.mark.parametrize(
    ("hosts", "expected"), [(["b", "a"], ["b", "a"]), (["lab", "lab"], ["lab-0", "lab-1"])]
)
def test_two_nodes_are_told_apart_in_the_table(folder, monkeypatch, hosts, expected):
    def gather(found, own):
        found[:] = [(1, hosts[1]), (0, hosts[0]), (1, hosts[1]), (0, hosts[0])]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    tables = PerClassTables(folder)
    made = SimpleNamespace(num_nodes=2, node_rank=0, world_size=4)
    tables.setup(made, None, "fit")
    assert tables.nodes == expected


def test_a_node_that_departs_is_warned_of_and_recorded(folder) -> None:
    class OnTwoNodes(Tiny):
        def per_class_counts(self, split: str):
            support_NC = torch.full((2, 4), 300)
            return support_NC, torch.tensor([[290] * 4, [100] * 4]), support_NC.sum(0)

    run = trainer(folder, epochs=1)
    next(one for one in run.callbacks if isinstance(one, PerClassTables)).nodes = ["a", "b"]
    with pytest.warns(UserWarning, match="node b has 33.3 % of its 1200 images right"):
        run.fit(OnTwoNodes(), datamodule=Data())
    recorded = [(one["node"], one["split"], one["epoch"]) for one in read_departures(folder.path)]
    assert recorded == [("b", "val", 1)]


def test_a_log_file_has_a_line_for_each_epoch_and_none_for_the_sanity_check(folder, capsys) -> None:
    class WithLoss(Tiny):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            self.log("val/loss", 0.125)

    run = trainer(folder, num_sanity_val_steps=1)
    run.callbacks.append(EpochLines())
    run.fit(WithLoss(), datamodule=Data())
    run.validate(WithLoss(), datamodule=Data(), verbose=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert all(" images/s (" in line and line.endswith(" GiB") for line in lines)
    lines = [line[: line.index("   ", line.index("train loss"))] for line in lines]
    # Right of the 8 images: four of class 0, then three of class 2.
    assert lines == [
        "epoch   1/2   step 10   val top-1 50.0 %   loss 0.125   train loss 0.25",
        "epoch   2/2   step 20   val top-1 37.5 %   loss 0.125   train loss 1.25",
    ]
