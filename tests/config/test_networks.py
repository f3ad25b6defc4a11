"""The catalogue of networks and weights, read from source, is what torchvision and timm say of
themselves; and what a run takes from its weights."""

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torchvision.models
from timm.models import get_pretrained_cfg

from clf.config import register
from clf.config.networks import find, names, of_target, settings
from clf.config.saved import from_dict, load, save
from clf.config.weights import needs_fixed_size, size_argument, weights
from clf.plan import compose, examine

ROOT = Path(__file__).resolve().parents[2]
# timm computes the names of their weights
NOT_READ = ("qwen3_vit_", "deepseek_vit_", "_quickgelu_")


def test_the_names_are_those_of_the_libraries() -> None:
    assert sorted(names("torchvision")) == torchvision.models.list_models(module=torchvision.models)
    assert set(names("timm")) == set(timm.list_models())


def test_all_weights_of_torchvision_want_the_images_that_it_says_itself() -> None:
    count = 0
    for name in names("torchvision"):
        own, network = torchvision.models.get_model_weights(name), find(name)
        assert network is not None
        read = weights(network)
        assert set(read) == {entry.name for entry in own}
        assert next(iter(read)) == own["DEFAULT"].name
        for key, given in read.items():
            transform = own[key].transforms()
            assert [given.size] == transform.crop_size
            assert [given.resize] == transform.resize_size
            assert given.interpolation == transform.interpolation.value
            assert (given.mean, given.std) == (list(transform.mean), list(transform.std))
            assert given.parameters == own[key].meta["num_params"]
            accuracy = own[key].meta["_metrics"].get("ImageNet-1K", {}).get("acc@1", math.nan)
            assert (given.accuracy or 0.0) == (0.0 if math.isnan(accuracy) else accuracy)
            count += 1
    assert count > 110


def test_all_weights_of_timm_want_the_images_that_it_says_itself() -> None:
    count = 0
    for name in names("timm"):
        network, own = find(f"timm/{name}"), get_pretrained_cfg(name)
        assert network is not None
        if own is None or not own.has_weights:
            continue
        assert (size_argument(network) == "img_size") == own.fixed_input_size, name
        if any(part in name for part in NOT_READ):
            continue
        read = weights(network)
        assert next(iter(read)) == (own.tag or "")
        for tag, given in read.items():
            own = get_pretrained_cfg(f"{name}.{tag}" if tag else name)
            assert own is not None
            assert given.size == own.input_size[-1], name
            assert given.resize == math.floor(given.size / own.crop_pct), name
            assert given.interpolation == own.interpolation, name
            assert (given.mean, given.std) == (list(own.mean), list(own.std)), name
            count += 1
    assert count > 1500


def test_what_a_network_takes_is_read_with_types_and_defaults() -> None:
    def of(name: str) -> dict[str, Any]:
        network = find(name)
        assert network is not None
        return {key: (kind, field.default) for key, (kind, field) in settings(network).items()}

    assert of("convnext_tiny")["stochastic_depth_prob"] == (float, 0.1)
    assert of("convnext_base")["stochastic_depth_prob"] == (float, 0.5)
    assert of("efficientnet_b7")["dropout"] == (float, 0.5)
    assert of("swin_s")["stochastic_depth_prob"] == (float, 0.3)
    assert of("densenet121")["drop_rate"] == (float, 0.0)
    assert of("vit_b_16")["representation_size"] == (int | None, None)
    assert "groups" not in of("resnext50_32x4d")  # it sets that itself
    assert set(of("alexnet")) == {"dropout", "network_arguments"}
    assert {"image_size", "num_classes", "weights", "progress"}.isdisjoint(of("vit_b_16"))


def test_networks_that_need_one_size_are_known() -> None:
    for name in ("vit_b_16", "maxvit_t", "timm/vit_tiny_patch16_224"):
        network = find(name)
        assert network is not None
        assert needs_fixed_size(network.target)
    for target in ("clf.models.resnet.ResNet18Model", "torchvision.models.swin_t", "mine.Net"):
        assert not needs_fixed_size(target)


