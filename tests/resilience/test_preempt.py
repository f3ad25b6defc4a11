"""A run is asked to leave on any rank at any moment: no rank hangs, a whole checkpoint is left,
and the resumed run ends as if it had not been interrupted.

Two real ranks over gloo, started once; they are signalled and started again in one process each.
"""

import csv
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from clf.resilience.agreement import POLL_S

WORLD = 2
EPOCHS, STEPS = 2, 4  # steps an epoch
SETTINGS = [
    "strategy.accelerator=cpu",
    f"gpus={WORLD}",
    f"epochs={EPOCHS}",
    "data.batch_size=256",
    "data.eval_batch_size=32",
    "data.threads=1",
    "tracking.mode=disabled",
    "tracking.log_every=1",
]
# moment of the run -> (rank, or None for all, that is signalled; stage; epoch; batch)
MOMENTS = {
    "first batch": (1, "train", 0, 0),
    "middle of an epoch": (0, "train", 1, 1),
    "all ranks at once": (None, "train", 0, 2),
    "last batch of an epoch": (1, "train", 0, STEPS - 1),
    "validation": (0, "val", 0, 1),
    "last batch of a validation": (1, "val", 0, 2),
    "during a save": (0, "save", 0, 0),
    "sanity check": (1, "sanity", 0, 0),
    # A rank alone may find that the others are done: then the run has ended, which is well too.
    "final evaluation": (None, "test", 0, 1),
}


class Signaller:
    """Signals this process when the run is at a moment, once."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.moments: list[tuple[int | None, str, int, int]] = []

    def at(self, stage: str, epoch: int, batch: int) -> None:
        for moment in list(self.moments):
            rank, *where = moment
            if where == [stage, epoch, batch]:
                self.moments.remove(moment)
                if rank in (None, self.rank):
                    os.kill(os.getpid(), signal.SIGUSR2)
                    time.sleep(3 * POLL_S)  # the run is not over before the others have heard of it


def one_rank(rank: int, folder: str, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    import clf.run
    from clf.models.base import BaseClassificationModel
    from clf.plan import compose
    from clf.resilience import saving

    signaller = Signaller(rank)

    class Tiny(BaseClassificationModel):
        def build_network(self) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(),
                nn.Linear(8 * 4 * 4, self.num_classes),
            )  # fmt: skip

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            signaller.at("train", self.current_epoch, batch_idx)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            stage = "sanity" if self.trainer.sanity_checking else "val"
            signaller.at(stage, self.current_epoch, batch_idx)
            return super().validation_step(batch, batch_idx)

        def test_step(self, batch: Any, batch_idx: int) -> Any:
            signaller.at("test", 0, batch_idx)
            return super().test_step(batch, batch_idx)

    save = saving.write_file

    def save_and_be_signalled(path: Path, write: Any) -> None:
        signaller.at("save", 0, 0)
        save(path, write)

    saving.write_file = save_and_be_signalled
    os.fsync = lambda descriptor: None  # no power is cut here
    clf.run.build_model = lambda cfg, classes, pretrained: Tiny(classes, learning_rate=0.01)
    where = Path(folder)
    cfg = compose([*SETTINGS, f"data.root={folder}/digits", "data.image_size=16"])
    run(cfg, where / "whole", signaller, [])
    for name, moment in MOMENTS.items():
        run(cfg, where / name, signaller, [moment])
    run(cfg, where / "again and again", signaller, list(MOMENTS.values()))
    cfg.data.micro_batch_size = 32
    run(cfg, where / "accumulating whole", signaller, [])
    run(cfg, where / "accumulating", signaller, [(1, "train", 0, 5), (0, "train", 1, 6)])


def run(cfg: Any, run_dir: Path, signaller: Signaller, moments: list[Any]) -> None:
    """Start the run until it is finished, as a job in a queue would be."""
    from clf.resilience.signals import Preempted, StopRequest
    from clf.run import fit

    torch.manual_seed(0)
    signaller.moments = list(moments)
    starts = []
    while not starts or starts[-1] is not None:
        request = StopRequest()
        request.listen()
        try:
            fit(cfg, run_dir, progress=False, request=request)
            starts.append(None)
        except Preempted as left:
            starts.append([left.epoch, left.step])
        assert len(starts) <= len(moments) + 1, starts
    (run_dir / f"starts{signaller.rank}.json").write_text(json.dumps(starts))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preempt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(one_rank, args=(str(folder), port), nprocs=WORLD)
    return folder


def starts(run_dir: Path) -> list[Any]:
    """[epoch, step] at which each start of the run left; None for the one that finished."""
    found = [json.loads((run_dir / f"starts{rank}.json").read_text()) for rank in range(WORLD)]
    assert found[0] == found[1], "ranks left at different steps"
    return found[0]


def last(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "checkpoints" / "last.ckpt"
    return torch.load(path, map_location="cpu", weights_only=True)


def rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_as_if_nobody_had_left(run_dir: Path, whole: Path) -> None:
    ours, expected = last(run_dir), last(whole)
    assert ours["global_step"] == expected["global_step"] == EPOCHS * STEPS
    for name, value in expected["state_dict"].items():
        mine = ours["state_dict"][name]
        if "running_" in name:  # means over ranks, taken once more
            torch.testing.assert_close(mine, value, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(mine, value), name
    for table in ("val_epoch001.csv", "val_epoch002.csv", "test.csv"):
        mine, other = (path / "per_class" / table for path in (run_dir, whole))
        assert mine.read_text() == other.read_text(), table
    assert [row["step"] for row in rows(run_dir)] == [row["step"] for row in rows(whole)]
    for name in ("train/loss_step", "train/loss", "train/acc_top1", "val/loss", "test/loss"):
        mine, other = ([row.get(name) for row in rows(path)] for path in (run_dir, whole))
        assert [bool(value) for value in mine] == [bool(value) for value in other], name
        numbers = [[float(value) for value in values if value] for values in (mine, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5), name


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_that_left_goes_on_from_that_very_step(runs: Path, moment: str) -> None:
    left, finished = starts(runs / moment)
    assert finished is None
    _, stage, epoch, batch = MOMENTS[moment]
    if stage == "train" and batch < STEPS - 1:
        assert left[0] == epoch
        # One step more at most: that in which the other rank learned of it.
        assert epoch * STEPS + batch < left[1] <= epoch * STEPS + batch + 2
    assert_as_if_nobody_had_left(runs / moment, runs / "whole")


def test_a_run_that_is_asked_to_leave_at_every_start_ends_all_the_same(runs: Path) -> None:
    assert len(starts(runs / "again and again")) > 4
    assert_as_if_nobody_had_left(runs / "again and again", runs / "whole")


def test_no_gradient_is_lost_between_two_accumulation_steps(runs: Path) -> None:
    assert len(starts(runs / "accumulating")) == 3
    assert_as_if_nobody_had_left(runs / "accumulating", runs / "accumulating whole")
