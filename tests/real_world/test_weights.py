"""Weights of others: every form in which people have them is taken as what it is, or refused with a
sentence before anything is queued."""

import argparse
import json
import os
import pickle
import re
import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from clf import run
from clf.config import RunConfig
from clf.config.weight_entries import classes_of, entry_of, rows_of
from clf.config.weight_files import contents, is_shape
from clf.data.datamodule import ClassificationDataModule
from clf.data.index import load_splits
from clf.models import hugging_face
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.plan import compose, examine
from tests import tiny

State = dict[str, Tensor]


class Small(BaseClassificationModel):
    """Two convolutions with BatchNorm, and a head."""

    def build_network(self) -> nn.Module:
        return network(self.num_classes)


def network(classes: int) -> nn.Module:
    parts = {
        "stem": nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        "body": nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1)),
        "flat": nn.Flatten(),
        "head": nn.Linear(8, classes),
    }
    return nn.Sequential(OrderedDict(parts))


def weights(classes: int = 7) -> State:
    torch.manual_seed(1)
    return {key: torch.rand_like(one.float()) for key, one in network(classes).state_dict().items()}


def written(path: Path, content: Any, **how: Any) -> str:
    if path.name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
        from safetensors.torch import save_file

        save_file(content, path)
    else:
        torch.save(content, path, **how)
    return str(path)


def assert_taken(model: Small, state: State) -> None:
    """All but the head is the file's."""
    own = model.network.state_dict()
    for key in [key for key in own if not key.startswith("head.") and "num_batches" not in key]:
        assert torch.equal(own[key], state[key]), key


HELD = {
    "state_dict": lambda w: {"state_dict": w, "epoch": 3, "best_acc1": np.float64(71.2)},
    "model": lambda w: {"model": w, "args": argparse.Namespace(out=Path("/runs/a"), gpus={0, 1})},
    "model_state_dict": lambda w: {"model_state_dict": w, "optimizer_state_dict": optimizer()},
    "ema": lambda w: {"ema": {"module": w, "decay": 0.9}},
    "teacher": lambda w: {"student": {"conv.weight": torch.zeros(2)}, "teacher": w},
    "state.model": lambda w: {"state": {"model": w, "optimizers": optimizer()}},
    "only": lambda w: {"anything": w, "step": torch.tensor(3)},
    "averaged": lambda w: begin("module.", w) | {"n_averaged": torch.tensor(2)},
    "ddp": lambda w: begin("module.", w),
    "lightning": lambda w: {"state_dict": begin("model.", w) | {"loss.weight": torch.ones(3)}},
    "ours": lambda w: {"state_dict": begin("network.", w), "clf": {"class_to_idx": {"a": 0}}},
    "net": lambda w: begin("net.", w),
    "backbone": lambda w: begin("backbone.", w) | {"projector.0.weight": torch.ones(2, 2)},
    "encoder": lambda w: begin("module.encoder.", w),
    "compiled": lambda w: begin("module._orig_mod.", w),
    "compiled inside": lambda w: {
        key.replace(".", "._orig_mod.", 1): one for key, one in w.items()
    },
    "deepspeed": lambda w: {
        "module": w,
        "ds_version": "0.17",
        "ds_config": {"train_batch_size": 2},
    },
    "zero_to_fp32": lambda w: begin("_forward_module.network.", w),
    "moco": lambda w: {
        "state_dict": begin("module.encoder_q.", w) | begin("module.encoder_k.", weights_of(0.0))
    },
    "no counts": lambda w: {key: one for key, one in w.items() if "num_batches" not in key},
    "half precision": lambda w: {key: one.half() for key, one in w.items()},
}


def begin(start: str, state: State) -> State:
    return {f"{start}{key}": one for key, one in state.items()}


def weights_of(value: float) -> State:
    return {key: torch.full_like(one, value) for key, one in weights().items()}


def optimizer() -> dict[str, Any]:
    moment = {
        "exp_avg": torch.ones(2, 2),
        "exp_avg_sq": torch.ones(2, 2),
        "step": torch.tensor(1.0),
    }
    return {"state": {0: moment}, "param_groups": [{"lr": 0.1, "params": [0]}]}