def test_a_target_may_leave_out_the_file() -> None:
    network = of_target("torchvision.models.resnet34")
    assert network is not None
    assert network.target == "torchvision.models.resnet.resnet34"
    assert of_target("torchvision.models.vgg.resnet34") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model=convnxt_tiny", "no such model; expected one of .*; did you mean model=convnext_t"),
        ("model=timm/convnext_ato", "did you mean model=timm/convnext_atto?"),
        ("model=convnext_atto", "is a network of timm; write model=timm/convnext_atto$"),
        ("model=convnext", "--list-models convnext shows those of that name$"),
        ("model=timm/", "--list-models timm/ shows those of that name$"),
        ("model=mine.Net", "by its path is model._target_=mine.Net$"),
        ("model=mine.py", r"trusted_packages=\[MODULE\] brings the names that it registers$"),
        ("model._target_=torchvision.models.resnet35", "did you mean resnet34?"),
        ("model=timm/resnet18.a1_in1k", "write model=timm/resnet18 model.weights=a1_in1k$"),
    ],
)
def test_an_unknown_name_suggests_the_nearest_of_all(text: str, message: str) -> None:
    (fault,) = examine([text]).faults
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(fault)
    assert len(fault) < 200


@pytest.mark.parametrize(
    ("network", "setting", "message"),
    [
        ("convnext_tiny", "drop_path_rate=0.1", "calls it model.stochastic_depth_prob"),
        ("timm/convnext_tiny", "stochastic_depth_prob=0.1", "calls it model.drop_path_rate"),
        ("timm/vit_tiny_patch16_224", "dropout=0.1", "calls it model.drop_rate"),
        ("resnet34", "small_images=true", "it is a setting of model=resnet18 or resnet50"),
        ("resnet50", "drop_path_rate=0.1", "own settings: small_images; --settings model lists"),
        (
            "resnet34",
            "norm=x",
            "own settings: groups, width_per_group, zero_init_residual; any other argument of its "
            "own goes into model.network_arguments={norm: VALUE}; --settings model lists all",
        ),
    ],
)
def test_a_setting_of_another_network_is_answered_with_those_of_the_chosen_one(
    network: str, setting: str, message: str
) -> None:
    (fault,) = examine([f"model={network}", f"model.{setting}"]).faults
    assert message in fault


@pytest.mark.parametrize(
    ("network", "arguments", "message"),
    [
        ("resnet34", "num_classes: 3", "num_classes follows from the data, or model.num_classes"),
        ("timm/resnet18", "pretrained: true", "pretrained follows from model.pretrained"),
        ("vit_b_16", "image_size: 64", "image_size follows from data.image_size; take it out"),
        ("resnet34", "zero_init_residual: true", "write model.zero_init_residual=true"),
        ("timm/resnet18", "drop_rate: 0.1", "write model.drop_rate=0.1"),
        ("timm/resnet18", "in_chans: 1", "images have 3 channels"),
        ("vit_b_16", "hidden_dim: 64", "vit_b_16 sets hidden_dim itself; take it out"),
        (
            "alexnet",
            "width: 2",
            "alexnet does not take width; beside its settings it takes nothing",
        ),
        (
            "resnet34",
            "norm_layr: 2",
            "norm_layer, replace_stride_with_dilation; did you mean norm_",
        ),
    ],
)
def test_arguments_that_a_network_cannot_be_given_are_a_fault(
    network: str, arguments: str, message: str
) -> None:
    words = [f"model={network}", f"model.network_arguments={{{arguments}}}", "data.eval_resize=64"]
    (fault,) = examine([*words, "data.image_size=64"]).faults
    assert message in fault


def test_arguments_that_a_network_takes_are_no_fault() -> None:
    for network, arguments in (
        ("resnet34", "norm_layer: null"),
        ("googlenet", "aux_logits: false"),
        ("vgg11", "features: null"),
        ("timm/resnet18", "in_chans: 3, any: 1"),
    ):
        words = [f"model={network}", f"model.network_arguments={{{arguments}}}"]
        assert examine(words).faults == []


