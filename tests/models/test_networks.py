"""Every classification network of torchvision, and some of timm's: built by name, trained and
evaluated, from weights too."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import timm
import torch
import torchvision
from lightning import Trainer
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from clf import run
from clf.batch import ClassificationBatch
from clf.config.networks import find, names
from clf.config.weights import size_argument, weights
from clf.models.base import BaseClassificationModel
from clf.models.build import build_model
from clf.plan import compose

LARGE = 60_000_000  # parameters; larger ones are built without memory
OF_TIMM = [
    "resnet10t",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_lite0",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "regnetx_002",
    "deit_tiny_distilled_patch16_224",
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small steps are quicker so, and many times quicker on cores that others use too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with patch.object(torch, "set_num_threads"):  # which Lightning calls
        yield
    torch.set_num_threads(before)


def built(choice: str, *settings: str, classes: int = 3, size: int = 32) -> BaseClassificationModel:
    words = [f"model={choice}", "strategy.channels_last=false", f"data.image_size={size}"]
    cfg = compose([*words, f"data.eval_resize={size}", *settings])
    torch.manual_seed(0)
    return build_model(cfg, classes, pretrained=True)


def batch(size: int) -> ClassificationBatch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    return {"images": images, "labels": torch.tensor([0, 1, 2, 1]), "indices": torch.arange(4)}


def one_step(model: BaseClassificationModel, size: int) -> dict[str, float]:
    """Train for a step and evaluate, by Lightning; what was logged."""
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        num_sanity_val_steps=0, **quiet,
    )  # fmt: skip
    before = [p.detach().clone() for p in model.head().parameters()]
    loader = DataLoader([batch(size)], batch_size=None)  # type: ignore[arg-type]
    trainer.fit(model, loader, loader)
    assert any(
        not torch.equal(a, b) for a, b in zip(before, model.head().parameters(), strict=True)
    )
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def smallest(choice: str) -> int:
    network = find(choice)
    given = next(iter(weights(network).values())) if weights(network) else None
    if size_argument(network) in ("image_size", "img_size"):
        return 28 if choice == "vit_h_14" else 32
    if choice == "maxvit_t":
        return 224  # its windows divide nothing smaller
    return max(32, given.smallest or 32) if given else 32


class WithoutMemory(TorchFunctionMode):
    """Weights are created on the meta device, and what a network computes with (RegNet's widths)
    is not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        meta = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **meta})


@pytest.mark.parametrize("name", sorted(names("torchvision")))
def test_every_network_of_torchvision_trains_a_step_and_evaluates(name: str) -> None:
    size = smallest(name)
    (default, *_) = weights(find(name)).values()
    with WithoutMemory():
        own = torchvision.models.get_model(name, num_classes=3, **extra(name, size))
    if default.parameters > LARGE:
        with WithoutMemory():
            model = built(name, size=size).to("meta")
        assert model(torch.zeros(2, 3, size, size, device="meta")).shape == (2, 3)
    else:
        model = built(name, size=size)
        logged = one_step(model, size)
        assert 0 < logged["train/loss"] < 100
        assert logged["val/loss"] > 0
    shapes = {key: value.shape for key, value in own.state_dict().items()}
    assert {key: value.shape for key, value in model.network.state_dict().items()} == shapes


def extra(name: str, size: int) -> dict[str, Any]:
    """What torchvision must be told to build the same network."""
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {"image_size": size} if name.startswith("vit") else {}


@pytest.mark.parametrize("name", OF_TIMM)
def test_a_network_of_timm_trains_a_step_and_evaluates(name: str) -> None:
    model = built(f"timm/{name}", "model.drop_rate=0.1")
    logged = one_step(model, 32)
    assert logged["train/loss"] > 0
    assert logged["val/loss"] > 0
    fixed = {"img_size": 32} if size_argument(find(f"timm/{name}")) else {}
    with WithoutMemory():
        own = timm.create_model(name, num_classes=3, **fixed)
    shapes = {key: value.shape for key, value in own.state_dict().items()}
    assert {key: value.shape for key, value in model.network.state_dict().items()} == shapes


def test_a_run_with_a_network_by_name_is_evaluated_from_its_checkpoint_to_the_same_numbers(
    tmp_path: Path,
) -> None:
    cfg = compose(
        [
            "model=timm/vit_tiny_patch16_224",
            "model.drop_rate=0.3",
            "model.network_arguments={depth: 1}",
            "model.mean=[0.5,0.5,0.5]",
            "data.interpolation=bicubic",
            "data.eval_resize=40",
            f"data.root={tmp_path}/digits",
            "epochs=1",
            "tracking.mode=disabled",
            "strategy.accelerator=cpu",
        ]
    )
    trained = run.fit(cfg, tmp_path / "run", progress=False)
    record = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert record["hyper_parameters"]["arguments"] == {
        "drop_rate": 0.3,
        "depth": 1,
        "img_size": 32,
    }
    scalars = run.evaluate(tmp_path / "run", progress=False).scalars
    assert scalars["test/loss"] == trained["test/loss"]
    assert scalars["test/acc_top1"] == trained["test/acc_top1"] > 0
    other = run.evaluate(tmp_path / "run", data={"interpolation": "bilinear"}, progress=False)
    assert other.scalars["test/loss"] != scalars["test/loss"]


