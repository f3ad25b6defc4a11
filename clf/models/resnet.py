"""ResNet18 and ResNet50 of torchvision, with a head for the data's classes."""

from pathlib import Path

from torch import nn
from torchvision.models import resnet18, resnet50

from clf.config import register
from clf.models.base import BaseClassificationModel
from clf.models.pretrained import fetch, load_pretrained


class _ResNetModel(BaseClassificationModel):
    """`network.fc` is the head, new for `num_classes` whatever the weights were trained for."""

    builder = staticmethod(resnet18)

    @classmethod
    def fetch_weights(cls, weights: str | None) -> Path:
        """Download what `weights` names (None: the default), where a job may not be able to."""
        return fetch(cls.builder.__name__, weights)

    def build_network(self) -> nn.Module:
        return self.builder(num_classes=self.num_classes)

    def load_weights(self) -> None:
        load_pretrained(self.network, self.builder.__name__, self.hparams["weights"], head="fc")

    def recomputed_blocks(self) -> list[nn.Module]:
        stages = ("layer1", "layer2", "layer3", "layer4")
        return [b for name in stages for b in self.network.get_submodule(name).children()]


@register(name="resnet18")
class ResNet18Model(_ResNetModel):
    builder = staticmethod(resnet18)


@register(name="resnet50")
class ResNet50Model(_ResNetModel):
    builder = staticmethod(resnet50)