@pytest.mark.parametrize("setting", ["pretrained=true", "weights=IMAGENET1K_V1"])
def test_a_plain_network_of_ones_own_has_no_weights_to_download(setting: str) -> None:
    def own(num_classes: int) -> None: ...

    register(name="plain_without_weights")(own)
    words = ["model=plain_without_weights", f"trusted_packages=[{__name__.split('.')[0]}]"]
    faults = examine([*words, f"model.{setting}"]).faults
    assert any("plain_without_weights is your own network" in fault for fault in faults)
    faults = examine([*words, "model.weights=mine.pth"]).faults
    assert not any("is your own network" in fault for fault in faults)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model=convnext_tiny", "model.stochastic_depth_pro=1"], "model.stochastic_depth_prob?"),
        (["model=vit_b_16", "model.dropout=2"], "model.dropout=2.0: expected a number from 0 to 1"),
        (["model=swin_t", "model.dropout=x"], "model.dropout=x: expected a number from 0 to 1"),
        (["model=inception_v3"], "data.image_size=32: inception_v3 needs at least 75 pixels"),
        (["model=vit_b_16", "data.image_size=40", "data.eval_resize=40"], "set data.image_size=32"),
        (["model=maxvit_t"], "maxvit_t divides images into parts of 224 pixels"),
        (["model=resnet34", "model.weights=IMAGENET1K_V9"], "resnet34 has IMAGENET1K_V1; or give"),
        (["model=timm/resnet18", "model.weights=a4_in1k"], "did you mean model.weights=a1_in1k?"),
        (
            ["model=timm/vit_tiny_patch16_224", "data.start_size=16"],
            "is built for one size of images",
        ),
        (
            ["model=vit_b_16", "data.eval_size=64", "data.eval_resize=64"],
            "data.eval_size=64: vit_b",
        ),
        (
            ["data.eval_size=48"],
            "smaller than the centre crop data.eval_size=48; set data",
        ),
        (["model.small_images=true", "model.pretrained=true"], "the first layer of large images"),
        (["model.small_images=true", "model.weights=IMAGENET1K_V1"], "model.small_images=false"),
        (["model=vgg11", "data.start_size=16"], "data.start_size=16: vgg11 needs at least 32"),
        (["model.mean=[1,2]"], "model.mean=[1.0,2.0]: expected three numbers from 0 to"),
        (["model.mean=[124,116,104]"], "expected three numbers from 0 to 1, of red, green and bl"),
        (["model.std=[1,2,0]"], "model.std=[1.0,2.0,0.0]: expected three numbers above 0"),
        (["data.interpolation=nearest"], "expected one of bilinear, bicubic"),
        (
            ["model=timm/vit_base_patch32_clip_quickgelu_224", "model.pretrained=true"],
            "set model.mean, model.std, data.",
        ),
    ],
)
def test_what_does_not_fit_a_network_is_a_fault(settings: list[str], message: str) -> None:
    (fault,) = examine(settings).faults
    assert message in fault


def test_timm_that_is_not_installed_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clf.config.networks.names", lambda library: {})
    monkeypatch.setattr("clf.config.targets.folder", lambda package: None)
    (fault,) = examine(["model=timm/resnet18"]).faults
    assert fault == "model=timm/resnet18: timm is not installed; pip install timm"
    (fault,) = examine(["model._target_=timm.models.resnet.resnet18"]).faults
    assert fault.endswith("timm is not installed; pip install timm")


# --- what a run takes from its weights ---


def images(*settings: str) -> tuple[Any, ...]:
    cfg = compose(["data=digits", "data.image_size=null", "data.eval_resize=null", *settings])
    data, model = cfg.data, cfg.model
    return data.image_size, data.eval_resize, data.interpolation, model.mean, model.std


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], (224, None, None, None, None)),
        (["model=resnet18", "model.pretrained=true"], (224, None, None, None, None)),  # 256
        (["model=resnet50", "model.pretrained=true"], (224, 232, None, None, None)),
        (["model=resnet50", "model.weights=IMAGENET1K_V1"], (224, None, None, None, None)),
        (["model=efficientnet_v2_s", "model.pretrained=true"], (384, 384, None, None, None)),
        (["model=swin_t", "model.pretrained=true"], (224, 232, "bicubic", None, None)),
        (["model=swin_t", "model.pretrained=true", "data.image_size=112"],
         (112, 116, "bicubic", None, None)),
        (["model=swin_t", "model.pretrained=true", "data.interpolation=bilinear",
          "data.eval_resize=256"], (224, 256, "bilinear", None, None)),
        (["model=resnet50", "model.pretrained=true", "data.image_size=176", "data.eval_size=224"],
         (176, 232, None, None, None)),
        (["model=timm/vit_tiny_patch16_224", "model.pretrained=true"],
         (224, 248, "bicubic", [0.5] * 3, [0.5] * 3)),
        (["model=timm/vit_tiny_patch16_224", "model.pretrained=true", "model.mean=[0,0,0]"],
         (224, 248, "bicubic", [0.0] * 3, [0.5] * 3)),
    ],
)  # fmt: skip
def test_a_pretrained_run_sees_the_images_that_its_weights_want(
    settings: list[str], expected: tuple[Any, ...]
) -> None:
    assert images(*settings) == expected