# --- arguments ---


def depths(network: nn.Module) -> list[float]:
    kinds = (torchvision.ops.StochasticDepth,)
    return [module.p for module in network.modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0"])
def test_a_networks_own_arguments_are_settings(name: str) -> None:
    model = built(name, "model.stochastic_depth_prob=0.35")
    own = torchvision.models.get_model(name, stochastic_depth_prob=0.35)
    assert depths(model.network) == depths(own)
    assert max(depths(own)) > 0.3


def test_stochastic_depth_can_be_set_where_torchvisions_function_fixes_it() -> None:
    with pytest.raises(TypeError, match="multiple values"):
        torchvision.models.swin_t(stochastic_depth_prob=0.4)
    assert depths(built("swin_t").network) == depths(torchvision.models.swin_t())
    wanted = [2 * p for p in depths(torchvision.models.swin_t())]
    given = depths(built("swin_t", "model.stochastic_depth_prob=0.4").network)
    assert given == pytest.approx(wanted)


def test_any_other_argument_of_the_function_can_be_given_and_one_that_it_lacks_is_refused() -> None:
    arguments = "model.network_arguments={replace_stride_with_dilation: [false, false, true]}"
    assert built("resnet101", arguments).network.layer4[1].conv2.dilation == (2, 2)
    assert built("timm/resnet10t", "model.network_arguments={stem_width: 16}").network.conv1[
        0
    ].weight.shape == (12, 3, 3, 3)
    # What timm's function passes on is known only to what it calls.
    with pytest.raises(ValueError, match="resnet10t: cannot be built with .*widht.*unexpected key"):
        built("timm/resnet10t", "model.network_arguments={stem_widht: 16}")


# --- weights ---


def changed(network: nn.Module) -> dict[str, torch.Tensor]:
    """Its state dict with other values in every tensor."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("squeezenet1_1", "classifier.1."),
        ("convnext_tiny", "classifier.2."),
        ("mnasnet0_5", "classifier.1."),  # its state dict must say of which version it is
        ("googlenet", "fc."),
        ("timm/convnext_atto", "head.fc."),
        ("timm/deit_tiny_distilled_patch16_224", "head"),
    ],
)
def test_a_file_fills_all_but_the_head(tmp_path: Path, name: str, heads: str) -> None:
    if name.startswith("timm/"):
        source = timm.create_model(name.removeprefix("timm/"), num_classes=7, **(
            {"img_size": 32} if "deit" in name else {}
        ))  # fmt: skip
    elif name == "googlenet":  # with the auxiliary heads of torchvision's own file
        source = torchvision.models.googlenet(num_classes=7, aux_logits=True, init_weights=False)
    else:
        source = torchvision.models.get_model(name, num_classes=7)
    state = changed(source)
    torch.save(state, tmp_path / "weights.pth")
    model = built(name, f"model.weights={tmp_path}/weights.pth")
    for key, value in model.network.state_dict().items():
        if not key.startswith(heads):
            assert torch.equal(value, state[key]), key
    assert model.head().weight.shape[0] == 3


def test_a_vision_transformer_starts_from_weights_of_another_image_size(tmp_path: Path) -> None:
    source = torchvision.models.vit_b_32(num_classes=7, image_size=64)
    torch.save(changed(source), tmp_path / "vit.pth")
    model = built("vit_b_32", f"model.weights={tmp_path}/vit.pth", size=96)
    expected = torchvision.models.vision_transformer.interpolate_embeddings(
        96, 32, source.state_dict()
    )["encoder.pos_embedding"]
    assert torch.equal(model.network.encoder.pos_embedding, expected)
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 3)


def test_a_vision_transformer_of_timm_does_too(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    source = timm.create_model(name, num_classes=7, img_size=32)
    torch.save(changed(source), tmp_path / "vit.pth")
    model = built(f"timm/{name}", f"model.weights={tmp_path}/vit.pth", size=64)
    expected = timm.layers.resample_abs_pos_embed(
        source.pos_embed, (4, 4), old_size=(2, 2), num_prefix_tokens=1
    )
    torch.testing.assert_close(model.network.pos_embed, expected)
    assert torch.equal(model.network.norm.weight, source.norm.weight)


def test_a_densenet_takes_the_old_names_of_torchvisions_files(tmp_path: Path) -> None:
    state = changed(torchvision.models.densenet121(num_classes=7))
    old = {
        key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")  # which BatchNorm did not count then
    }
    assert len(set(old) - set(state)) > 100
    torch.save(old, tmp_path / "old.pth")
    network = built("densenet121", f"model.weights={tmp_path}/old.pth").network
    key = "features.denseblock1.denselayer2.norm1.weight"
    assert torch.equal(network.state_dict()[key], state[key])


def test_a_checkpoint_of_ours_is_a_file_to_start_from(tmp_path: Path) -> None:
    first = built("mnasnet0_5")
    torch.save({"state_dict": first.state_dict()}, tmp_path / "best.ckpt")
    second = built("mnasnet0_5", f"model.weights={tmp_path}/best.ckpt", classes=5)
    for a, b in zip(first.network.layers.parameters(), second.network.layers.parameters()):  # noqa: B905
        assert torch.equal(a, b)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    for name in ("resnet34", "timm/resnet10t"):
        with pytest.raises(ValueError, match="does not fit this ResNet.*another architecture"):
            built(name, f"model.weights={tmp_path}/r18.pth")


def test_weights_that_timm_cannot_download_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", unreachable, raising=False)
    with pytest.raises(
        ValueError, match="^model.pretrained=true: the weights of timm.*no route"
    ) as error:
        built("timm/resnet10t", "model.pretrained=true")
    assert "model.weights=/path/to/file.pth" in str(error.value)


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise OSError("no route to the hub")


def test_the_weights_that_timm_loads_fill_all_but_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    state = changed(timm.create_model("resnet10t", num_classes=1000))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *a, **k: dict(state))
    for classes in (3, 1000):
        network = built("timm/resnet10t", "model.pretrained=true", classes=classes).network
        assert torch.equal(network.conv1[0].weight, state["conv1.0.weight"])
        assert network.fc.weight.shape[0] == classes
        assert classes == 3 or not torch.equal(network.fc.weight, state["fc.weight"])


# --- blocks that are computed again ---


@pytest.mark.parametrize(
    "name",
    ["convnext_tiny", "swin_t", "vit_b_32", "densenet121", "mobilenet_v3_small", "timm/resnet10t"],
)
def test_gradient_checkpointing_gives_the_same_gradients_and_statistics(name: str) -> None:
    found = []
    for again in ("false", "true"):
        torch.manual_seed(0)
        model = built(name, f"strategy.gradient_checkpointing={again}").train()
        torch.manual_seed(1)
        model.loss_fn(model(batch(32)["images"]), batch(32)["labels"]).backward()
        gradients = {key: p.grad for key, p in model.named_parameters()}
        found.append(gradients | dict(model.network.named_buffers()))
    assert found[0].keys() == found[1].keys()
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=0, atol=0, msg=key)


# --- networks of the user's own ---

OWN = '''
from torch import nn

from clf.config import register


@register(name="{name}_function")
def small(num_classes, width: int = 4):
    """Three layers.

    Args:
        width: of the hidden layer
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, width), nn.Linear(width, num_classes))