@pytest.mark.parametrize("form", HELD)
@pytest.mark.parametrize("old_format", [False, True])
def test_the_weights_are_found_wherever_a_program_put_them(
    tmp_path: Path, form: str, old_format: bool
) -> None:
    state = weights()
    if form == "half precision":
        state = {key: one.half().float() for key, one in state.items()}
    file = written(
        tmp_path / "w.pth.tar", HELD[form](state), _use_new_zipfile_serialization=not old_format
    )
    entry_of(contents(Path(file)), is_shape)  # what a login node looks at agrees
    model = Small(num_classes=3, weights=file)
    assert_taken(model, state)
    (line,) = model.weights_report
    assert "took 12 of the network's 12 tensors" in line
    assert "new: the head head, for 3 classes (the file's is for 7)" in line


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.bin", "w.safetensors"])
def test_the_usual_endings_are_read(tmp_path: Path, name: str) -> None:
    assert_taken(Small(num_classes=3, weights=written(tmp_path / name, weights())), weights())


def test_a_network_inside_another_takes_the_plain_file_of_it(tmp_path: Path) -> None:
    class Wrapped(Small):
        def build_network(self) -> nn.Module:
            inner = network(self.num_classes)
            return nn.Sequential(OrderedDict(trunk=inner[:3], classifier=inner.head))

    file = written(tmp_path / "w.pth", begin("module.", weights()))
    model = Wrapped(num_classes=3, weights=file)
    assert torch.equal(model.network.trunk.stem[0].weight, weights()["stem.0.weight"])
    assert "whose names begin with module. there" in model.weights_report[0]
    assert "whose names begin with trunk. here alone" in model.weights_report[0]


def test_an_average_beside_the_weights_is_said_and_can_be_taken(tmp_path: Path) -> None:
    content = {"model": weights_of(0.5), "model_ema": weights_of(0.25)}
    file = written(tmp_path / "w.pth", content)
    model = Small(num_classes=3, weights=file)
    assert_taken(model, content["model"])
    assert (
        "holds tensors as model_ema too, which model.weights_entry=model_ema takes"
        in (model.weights_report[0])
    )
    assert_taken(
        Small(num_classes=3, weights=file, weights_entry="model_ema"), content["model_ema"]
    )
    with pytest.raises(ValueError, match=r"has no entry emma, but model, model_ema; say which"):
        Small(num_classes=3, weights=file, weights_entry="emma")


def test_what_is_left_out_and_what_stays_new_is_said(tmp_path: Path) -> None:
    state = weights()
    del state["stem.1.bias"]
    state["body.0.weight"] = torch.ones(8, 4, 1, 1)
    state["neck.weight"] = torch.ones(3)
    file = written(tmp_path / "w.pth", state)
    with pytest.raises(ValueError, match="1 tensors are missing.*model.strict_weights=false takes"):
        Small(num_classes=3, weights=file)  # the second convolution is most of the network
    model = Small(num_classes=3, weights=file, strict_weights=False)
    (line,) = model.weights_report
    assert "took 10 of the network's 12 tensors" in line
    assert "left out neck.weight" in line
    assert "new, since the file lacks them: stem.1.bias" in line
    assert "shapes differ: body.0.weight (8, 4, 3, 3) for (8, 4, 1, 1)" in line
    assert torch.equal(model.network.stem[0].weight, state["stem.0.weight"])


def test_weights_most_of_which_fit_are_taken_with_a_word(tmp_path: Path) -> None:
    state = weights() | {"neck.weight": torch.ones(100)}
    del state["stem.1.weight"]
    model = Small(num_classes=3, weights=written(tmp_path / "w.pth", state))
    assert (
        "left out neck.weight; new, since the file lacks them: stem.1.weight"
        in (model.weights_report[0])
    )


