"""Models: heads, parameter counts, loss, and the weights that they start from."""

import copy
from argparse import Namespace
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hydra.utils import instantiate
from lightning import Trainer
from torch import nn

from clf.batch import PADDING
from clf.models import pretrained
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.models.resnet import ResNet18Model, ResNet50Model
from clf.plan import compose


@pytest.mark.parametrize(
    ("model_class", "features", "parameters"),
    [(ResNet18Model, 512, 11_689_512), (ResNet50Model, 2048, 25_557_032)],
)
def test_head_and_parameter_count(model_class, features, parameters):
    model = model_class(num_classes=1000)
    assert model.network.fc.in_features == features
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model_class(num_classes=43).network.fc.out_features == 43


def test_a_resnet_for_small_images_keeps_their_resolution():
    # He et al.'s ResNet-18 for CIFAR-10 as it is counted elsewhere: 11,173,962 parameters.
    model = ResNet18Model(num_classes=10, small_images=True)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    seen = []
    model.network.layer4.register_forward_hook(lambda module, given, made: seen.append(made.shape))
    model(torch.zeros(2, 3, 32, 32))
    assert seen == [(2, 512, 4, 4)]


@pytest.fixture
def traced(monkeypatch):
    """The inputs of each graph that torch.compile makes: (shape, dtype) of four dimensions. The
    graph is run as it is, since real code takes minutes to make."""
    graphs = []

    def backend(graph, inputs, **mode):
        images = [i for i in inputs if isinstance(i, torch.Tensor) and i.dim() == 4]
        graphs.append([(tuple(i.shape), i.dtype) for i in images] + list(mode.values()))
        return graph.forward

    plain = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda function, **how: plain(function, backend=backend, **how)
    )
    return graphs


def test_a_compiled_network_has_code_of_its_own_for_each_size_of_images(traced):
    words = ["strategy.compile=true", "strategy.channels_last=false"]
    model = build_model(compose(words), 3, pretrained=False)
    sizes = range(16, 34, 2)  # more than the eight that torch allows by itself
    for size in sizes:
        model(torch.zeros(2, 3, size, size))
    images = [shape for graph in traced for shape, _ in graph if shape[:2] == (2, 3)]
    assert images == [(2, 3, size, size) for size in sizes]
    assert all(type(pixels) is int for shape in images for pixels in shape)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_it_computes_the_same_and_normalises_in_the_networks_own_code(traced, mode):
    words = ["model._target_=tests.tiny.WithoutDropout", "trusted_packages=[tests]"]
    plain = build_model(compose(words), 3, pretrained=False)
    words += ["strategy.compile=true", f"strategy.compile_mode={mode}"]
    compiled = build_model(compose(words), 3, pretrained=False)
    compiled.load_state_dict(plain.state_dict())
    images = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    for training, half in ((True, False), (True, True), (False, False)):
        for model in (plain, compiled):
            model.train(training).zero_grad()
            for part in images.to(memory_format=torch.channels_last).split(3):  # accumulated
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    logits = model(part)
                model.loss_fn(logits, torch.arange(3)).backward()
        for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(*pair) for pair in zip(plain.buffers(), compiled.buffers(), strict=True))
    # The same graph has the images as they are and a convolution's weights.
    assert ((3, 3, 32, 32), torch.uint8) in traced[0]
    assert [shape for shape, dtype in traced[0][:2] if dtype == torch.float32]
    assert ("reduce-overhead" in traced[0]) == (mode == "reduce-overhead")
    # What is no tensor reaches the check that names it.
    compiled.network.register_forward_hook(lambda *given: {"logits": given[2]})
    assert compiled(images).keys() == {"logits"}
    compiled.network._forward_hooks.clear()
    # A copy, such as an average of weights, runs with its own.
    copied = copy.deepcopy(compiled)
    for model in (copied, plain):
        for parameter in model.parameters():
            parameter.data.mul_(0.5)
    assert torch.equal(copied(images), plain(images))
    assert not torch.equal(compiled(images), plain(images))


