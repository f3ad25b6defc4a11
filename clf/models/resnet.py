"""ResNet18 and ResNet50 of torchvision, with a head for the data's classes."""

from pathlib import Path
from typing import Any

from torch import nn
from torchvision.models import resnet18, resnet50

from clf.config import register
from clf.config.weights import is_file
from clf.models.base import BaseClassificationModel
from clf.models.pretrained import fetch, load_pretrained


class _ResNetModel(BaseClassificationModel):
    """`network.fc` is the head, new for `num_classes` whatever the weights were trained for.

    Args:
        small_images: begin with a 3x3 convolution of stride 1 and without pooling, as is usual for
            32 pixels (after He et al. 2015, arXiv 1512.03385, section 4.2); sixteen times the work
    """

    builder = staticmethod(resnet18)

    def __init__(self, num_classes: int, small_images: bool = False, **settings: Any) -> None:
        super().__init__(num_classes, **settings)

    @classmethod
    def fetch_weights(cls, weights: str | None) -> Path:
        """Download what `weights` names (None: the default), where a job may not be able to."""
        return fetch(cls.builder.__name__, weights)

    def build_network(self) -> nn.Module:
        network = self.builder(num_classes=self.num_classes)
        if self.hparams["small_images"]:
            network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
            network.maxpool = nn.Identity()
        return network

    def load_weights(self) -> None:
        if is_file(self.hparams["weights"]):
            super().load_weights()
        else:
            load_pretrained(self.network, self.builder.__name__, self.hparams["weights"], ["fc"])

    def recomputed_blocks(self) -> list[nn.Module]:
        stages = ("layer1", "layer2", "layer3", "layer4")
        return [b for name in stages for b in self.network.get_submodule(name).children()]


@register(name="resnet18")
class ResNet18Model(_ResNetModel):
    builder = staticmethod(resnet18)


@register(name="resnet50")
class ResNet50Model(_ResNetModel):
    builder = staticmethod(resnet50)
