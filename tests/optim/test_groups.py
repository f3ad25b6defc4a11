"""Which weights share a learning rate and a weight decay."""

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision.models import get_model, resnet18, swin_t, vit_b_32

from clf.models.head import head_of
from clf.optim.depth import depths
from clf.optim.groups import not_hidden, parameter_groups


def names_of(network: nn.Module, group: dict) -> set[str]:
    names = {parameter: name for name, parameter in network.named_parameters()}
    return {names[parameter] for parameter in group["params"]}


def test_biases_and_norms_are_not_decayed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decayed, kept = parameter_groups(network, 0.05, 0.1, head_of(network))
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 3, 3, 3), (2, 4)]
    assert decayed["weight_decay"] == 0.05
    assert [tuple(p.shape) for p in kept["params"]] == [(4,), (4,), (4,), (2,)]
    assert kept["weight_decay"] == 0.0
    assert decayed.keys() == kept.keys() == {"params", "weight_decay"}  # as in old checkpoints


def test_a_group_without_weights_is_left_out():
    (only,) = parameter_groups(nn.Linear(2, 2, bias=False), 0.05)
    assert only["weight_decay"] == 0.05


@pytest.mark.parametrize(
    ("network", "embeddings"),
    [
        (vit_b_32, {"class_token", "encoder.pos_embedding"}),
        (swin_t, {f"features.{stage}.{block}.attn.relative_position_bias_table"
                  for stage, blocks in ((1, 2), (3, 2), (5, 6), (7, 2))
                  for block in range(blocks)}),
    ],
)  # fmt: skip
def test_embeddings_are_not_decayed(network, embeddings):
    with torch.device("meta"):
        built = network()
    decayed, kept = parameter_groups(built, 0.05)
    not_vectors = {name for name in names_of(built, kept) if built.get_parameter(name).ndim > 1}
    assert not_vectors == embeddings
    assert all(p.ndim > 1 for p in decayed["params"])


def test_what_a_network_excludes_itself_is_not_decayed():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.zeros(2, 3))
            self.linear = nn.Linear(3, 2)

        def no_weight_decay(self) -> set[str]:
            return {"queries"}

    network = Own()
    decayed, kept = parameter_groups(network, 0.05)
    assert names_of(network, decayed) == {"linear.weight"}
    assert names_of(network, kept) == {"linear.bias", "queries"}
    hidden = {network.queries, network.linear.weight, network.linear.bias}
    assert set(not_hidden(network, network.linear)) == hidden
    assert not_hidden(network, None) == [network.queries]


def test_the_head_has_a_learning_rate_of_its_own():
    network = resnet18(num_classes=3)
    groups = parameter_groups(network, 0.05, 0.2, network.fc, head_lr_factor=10.0)
    assert [(g["name"], g["lr"], g["weight_decay"], len(g["params"])) for g in groups] == [
        ("backbone", 0.2, 0.05, 20),
        ("backbone-no-decay", 0.2, 0.0, 40),
        ("head", 2.0, 0.05, 1),
        ("head-no-decay", 2.0, 0.0, 1),
    ]
    assert names_of(network, groups[2]) | names_of(network, groups[3]) == {"fc.weight", "fc.bias"}


def test_a_head_that_is_not_there_cannot_have_a_learning_rate():
    with pytest.raises(ValueError, match=r"model.head_lr_factor=2.0: Flatten has no linear layer"):
        parameter_groups(nn.Flatten(), 0.05, 0.2, None, head_lr_factor=2.0)


def test_the_learning_rate_falls_from_layer_to_layer():
    network = resnet18(num_classes=3)
    groups = parameter_groups(network, 0.05, 0.2, network.fc, 10.0, layer_decay=0.5)
    rates = {name: group["lr"] for group in groups for name in names_of(network, group)}
    assert rates["fc.weight"] == rates["fc.bias"] == 2.0  # both factors
    assert rates["layer4.1.conv1.weight"] == pytest.approx(0.1)
    assert rates["layer4.0.downsample.1.bias"] == pytest.approx(0.05)
    assert rates["conv1.weight"] == rates["bn1.bias"] == pytest.approx(0.2 / 2**9)
    assert [group["name"] for group in groups[:4]] == [
        "layer00", "layer00-no-decay", "layer01", "layer01-no-decay"
    ]  # fmt: skip
    assert [group["name"] for group in groups[-2:]] == ["head", "head-no-decay"]
    assert len({group["name"] for group in groups}) == len(groups) == 2 * 10


BLOCKS = [  # network, its number of layers, and where some of its weights are
    ("resnet50", 18, {"bn1.weight": 0, "layer1.0.conv1.weight": 1, "layer4.2.bn3.bias": 16}),
    ("convnext_tiny", 23, {"features.0.0.weight": 0, "features.1.0.layer_scale": 1,
                           "features.2.0.weight": 3, "features.2.1.weight": 4,
                           "classifier.0.weight": 21, "classifier.2.bias": 22}),
    ("vit_b_32", 14, {"class_token": 0, "encoder.pos_embedding": 0, "conv_proj.weight": 0,
                      "encoder.layers.encoder_layer_0.ln_1.weight": 1, "encoder.ln.bias": 12,
                      "heads.head.weight": 13}),
    ("swin_t", 17, {"features.0.2.bias": 0, "features.1.1.norm1.bias": 2, "norm.bias": 15}),
    ("efficientnet_b0", 19, {"features.0.1.bias": 0, "features.8.0.weight": 17}),
    ("vgg11_bn", 11, {"features.1.weight": 0, "classifier.3.weight": 9, "classifier.6.bias": 10}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layers", "some"), BLOCKS, ids=[row[0] for row in BLOCKS])
def test_the_layers_of_a_network_are_its_blocks(name, layers, some):
    with torch.device("meta"):
        network = get_model(name)
    numbers = depths(network, head_of(network))
    assert set(numbers.values()) == set(range(layers))
    assert {weight: numbers[weight] for weight in some} == some
    assert list(numbers) == [weight for weight, _ in network.named_parameters()]


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_our_rule_finds_the_layers_that_timm_gives_its_own_networks(name):
    network = timm.create_model(name, num_classes=3)
    expected = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
    matcher, type(network).group_matcher = type(network).group_matcher, None
    try:
        assert depths(network, head_of(network)) == expected
    finally:
        type(network).group_matcher = matcher


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_a_network_of_timm_has_the_groups_of_timms_own_layer_decay(name):
    network = timm.create_model(name, num_classes=3)
    excluded = getattr(network, "no_weight_decay", set)()
    theirs = param_groups_layer_decay(network, 0.05, excluded, layer_decay=0.7)
    expected = {
        name: (group["weight_decay"], pytest.approx(0.1 * group["lr_scale"]))
        for group in theirs
        for name in names_of(network, group)
    }
    ours = parameter_groups(network, 0.05, 0.1, head_of(network), layer_decay=0.7)
    found = {
        name: (group["weight_decay"], group["lr"])
        for group in ours
        for name in names_of(network, group)
    }
    assert found == expected