@pytest.mark.parametrize(("file", "network"), [("resnet18", "resnet34"), ("resnet34", "resnet18")])
def test_a_shallower_or_deeper_network_of_a_family_is_refused(
    tmp_path: Path, file: str, network: str
) -> None:
    """All tensors of a ResNet18 fit a ResNet34."""
    words = [f"model={network}", "strategy.channels_last=false"]
    torch.save(torchvision.models.get_model(file).state_dict(), tmp_path / "w.pth")
    cfg = compose([*words, f"model.weights={tmp_path}/w.pth"])
    with pytest.raises(ValueError, match="Less than three quarters of the network or of the file"):
        build_model(cfg, 3, pretrained=True)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    state = weights()
    state["body.1.bias"][2] = bad
    with pytest.raises(
        ValueError, match=r"holds NaN or infinite numbers in body.1.bias: the train"
    ):
        Small(num_classes=3, weights=written(tmp_path / "w.pth", state))
    state = weights()
    state["head.bias"][0] = bad  # which is not taken
    Small(num_classes=3, weights=written(tmp_path / "w.pth", state))


HUGGING_FACE = {  # as microsoft/resnet-18 and resnet-50 have them
    "conv1": "resnet.embedder.embedder.convolution",
    "bn1": "resnet.embedder.embedder.normalization",
    "layer1.0.conv1": "resnet.encoder.stages.0.layers.0.layer.0.convolution",
    "layer1.0.bn2": "resnet.encoder.stages.0.layers.0.layer.1.normalization",
    "layer2.0.downsample.0": "resnet.encoder.stages.1.layers.0.shortcut.convolution",
    "layer2.0.downsample.1": "resnet.encoder.stages.1.layers.0.shortcut.normalization",
    "layer4.1.conv2": "resnet.encoder.stages.3.layers.1.layer.1.convolution",
    "fc": "classifier.1",
}


def test_hugging_faces_names_of_a_resnet_are_read() -> None:
    usual = {f"{key}.weight": torch.tensor(i) for i, key in enumerate(HUGGING_FACE)}
    theirs = {f"{key}.weight": torch.tensor(i) for i, key in enumerate(HUGGING_FACE.values())}
    assert hugging_face.renamed(theirs) == usual


def test_another_network_with_hugging_faces_names_is_refused(tmp_path: Path) -> None:
    state = {
        "vit.embeddings.cls_token": torch.ones(1, 1, 4),
        "vit.encoder.layer.0.attention.attention.query.weight": torch.ones(4, 4),
        "vit.encoder.layer.0.attention.attention.key.weight": torch.ones(4, 4),
    }
    with pytest.raises(ValueError, match="names are those of Hugging Face's transformers"):
        Small(num_classes=3, weights=written(tmp_path / "w.bin", state))


def test_a_model_that_does_not_say_what_it_took_is_named(digits: str, tmp_path: Path) -> None:
    file = written(tmp_path / "w.pth", weights())
    cfg = tiny.config(digits, epochs=1, model={"weights": file, "warmup_epochs": 0})
    cfg = replace(cfg, limit_batches=1)
    cfg.model._target_ = f"{__name__}.Silent"
    tiny.fit(cfg, str(tmp_path / "run"))
    notes = (tmp_path / "run" / "notes.txt").read_text()
    assert f"model.weights={file}: {__name__}.Silent has a load_weights() of its own" in notes


class Silent(tiny.TinyModel):
    def load_weights(self) -> None:
        """Takes nothing."""


def test_a_folder_is_named_with_a_file_in_it(tmp_path: Path) -> None:
    file = written(tmp_path / "pytorch_model.bin", weights())
    (fault,) = examine([f"model.weights={tmp_path}"]).faults
    assert fault.endswith(
        f"is a folder; give the file of weights in it, such as model.weights={file}"
    )


# --- before anything is queued ---


class Settings:
    """A user's class, as scripts keep their options in a checkpoint."""


def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "ran"),))

    for content, name in (
        ({"model": weights(), "options": Settings()}, "Settings"),
        (network(3), "Sequential"),
        ({"model": weights(), "bad": Runs()}, "mkdir"),
    ):
        file = written(tmp_path / "w.pth", content)
        for old_format in (False, True):
            torch.save(content, file, _use_new_zipfile_serialization=not old_format)
            with pytest.raises(ValueError, match=rf"it holds \S*{name}\S*, and reading that would"):
                contents(Path(file))
        with pytest.raises(ValueError, match=r"model.weights=.*would run code of the file"):
            Small(num_classes=3, weights=file)
    assert not (tmp_path / "ran").exists()