def test_uint8_images_are_normalised_as_torchvision_does():
    model = ResNet18Model(num_classes=3).eval()
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        torch.testing.assert_close(model(images), model.network(normalise(images / 255)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_weighted_smoothed_cross_entropy(smoothing):
    weights = [1.0, 2.0, 0.5]
    model = ResNet18Model(num_classes=3, class_weights=weights, label_smoothing=smoothing)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, PADDING, PADDING])
    loss_sum, weight_sum = model.loss_sums(logits, labels)

    z, y, w = logits.numpy().astype(np.float64)[:4], labels.numpy()[:4], np.array(weights)
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    hard = -(w[y] * log_p[np.arange(4), y]).sum()
    smooth = -(w * log_p).sum() / 3
    assert weight_sum.item() == w[y].sum()
    assert loss_sum.item() == pytest.approx((1 - smoothing) * hard + smoothing * smooth, abs=1e-5)


@pytest.mark.parametrize(
    ("network", "given"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(12, 7)),
            r"Sequential gave a tensor of shape \(2, 7",
        ),
        (nn.Flatten(0), r"Flatten gave a tensor of shape \(24,\)"),
        (nn.Threshold(0, 0), r"Threshold gave a tensor of shape \(2, 3, 2, 2\)"),
    ],
)
def test_a_network_that_gives_no_logits_is_refused_with_what_was_expected(network, given):
    class Wrong(BaseClassificationModel):
        def build_network(self):
            return network

    batch = {"images": torch.zeros(2, 3, 2, 2), "labels": torch.zeros(2).long()}
    batch["indices"] = batch["labels"]
    with pytest.raises(ValueError, match=f"^{given}.*; expected logits of shape .2, 10.,"):
        Wrong(num_classes=10).validation_step(batch, 0)


def test_class_weights_travel_with_the_checkpoint():
    model = ResNet18Model(num_classes=3)
    model.set_class_weights([1.0, 2.0, 3.0])
    assert model.state_dict()["class_weights"].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [([1.0, 2.0], "needs 3 numbers, one per class; got 2"), ([1.0, -1.0, 1.0], "at least 0")],
)
def test_class_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        ResNet18Model(num_classes=3, class_weights=weights)


def test_a_local_file_fills_all_but_the_head(tmp_path):
    source = torchvision.models.resnet18(num_classes=1000)
    file = tmp_path / "weights.pth"
    torch.save(source.state_dict(), file)
    model = ResNet18Model(num_classes=43, weights=str(file))
    own = model.network.state_dict()
    assert torch.equal(own["layer4.1.conv2.weight"], source.state_dict()["layer4.1.conv2.weight"])
    assert own["fc.weight"].shape == (43, 512)


def test_one_of_our_checkpoints_is_a_file_to_start_from(tmp_path):
    first = ResNet18Model(num_classes=10)
    torch.save({"state_dict": first.state_dict()}, tmp_path / "best.ckpt")
    second = ResNet18Model(num_classes=43, weights=str(tmp_path / "best.ckpt"))
    assert torch.equal(second.network.conv1.weight, first.network.conv1.weight)


