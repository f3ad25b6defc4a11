"""What an evaluation must refuse to report, and what must not leak into it."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer

from clf.data.datamodule import ClassificationDataModule
from clf.models.recompute import recompute_in_backward
from clf.models.resnet import ResNet18Model
from clf.parallel.batchnorm import AgreeOnBatchNorm
from clf.resilience.seeding import SeedEachMicroBatch
from tests import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("evaluation") / "digits")


def trainer(**settings: Any) -> Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return Trainer(**({"accelerator": "cpu", "max_epochs": 2} | quiet | settings))


def parts(root: str) -> tuple[tiny.TinyModel, ClassificationDataModule]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cfg = tiny.config(root)
    datamodule = ClassificationDataModule(cfg.data, 0)
    datamodule.prepare_data()
    datamodule.prepare_data = lambda: None  # the labels that a test changes stay so
    return tiny.TinyModel(10), datamodule


def test_an_invalid_label_is_reported_with_its_file(root):
    model, data = parts(root)
    data.splits.val.labels[[5, 17]] = 10  # and never a crash of the loss, or of the GPU
    with pytest.raises(ValueError, match=r"2 labels are outside 0\.\.9") as error:
        trainer().validate(model, datamodule=data, verbose=False)
    assert str(error.value).endswith(f"the first is that of {data.splits.val.paths[5]}")


def test_an_invalid_training_label_is_reported_at_the_epochs_end(root):
    model, data = parts(root)
    index = data.train_dataloader().sampler.global_order()[7]
    data.splits.train.labels[index] = -3
    with pytest.raises(ValueError, match="1 labels are outside") as error:
        trainer(limit_train_batches=4, limit_val_batches=0).fit(model, datamodule=data)
    assert data.splits.train.paths[index] in str(error.value)


def test_an_evaluation_that_lost_an_image_is_an_error(root, monkeypatch):
    model, data = parts(root)
    loader = data.val_dataloader()
    loader.sampler.indices = loader.sampler.indices[:-1]
    monkeypatch.setattr(data, "val_dataloader", lambda: loader)
    images = len(data.splits.val)
    message = f"counted {images - 1} images, and there are {images}"
    with pytest.raises(RuntimeError, match=message):
        trainer().validate(model, datamodule=data, verbose=False)


def test_an_evaluation_that_was_cut_short_on_purpose_is_none(root):
    model, data = parts(root)
    trainer(limit_val_batches=2).validate(model, datamodule=data, verbose=False)
    assert int(model.per_class_counts("val")[0].sum()) == 16


def test_diverged_weights_are_an_error_and_not_class_zero(root):
    model, data = parts(root)
    torch.nn.init.constant_(model.network[-1].bias, torch.nan)
    with pytest.raises(ValueError, match="training has diverged"):
        trainer().validate(model, datamodule=data, verbose=False)


def test_the_sanity_check_before_training_adds_nothing_to_the_epoch(root):
    with_check, data = parts(root)
    seeds = [SeedEachMicroBatch(0)]  # without it the check's own draws would move the epoch's
    settings = {"limit_train_batches": 2, "max_epochs": 1, "callbacks": seeds}
    model, _ = parts(root)
    model.hparams["warmup_epochs"] = with_check.hparams["warmup_epochs"] = 0
    checked = trainer(num_sanity_val_steps=2, **settings)
    checked.fit(with_check, datamodule=data)
    plain = trainer(num_sanity_val_steps=0, **settings)
    plain.fit(model, datamodule=data)
    assert checked.callback_metrics["val/loss"] == plain.callback_metrics["val/loss"]
    for one, other in zip(
        with_check.per_class_counts("val"), model.per_class_counts("val"), strict=True
    ):
        assert torch.equal(one, other)
    assert int(with_check.per_class_counts("val")[0].sum()) == len(data.splits.val)


@pytest.mark.parametrize("build", [tiny.TinyModel, ResNet18Model])
def test_gradient_checkpointing_changes_neither_gradients_nor_batchnorms_statistics(build):
    torch.manual_seed(0)
    plain = build(10)
    recomputing = build(10)
    recomputing.load_state_dict(plain.state_dict())
    recompute_in_backward(recomputing.recomputed_blocks())
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    for model in (plain, recomputing):
        torch.manual_seed(1)  # of the dropout
        for _ in range(2):
            model(images).logsumexp(1).sum().backward()
    assert plain.state_dict().keys() == recomputing.state_dict().keys()
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(recomputing.state_dict()[name], value, msg=name)
    for one, other in zip(plain.parameters(), recomputing.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_step_moves_batchnorm_once_however_often_it_accumulates(root, monkeypatch, compiled):
    """By NumPy: running = 0.9 running + 0.1 x the mean of the step's micro-batches' own.

    A compiled network sees one momentum: for each other one it would be compiled again.
    """
    model, data = parts(root)
    seen: list[np.ndarray] = []
    momenta: set[Any] = set()
    norm = model.network[0][1]
    if compiled:
        monkeypatch.setattr(torch, "compile", lambda function, **how: function)
        model.compile_network("default")
        norm.register_forward_pre_hook(lambda module, _: momenta.add(module.momentum))
    norm.register_forward_pre_hook(
        lambda module, inputs: (
            seen.append(inputs[0].detach().numpy().copy()) if module.training else None
        )
    )
    trainer(
        accumulate_grad_batches=4,
        limit_train_batches=8,
        limit_val_batches=0,
        max_epochs=2,
        callbacks=[AgreeOnBatchNorm()],
    ).fit(model, datamodule=data)
    mean, var = np.zeros(8), np.ones(8)
    for step in range(4):
        micro = seen[4 * step : 4 * step + 4]
        mean = 0.9 * mean + 0.1 * np.mean([x.mean((0, 2, 3)) for x in micro], axis=0)
        var = 0.9 * var + 0.1 * np.mean([x.var((0, 2, 3), ddof=1) for x in micro], axis=0)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), var, rtol=1e-4)
    assert norm.momentum == 0.1
    assert momenta == ({1.0} if compiled else set())