def test_inception_normalises_as_its_weights_want() -> None:
    named = compose(["model=inception_v3", "data.image_size=80", "data.eval_resize=80"])
    assert vars(named.model)["transform_input"] is None
    words = ["model=inception_v3", "data.image_size=80", "model.pretrained=true"]
    assert vars(compose([*words, "data.eval_resize=80"]).model)["transform_input"] is True


def test_the_runs_own_config_keeps_them_and_a_run_of_before_goes_on_as_it_was(
    tmp_path: Path,
) -> None:
    words = ["data.image_size=null", "data.eval_resize=null", "model.pretrained=true"]
    cfg = compose(["model=resnet50", *words])
    save(cfg, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == cfg
    before = {
        "model": {"_target_": "clf.models.resnet.ResNet50Model", "pretrained": True},
        "data": {"name": "digits", "image_size": 224},
    }
    assert from_dict(before).data.eval_resize == 256  # as it was then
    before["model"]["_target_"] = "clf.models.resnet.ResNet18Model"  # type: ignore[index]
    assert from_dict(before).data.eval_resize is None  # which is 256 then and now


def test_a_recipe_chooses_a_network_and_the_command_line_another(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: convnext_small\nmodel.optimizer: muon\nmodel.layer_scale: 0.1\n")
    cfg = compose([f"recipe={recipe}"])
    assert cfg.model._target_ == "torchvision.models.convnext.convnext_small"
    assert (cfg.model.optimizer, vars(cfg.model)["layer_scale"]) == ("muon", 0.1)
    for choice in ("resnet50", "swin_t"):
        examined = examine([f"recipe={recipe}", f"model={choice}"])
        assert examined.faults == []
        assert examined.cfg is not None
        assert choice[:4] in examined.cfg.model._target_.lower()
        assert [note.partition(":")[0] for note in examined.notes] == ["model.layer_scale=0.1"]
    recipe.write_text("# @package _global_\ndefaults: [override /model: swin_t]\n")
    assert compose([f"recipe={recipe}"]).model._target_.endswith("swin_t")


@pytest.mark.parametrize("choice", ["timm/vit_small_patch16_224", "convnext_tiny", "resnet50"])
@pytest.mark.parametrize(
    "form", ["model: {}\n", "defaults:\n  - override /model: {}\n  - override /data: digits\n"]
)
def test_a_recipe_names_any_network_in_both_forms_and_the_command_line_wins(
    tmp_path: Path, choice: str, form: str
) -> None:
    configs = tmp_path / "configs"
    shutil.copytree(ROOT / "configs", configs)
    text = "# @package _global_\n" + form.format(choice) + "model.learning_rate: 0.5\n"
    (configs / "recipe" / "mine.yaml").write_text(text)

    def target(*words: str) -> str:
        examined = examine(["recipe=mine", *words], config_dir=configs)
        assert examined.faults == []
        assert examined.cfg is not None
        assert examined.cfg.model.learning_rate == 0.5
        return examined.cfg.model._target_.rpartition(".")[2]

    assert target() == {"resnet50": "ResNet50Model"}.get(choice, choice.removeprefix("timm/"))
    assert target("model=resnet18") == "ResNet18Model"
    assert target("model=swin_t") == "swin_t"
    assert target("model=timm/convnext_atto") == "convnext_atto"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: convnxt_small", "model=convnxt_small: .*mine.yaml.* did you mean model=convnext_"),
        ("defaults: [override /model: convnxt_small]", "mine.yaml.* did you mean model=convnext_"),
        ("defaults: [override /model: timm/convnext_ato]", "did you mean model=timm/convnext_att"),
        ("defaults: [override /model: null]", "model=null: no such model"),
        ("defaults: [/model: swin_t]", "write `- override /model: swin_t`, or model: swin_t"),
        ("defaults: [override model: swin_t]", "write `- override /model: swin_t`, or model: swi"),
        ("model: vgg11\ndefaults: [override /model: swin_t]", "chooses model twice: model: vgg11"),
        ("defaults: [override /model: swin_t, override /model: vgg11]", "chooses model twice"),
    ],
)
def test_a_recipe_that_chooses_no_network_says_how(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text + "\n")
    (fault,) = examine([f"recipe={recipe}"]).faults
    assert re.search(message, fault), fault


def test_a_network_is_chosen_without_importing_its_library() -> None:
    program = (
        "import sys\nfrom clf.plan import compose\n"
        "for name in ('vit_b_16', 'timm/vit_tiny_patch16_224'):\n"
        "    compose([f'model={name}', 'model.pretrained=true'])\n"
        "print({'torch', 'torchvision', 'timm', 'lightning'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
