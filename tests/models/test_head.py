"""The head of a network is found, whatever the network."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import get_model

from clf.models.base import BaseClassificationModel
from clf.models.head import head_of, name_within


@pytest.mark.parametrize(
    ("network", "head"),
    [
        ("resnet18", "fc"),
        ("vit_b_32", "heads.head"),
        ("swin_t", "head"),
        ("convnext_tiny", "classifier.2"),
        ("efficientnet_b0", "classifier.1"),
        ("mobilenet_v3_small", "classifier.3"),
        ("squeezenet1_1", "classifier.1"),  # a convolution
        ("inception_v3", "fc"),  # after an auxiliary classifier
        ("maxvit_t", "classifier.5"),
    ],
)
def test_of_torchvision(network, head):
    with torch.device("meta"):
        built = get_model(network, num_classes=7)
    assert name_within(built, head_of(built)) == head


@pytest.mark.parametrize(
    ("network", "head"),
    [("convnext_atto", "head.fc"), ("vit_tiny_patch16_224", "head"), ("resnet10t", "fc")],
)
def test_of_timm(network, head):
    built = timm.create_model(network, num_classes=7)
    assert name_within(built, head_of(built)) == head


def test_a_network_without_a_layer_that_could_be_one_has_none():
    assert head_of(nn.Flatten()) is None
    assert name_within(nn.Flatten(), None) is None


class TwoHeads(BaseClassificationModel):
    """Of which the last linear layer is not the head."""

    def build_network(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(12, self.num_classes), nn.Linear(3, 3))

    def head(self) -> nn.Module:
        return self.network[1]


def test_a_model_may_say_itself_which_part_its_head_is(tmp_path):
    torch.save(TwoHeads(num_classes=3).network.state_dict(), tmp_path / "three.pth")
    given = torch.load(tmp_path / "three.pth")
    torch.manual_seed(1)
    model = TwoHeads(num_classes=3, weights=str(tmp_path / "three.pth"))
    assert torch.equal(model.network[2].weight, given["2.weight"])
    assert not torch.equal(model.network[1].weight, given["1.weight"])