def file_of(kind: str, path: Path) -> None:
    plain = path.with_name("plain")
    torch.save(weights(), plain)
    texts = {
        "empty": b"",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "page": b"\n<!DOCTYPE html><html><body>404</body></html>",
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(600),
        "cut": plain.read_bytes()[:-2000],
        "noise": b"no weights",
        "pickle": pickle.dumps({"a": 1}, protocol=2),
    }
    if kind in texts:
        path.write_bytes(texts[kind])
    elif kind == "script":
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    elif kind == "protocol":
        torch.save(weights(), path, pickle_protocol=4)
    elif kind == "numpy":
        with path.open("wb") as file:
            np.savez(file, a=np.ones(3))
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "several":
        torch.save({"left": weights(), "right": weights()}, path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "it is empty; copy or download it again"),
        ("lfs", "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that"),
        ("page", "it is a web page, not a file of weights"),
        ("hdf5", "it is an HDF5, gzip or NumPy file"),
        ("cut", "it is damaged or only a part of a file"),
        ("noise", "it is no file of weights, or a damaged one"),
        ("pickle", "it is a pickle that torch.save did not write"),
        ("script", "it is a network of TorchScript"),
        ("protocol", "it was pickled with protocol 4"),
        ("numpy", "it is a zip file that torch.save did not write"),
        ("list", "expected the state dict of a network or a checkpoint, got a list"),
        ("several", "tensors as left, right; say which .*model.weights_entry=left"),
    ],
)
def test_a_file_that_is_none_of_weights_is_a_fault_of_the_configuration(
    tmp_path: Path, kind: str, message: str
) -> None:
    file_of(kind, tmp_path / "w.pth")
    faults = examine([f"model.weights={tmp_path}/w.pth"]).faults
    assert len(faults) == 1
    assert re.search(rf"^model.weights={tmp_path}/w.pth: .*{message}", faults[0])


def test_half_a_safetensors_file_is_named(tmp_path: Path) -> None:
    path = Path(written(tmp_path / "w.safetensors", weights()))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"only a part of a file: \d+ of \d+ bytes"):
        contents(path)


def test_the_look_without_torch_knows_what_torch_takes() -> None:
    from torch._weights_only_unpickler import _get_allowed_globals

    from clf.config.weight_files import OF_TORCH

    unknown = {name for name in _get_allowed_globals() if not OF_TORCH.fullmatch(name)}
    assert not {name for name in unknown if "complex32" not in name}


# --- the head, and classes in another order ---

NAMES = ["cat", "dog", "emu"]  # in the order of the checkpoint


def checkpoint(path: Path, names: list[str] = NAMES) -> tuple[str, State]:
    """A checkpoint as a run writes it."""
    state = weights(len(names))
    record = {"class_to_idx": {name: label for label, name in enumerate(names)}}
    return written(path, {"state_dict": begin("network.", state), "clf": record}), state


def test_a_head_is_taken_by_the_names_of_its_classes(tmp_path: Path) -> None:
    file, state = checkpoint(tmp_path / "best.ckpt")
    model = Small(num_classes=2, weights=file, weights_head=True)
    model.take_head(["emu", "cat"])
    expected = torch.stack([state["head.weight"][2], state["head.weight"][0]])
    assert torch.equal(model.network.head.weight, expected)
    assert torch.equal(model.network.head.bias, state["head.bias"][[2, 0]])
    assert not any("new: the head" in line for line in model.weights_report)
    assert model.weights_report[1].endswith("took head for 2 classes, by their names")