@register(name="{name}_class")
class Small(nn.Sequential):
    def __init__(self, num_classes: int, width: int = 4):
        super().__init__(*small(num_classes, width))


def unregistered(num_classes):
    return small(num_classes)


def no_classes(width: int = 3):
    return nn.Linear(width, width)


def no_network(num_classes):
    return num_classes
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["function", "class"])
def test_a_users_plain_function_or_class_is_a_model(own: str, kind: str, tmp_path: Path) -> None:
    trusted = f"trusted_packages=[{own}]"
    model = built(f"{own}_{kind}", trusted, "model.width=6", "model.learning_rate=0.0001")
    assert model.network[1].weight.shape == (6, 3072)
    assert one_step(model, 32)["val/loss"] > 0
    torch.save(model.network.state_dict(), tmp_path / "own.pth")
    other = built(
        f"{own}_{kind}", trusted, "model.width=6", f"model.weights={tmp_path}/own.pth", classes=5
    )
    assert torch.equal(other.network[1].weight, model.network[1].weight)
    with pytest.raises(ValueError, match=f"model.pretrained=true: {own}.* weights are in no lib"):
        built(f"{own}_{kind}", trusted, "model.pretrained=true")
    with pytest.raises(ValueError, match="model.widht=6: no such key; did you mean model.width"):
        built(f"{own}_{kind}", trusted, "model.widht=6")


def test_a_target_that_is_not_registered_may_be_a_plain_network_too(own: str) -> None:
    trusted = f"trusted_packages=[{own}]"
    target = f"model._target_={own}"
    assert len(built("resnet18", trusted, f"{target}.unregistered").network) == 3
    with pytest.raises(ValueError, match="no_classes: does not take num_classes, the number of ou"):
        built("resnet18", trusted, f"{target}.no_classes")
    with pytest.raises(ValueError, match="no_network: gave a int, expected a torch.nn.Module"):
        built("resnet18", trusted, f"{target}.no_network")