@pytest.mark.parametrize(
    "held",
    [
        lambda state: {"model": state, "epoch": 3, "args": Namespace(lr=0.1)},
        lambda state: {f"module.{key}": one for key, one in state.items()},
        lambda state: {
            "state_dict": {f"model.{key}": one for key, one in state.items()}
            | {"loss.weight": torch.ones(3)}
        },
        lambda state: {"model_state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
    ],
    ids=["torchvisions-script", "ddp", "lightning", "compiled-ddp"],
)
def test_weights_that_other_programs_wrote_are_read(tmp_path, held):
    state = torchvision.models.resnet18(num_classes=7).state_dict()
    torch.save(held(state), tmp_path / "other.pth")
    network = ResNet18Model(num_classes=10, weights=str(tmp_path / "other.pth")).network
    assert torch.equal(network.conv1.weight, state["conv1.weight"])


def test_a_network_that_has_a_part_of_a_wrappers_name_keeps_its_names(tmp_path):
    class Inner(BaseClassificationModel):
        def build_network(self):
            body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
            return nn.Sequential(OrderedDict(model=body, head=nn.Linear(4, self.num_classes)))

    state = Inner(num_classes=2).network.state_dict()
    torch.save(state, tmp_path / "own.pth")
    network = Inner(num_classes=3, weights=str(tmp_path / "own.pth")).network
    assert torch.equal(network.state_dict()["model.1.weight"], state["model.1.weight"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            nn.Linear(2, 2),
            r"it holds torch\.nn\.modules\.linear\.Linear, and reading that",
        ),
        ({"a": 1, "b": torch.ones(2)}, "expected tensors by their names, .*; a is something else"),
    ],
)
def test_a_file_that_holds_something_else_than_weights_says_what_to_write(
    tmp_path, content, message
):
    torch.save(content, tmp_path / "wrong.pth")
    with pytest.raises(ValueError, match=message):
        ResNet18Model(num_classes=10, weights=str(tmp_path / "wrong.pth"))


def test_weights_of_another_architecture_are_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(ValueError, match="does not fit this ResNet.*another architecture"):
        ResNet50Model(num_classes=10, weights=str(tmp_path / "r18.pth"))


def test_a_missing_file_and_an_unknown_name_say_what_is_valid():
    with pytest.raises(ValueError, match=r"model.weights=none.pth: no such file"):
        ResNet18Model(num_classes=10, weights="none.pth")
    with pytest.raises(ValueError, match="resnet18 has IMAGENET1K_V1"):
        ResNet18Model(num_classes=10, weights="IMAGENET9")


def test_the_error_says_where_to_put_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match="could not download resnet18-f37072fd.pth") as error:
        ResNet18Model(num_classes=10, pretrained=True)
    assert str(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(error.value)


def test_a_file_put_in_the_cache_by_hand_is_used_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = pretrained.cached_file(pretrained.named_weights("resnet18", None))
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half a download")
    with pytest.raises(ValueError, match="is damaged .*delete it"):
        ResNet18Model(num_classes=10, pretrained=True)


class Plain(BaseClassificationModel):
    """A network of a user's own, which knows nothing of weights."""

    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, self.num_classes))


def test_a_users_own_network_starts_from_a_file_of_weights_except_its_head(tmp_path):
    state = Plain(num_classes=5).network.state_dict()
    torch.save(state, tmp_path / "plain.pth")
    model = Plain(num_classes=3, weights=str(tmp_path / "plain.pth"))
    assert torch.equal(model.network[1].weight, state["1.weight"])
    assert model.network[2].weight.shape == (3, 4)


def test_a_users_own_network_refuses_weights_that_it_does_not_know():
    with pytest.raises(ValueError, match="model.pretrained=true: .*Plain knows no weights to down"):
        Plain(num_classes=3, pretrained=True)


def test_a_setting_that_no_part_of_the_model_has_is_refused_by_its_name():
    with pytest.raises(TypeError, match="'learning_rat'; did you mean 'learning_rate'"):
        Plain(num_classes=3, learning_rat=0.1)
    with pytest.raises(TypeError, match="'momentum'"):
        Plain(num_classes=3, momentum=0.9)  # AdamW has none
    assert Plain(num_classes=3, optimizer="sgd", momentum=0.5).hparams["momentum"] == 0.5


