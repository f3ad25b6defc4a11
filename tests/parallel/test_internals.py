"""If the installed Lightning or DeepSpeed lacks a part that we use, the run ends at its start with
the name of that part. It must not continue with a replacement that is never called."""

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.utilities import seed
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.progress import _ReadyCompletedTracker
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.connectors.logger_connector import _LoggerConnector
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from clf.config import StrategyConfig
from clf.parallel import deepspeed_internals, lightning_internals
from clf.parallel.lightning_internals import check_lightning
from clf.parallel.zero import ZeroStrategy
from tests import tiny

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"
PARTS = [
    (_TrainingEpochLoop, "_broadcast_sigterm_tensor"),
    (_TrainingEpochLoop, "_should_accumulate"),
    (_TrainingEpochLoop, "_num_ready_batches_reached"),
    (_FitLoop, "_load_combined_loader_states"),
    (_SignalConnector, "register_signal_handlers"),
    (_LoggerConnector, "update_train_step_metrics"),
    (DeepSpeedStrategy, "_init_deepspeed_distributed"),
    (DeepSpeedStrategy, "_setup_model_and_optimizer"),
    (DeepSpeedStrategy, "_initialize_deepspeed_inference"),
    (seed, "reset_seed"),
    (dist.distributed_c10d, "_get_default_store"),
    (dist.Reducer, "_rebuild_buckets"),
]


def trainer() -> Trainer:
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(accelerator="cpu", **dict.fromkeys(quiet, False))


def test_the_installed_lightning_has_every_part() -> None:
    check_lightning(trainer())


@pytest.mark.parametrize(("owner", "name"), PARTS, ids=[name for _, name in PARTS])
def test_a_lightning_without_a_part_is_refused_by_that_parts_name(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = trainer()
    monkeypatch.delattr(owner, name)
    with pytest.raises(RuntimeError) as error:
        check_lightning(ours)
    for words in (name, lightning.__version__, lightning_internals.SUPPORTED):
        assert words in str(error.value)


def test_another_state_of_the_loops_in_a_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = trainer()
    ours.fit_loop.epoch_loop.batch_progress.current = _ReadyCompletedTracker()
    with pytest.raises(RuntimeError, match="epoch_loop.batch_progress'\\]\\['current'\\] with"):
        check_lightning(ours)


def test_a_run_ends_before_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    with pytest.raises(RuntimeError, match=r"lacks .*_broadcast_sigterm_tensor.* pip install"):
        tiny.fit(tiny.config(str(tmp_path / "digits")), str(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


@pytest.mark.parametrize(
    ("module", "owner", "name"),
    [
        ("deepspeed.comm.torch", None, "build_shm_op"),
        ("deepspeed.utils.tensor_fragment", "tensor_fragment", "get_hp_fragment_address"),
    ],
)
def test_a_deepspeed_without_a_part_is_refused_by_that_parts_name(
    module: str, owner: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    ZeroStrategy(StrategyConfig(name="deepspeed_zero2"), "cpu", "32-true")
    holder = import_module(module)
    monkeypatch.delattr(getattr(holder, owner) if owner else holder, name)
    with pytest.raises(RuntimeError) as error:
        ZeroStrategy(StrategyConfig(name="deepspeed_zero2"), "cpu", "32-true")
    for words in (name, deepspeed_internals.SUPPORTED, "strategy=ddp"):
        assert words in str(error.value)


def test_a_deepspeed_that_has_every_part_but_divides_twice_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for place, number in (("major", 0), ("minor", 18), ("patch", 3)):
        monkeypatch.setattr(f"deepspeed.__version_{place}__", number)
    with pytest.raises(RuntimeError, match=r"lacks the backward\(\) .*scale_wrt_gas.*strategy=ddp"):
        deepspeed_internals.check_deepspeed()


@pytest.mark.parametrize("stage_3", [False, True])
def test_an_optimizer_of_deepspeeds_without_a_part_is_refused(stage_3: bool) -> None:
    with pytest.raises(RuntimeError, match=r"lacks object\.reduce_ready\w+, .*object\.\w*fp32_\w+"):
        deepspeed_internals.check_optimizer(object(), stage_3)


def test_the_versions_that_messages_name_are_those_of_pyproject() -> None:
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    requirements = project["dependencies"]
    assert f"lightning{lightning_internals.SUPPORTED}" in requirements
    assert f"deepspeed{deepspeed_internals.SUPPORTED}" in requirements