def test_a_head_without_all_classes_or_their_names_is_refused(tmp_path: Path) -> None:
    file, _ = checkpoint(tmp_path / "best.ckpt")
    model = Small(num_classes=2, weights=file, weights_head=True)
    with pytest.raises(
        ValueError, match=r"no output for 1 of the data's 2 classes \(fox\); set mo"
    ):
        model.take_head(["fox", "cat"])
    other = written(tmp_path / "w.pth", weights(2))
    model = Small(num_classes=2, weights=other, weights_head=True)
    with pytest.raises(ValueError, match="does not say the names of its classes"):
        model.take_head(["cat", "dog"])
    assert classes_of(contents(Path(file))) == NAMES
    assert rows_of(["emu", "cat"], NAMES) == [2, 0]


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Images in folders whose names are 2, 3 and 10: as numbers in this order, as texts 10, 2, 3.
    A list beside them has their numbers."""
    root = tmp_path / "animals"
    lines: dict[str, list[str]] = {"train": [], "val": []}
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for label in (2, 3, 10):
            folder = root / split / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (8, 8, 3)) + [10 * label, 0, 60]
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
                line = {"image": f"{split}/{label}/{number}.png", "label": label}
                lines[split].append(json.dumps(line))
    for split, listed in lines.items():
        (root / f"{split}.jsonl").write_text("\n".join(listed))
    return root


def as_folders(cfg: RunConfig) -> RunConfig:
    return replace(cfg, data=replace(cfg.data, name="imagefolder"))


def test_an_evaluation_and_a_resume_on_data_in_another_order_count_by_name(
    animals: Path, tmp_path: Path
) -> None:
    data = {"name": "annotations", "batch_size": 8, "micro_batch_size": 8}
    cfg = tiny.config(str(animals), data=data, epochs=1, model={"warmup_epochs": 0})
    run_dir = tmp_path / "run"
    tiny.fit(cfg, str(run_dir))
    mapping = {"2": 0, "3": 1, "10": 2}
    assert json.loads((run_dir / "labels_mapping.json").read_text()) == mapping

    first = run.evaluate(run_dir, "val", progress=False)
    other = run.evaluate(run_dir, "val", data={"name": "imagefolder"}, progress=False)
    assert [row.name for row in other.per_class] == ["2", "3", "10"]
    assert [row.correct for row in other.per_class] == [row.correct for row in first.per_class]
    assert other.scalars["val/loss"] == pytest.approx(first.scalars["val/loss"])

    tiny.fit(replace(as_folders(cfg), epochs=2), str(run_dir))
    assert json.loads((run_dir / "labels_mapping.json").read_text()) == mapping
    record = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["clf"]
    assert record["class_to_idx"] == mapping

    for split in ("train", "val"):
        shutil.rmtree(animals / split / "3")
    less = run.evaluate(run_dir, "val", data={"name": "imagefolder"}, progress=False)
    assert [row.support for row in less.per_class] == [4, 0, 4]
    assert "1 of the checkpoint's 3 classes have no image here: 3" in less.notes
    for split in ("train", "val"):
        (animals / split / "2").rename(animals / split / "7")
    with pytest.raises(
        ValueError, match=r"trained on other classes .* differ in \['2', '3', '7'\]"
    ):
        run.evaluate(run_dir, "val", data={"name": "imagefolder"}, progress=False)
    with pytest.raises(ValueError, match=r"24 of the 36 images that the run began with are gone"):
        tiny.fit(replace(as_folders(cfg), epochs=3), str(run_dir))


def test_a_run_takes_the_head_of_a_checkpoint_and_says_so(animals: Path, tmp_path: Path) -> None:
    data = {"name": "imagefolder", "batch_size": 8, "micro_batch_size": 8}
    settings = {"warmup_epochs": 0, "learning_rate": 0.0}
    cfg = tiny.config(str(animals), data=data, epochs=1, model=settings)
    tiny.fit(cfg, str(tmp_path / "first"))
    best = tmp_path / "first" / "checkpoints" / "best.ckpt"
    settings |= {"weights": str(best), "weights_head": True}
    cfg = tiny.config(str(animals), data=data | {"name": "annotations"}, epochs=1, model=settings)
    tiny.fit(cfg, str(tmp_path / "second"))
    old, new = (
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for name in ("first", "second")
    )
    (key,) = [key for key in old if key.startswith("network.") and old[key].shape == (3, 16)]
    assert torch.equal(new[key], old[key][[1, 2, 0]])  # 10, 2, 3 became 2, 3, 10
    notes = (tmp_path / "second" / "notes.txt").read_text()
    assert f"model.weights={best}: took " in notes
    assert "for 3 classes, by their names" in notes


# --- classes and batches at their limits ---


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("limits") / "digits")


def test_weights_that_are_all_zero_in_most_steps_train_to_finite_numbers(
    digits: str, tmp_path: Path
) -> None:
    data = {"batch_size": 2, "micro_batch_size": 2, "eval_batch_size": 512}
    settings = {"class_weights": [0.0] * 9 + [1.0], "warmup_epochs": 0}
    cfg = tiny.config(digits, data=data, epochs=1, model=settings, limit_batches=12)
    seen = tiny.fit(cfg, str(tmp_path / "run"))
    assert all(np.isfinite(value) for value in seen["scalars"].values())
    record = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.isfinite(one).all() for one in record["state_dict"].values())
    assert len(seen["losses"]) == 12


def test_a_split_whose_images_all_weigh_nothing_is_refused(digits: str, tmp_path: Path) -> None:
    cfg = tiny.config(digits, data={"val_fraction": 0.01}, model={"class_weights": [0.0] * 10})
    with pytest.raises(ValueError, match=r"all images of the train split weigh 0, .* train/loss"):
        tiny.fit(cfg, str(tmp_path / "run"))


def test_batchnorm_on_one_number_a_channel_is_refused_before_the_first_step(
    digits: str, tmp_path: Path
) -> None:
    data = {"batch_size": 4, "micro_batch_size": 1, "image_size": 32}
    cfg = tiny.config(digits, resnet=True, data=data, epochs=1)  # 32 pixels end as one
    with pytest.raises(ValueError, match="the BatchNorm layer layer4.0.bn1 would normalise a sing"):
        tiny.fit(cfg, str(tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_batchnorm_on_one_image_is_a_note(digits: str, tmp_path: Path) -> None:
    data = {"batch_size": 1, "micro_batch_size": 1}
    cfg = tiny.config(digits, data=data, epochs=1, model={"warmup_epochs": 0}, limit_batches=2)
    seen = tiny.fit(cfg, str(tmp_path / "run"), stop_after_step=2)
    assert all(np.isfinite(seen["losses"]))
    assert "BatchNorm normalises each image by itself" in (tmp_path / "run/notes.txt").read_text()


@pytest.mark.parametrize(
    ("images", "effect"), [(1, "have no effect"), (4, "mostly cancel"), (8, "")]
)
def test_weights_that_cancel_in_a_small_forward_pass_are_a_note(images: int, effect: str) -> None:
    words = ["data.class_weights=inverse_frequency", f"data.micro_batch_size={images}"]
    notes = [note for note in examine(words).notes if "the weights" in note]
    assert len(notes) == bool(effect)
    assert not effect or f"inverse_frequency: the weights {effect} in a forward pass" in notes[0]


def test_a_weight_has_no_effect_on_an_image_alone() -> None:
    """Which the note says: the gradient is the same by hand."""
    gradients = []
    for weight in (1.0, 50.0):
        torch.manual_seed(0)
        model = Small(num_classes=2, class_weights=[weight, 1.0]).eval()
        loss = model.loss_fn(model(torch.ones(1, 3, 8, 8)), torch.tensor([0]))
        gradients.append(torch.autograd.grad(loss, model.network.head.weight)[0])
    torch.testing.assert_close(*gradients)


def test_a_class_without_training_images_and_one_of_validation_alone_are_faults(
    animals: Path,
) -> None:
    shutil.rmtree(animals / "train" / "10")
    cfg = tiny.config(str(animals), data={"name": "imagefolder", "batch_size": 8})
    with pytest.raises(
        ValueError, match=r"the val split has classes that the train split lacks: '10'"
    ):
        load_splits(cfg.data)
    shutil.rmtree(animals / "train" / "3")
    for label in ("3", "10"):
        shutil.rmtree(animals / "val" / label)
    with pytest.raises(ValueError, match=r"has 1 class \(2\); a classifier needs at least 2"):
        load_splits(cfg.data)


@pytest.mark.parametrize("weights", ["inverse_frequency", "effective_number"])
def test_a_class_that_lost_its_training_images_gets_no_infinite_weight(
    animals: Path, weights: str
) -> None:
    cfg = tiny.config(
        str(animals), data={"name": "imagefolder", "batch_size": 8, "class_weights": weights}
    )
    datamodule = ClassificationDataModule(cfg.data, 0)
    trained = {"2": 0, "3": 1, "10": 2, "77": 3}
    datamodule.number_like(trained, Path("best.ckpt"), may_lack=True)
    with pytest.raises(ValueError, match=r"1 classes have no training image \(77\); add some"):
        datamodule.class_weights()