def test_the_original_arguments_build_a_model_and_its_loss():
    settings = {"learning_rate": 1e-4, "weight_decay": 0.01, "warmup_epochs": 2}
    settings |= {"label_smoothing": 0.1, "warmup_start_factor": 0.2, "cosine_eta_min_factor": 0.05}
    model = ResNet18Model(num_classes=43, **settings)
    assert {key: model.hparams[key] for key in settings} == settings
    flat = {"_target_": "clf.models.resnet.ResNet18Model", "num_classes": 3, **settings}
    model = instantiate({**flat, "class_weights": [1.0, 2.0, 0.5]}, _convert_="all")
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 1, PADDING, 0])
    expected = torch.nn.functional.cross_entropy(
        logits,
        labels,
        weight=torch.tensor([1.0, 2.0, 0.5]),
        ignore_index=PADDING,
        label_smoothing=0.1,
    )
    torch.testing.assert_close(model.loss_fn(logits, labels), expected)


class KeepsSettings(Plain):
    """Takes every setting and hands none of them on."""

    def __init__(self, num_classes: int, width: int = 4, **settings: Any) -> None:
        super().__init__(num_classes)


def test_a_class_that_does_not_pass_a_setting_on_is_refused():
    cfg = compose(["trusted_packages=[tests]", "strategy.channels_last=false"])
    cfg.model._target_ = f"{KeepsSettings.__module__}.KeepsSettings"
    assert build_model(cfg, 3, pretrained=False).num_classes == 3  # all at their defaults
    cfg.model.learning_rate = 0.3
    with pytest.raises(ValueError, match=r"learning_rate=0.3: .*KeepsSettings was built with 0.00"):
        build_model(cfg, 3, pretrained=False)


class WithLayer(Plain):
    def __init__(self, width: int = 4, layer: type = nn.ReLU, **settings: Any) -> None:
        super().__init__(**settings)


def test_a_checkpoint_holds_plain_arguments_alone_and_the_model_loads_from_it(tmp_path):
    model = WithLayer(num_classes=3, width=8, optimizer="sgd", momentum=0.5)
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert "layer" not in held
    assert (held["width"], held["momentum"]) == (8, 0.5)
    loaded = WithLayer.load_from_checkpoint(tmp_path / "last.ckpt")
    assert dict(loaded.hparams) == dict(model.hparams)
    assert dict(copy.deepcopy(model).hparams) == dict(model.hparams)


def test_a_model_loads_from_its_checkpoint_without_fetching_the_weights_it_began_with(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ResNet18Model, "load_weights", lambda self: None)
    model = ResNet18Model(num_classes=3, pretrained=True)
    monkeypatch.setattr(ResNet18Model, "load_weights", lambda self: pytest.fail("fetches weights"))
    trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    loaded = ResNet18Model.load_from_checkpoint(tmp_path / "last.ckpt")
    torch.testing.assert_close(loaded.state_dict(), model.state_dict())


def test_a_target_that_builds_no_classifier_is_refused_with_what_was_expected():
    cfg = compose(["trusted_packages=[tests]", "strategy.channels_last=false"])
    cfg.model._target_ = f"{__name__}.not_ours"
    with pytest.raises(ValueError, match=r"not_ours: builds a Linear, expected a BaseClassifi"):
        build_model(cfg, 3, pretrained=False)


def not_ours(**settings: Any) -> nn.Module:
    return nn.Linear(1, 1)


def test_an_error_that_a_model_raises_reaches_the_user_unchanged():
    words = [f"model._target_={Plain.__module__}.Plain", "trusted_packages=[tests]"]
    cfg = compose([*words, "model.pretrained=true", "strategy.channels_last=false"])
    with pytest.raises(ValueError, match=r"^model.pretrained=true: .*Plain knows no weights"):
        build_model(cfg, 3, pretrained=True)


@pytest.mark.parametrize("content", [b"no weights", b"", [1, 2]])
def test_a_file_that_holds_no_weights_is_named(tmp_path, content):
    path = tmp_path / "mine.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"model.weights=.*mine.pth: "):
        ResNet18Model(num_classes=3, weights=str(path))
