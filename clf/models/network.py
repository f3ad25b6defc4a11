"""Loss, optimizer and metrics around a network that somebody else's function or class builds: one
of torchvision's or timm's, or a plain `torch.nn.Module` of the user's.
"""

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision.models import VisionTransformer
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.ops import StochasticDepth

from clf.config.faults import show
from clf.config.networks import ARGUMENTS, Network, accepts, bound, of_target
from clf.config.weights import is_file, size_argument
from clf.models.base import BaseClassificationModel
from clf.models.pretrained import fetch, load_pretrained

Builder = Callable[..., Any]
# Kinds of layers whose outermost ones `strategy.gradient_checkpointing` computes again
BLOCKS = re.compile(
    r"Block(V2)?$|^Bottleneck|MBConv$|^InvertedResidual|^EdgeResidual|^MaxVitLayer$"
)


class NetworkModel(BaseClassificationModel):
    """A model whose network is `builder(num_classes=C, **arguments)`; `network_class` makes the
    class of a builder.

    Args:
        arguments: of the builder, as plain values
    """

    builder: ClassVar[Builder]

    def __init__(self, arguments: dict[str, Any] | None = None, **settings: Any) -> None:
        super().__init__(**settings)

    @property
    def known(self) -> Network | None:
        """The network as the catalogue of torchvision and timm has it."""
        return of_target(_path(type(self).builder))

    def build_network(self) -> nn.Module:
        arguments = dict(self.hparams["arguments"] or {})
        name, known = "stochastic_depth_prob", self.known
        fixed = bound(known, name) if known is not None else None
        wanted = arguments.pop(name) if fixed is not None and name in arguments else None
        network = self._built(arguments)
        if fixed and wanted is not None:  # the builder lets nobody set it
            for module in network.modules():
                if isinstance(module, StochasticDepth):
                    module.p *= wanted / fixed
        return network

    def _built(self, arguments: Mapping[str, Any]) -> nn.Module:
        given = {"num_classes": self.num_classes, **arguments}
        path = _path(type(self).builder)
        try:
            network = type(self).builder(**given)
        except (TypeError, ValueError, AssertionError, RuntimeError) as error:
            raise ValueError(
                f"model._target_={path}: cannot be built with {show(given)}: {error}"
            ) from error
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"model._target_={path}: gave a {type(network).__name__}, expected a "
                "torch.nn.Module from images to logits"
            )
        return network

    # --- weights to start from ---

    def load_weights(self) -> None:
        weights, known = self.hparams["weights"], self.known
        if is_file(weights):
            super().load_weights()
        elif known is None:
            raise ValueError(
                f"model.pretrained=true: {_path(type(self).builder)} knows no weights to download; "
                "give a file as model.weights=/path/to/file.pth, or set model.pretrained=false"
            )
        elif known.library == "torchvision":
            load_pretrained(self.network, known.name, weights, self.heads(), self.fitted)
        else:
            self.network = self._from_hub(weights)

    def heads(self) -> list[str]:
        """Several in a network that is distilled."""
        named = getattr(self.network, "pretrained_cfg", {}).get("classifier")
        if named:
            return [named] if isinstance(named, str) else list(named)
        return super().heads()

    def fitted(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights for this network's image size, by its library's own interpolation."""
        network, key = self.network, "encoder.pos_embedding"
        if isinstance(network, VisionTransformer):
            if key in state and state[key].shape != network.state_dict()[key].shape:
                size, patch = network.image_size, network.patch_size
                state = interpolate_embeddings(size, patch, state)  # type: ignore[arg-type]
            return state
        module = sys.modules[type(self).builder.__module__]
        convert = getattr(module, "checkpoint_filter_fn", None)
        if convert is None or self.known is None:
            return state
        takes_network = len(inspect.signature(convert).parameters) > 1
        return convert(state, network) if takes_network else convert(state)

    def _from_hub(self, tag: str | None) -> nn.Module:
        """The network with the weights that timm downloads, and a new head."""
        arguments = {**(self.hparams["arguments"] or {}), "pretrained": True}
        if tag is not None:
            arguments["pretrained_cfg"] = tag
        path = _path(type(self).builder)
        try:
            network = type(self).builder(num_classes=self.num_classes, **arguments)
        except Exception as error:  # whatever the hub's client raises
            raise ValueError(
                f"model.{f'weights={tag}' if tag else 'pretrained=true'}: the weights of {path} "
                f"could not be loaded ({' '.join(str(error).split())[:300]}). On a machine with "
                "internet, run this once with the same HF_HOME, which the job must see; or set "
                "model.weights=/path/to/file.pth, or model.pretrained=false"
            ) from error
        if network.pretrained_cfg["num_classes"] == self.num_classes:
            network.reset_classifier(self.num_classes)  # else it is new already
        return network

    @classmethod
    def fetch_weights(cls, weights: str | None) -> None:
        """Download what `weights` names (None: the default), where a job may not be able to."""
        known = of_target(_path(cls.builder))
        if known is not None and known.library == "torchvision":
            fetch(known.name, weights)
        elif known is not None:
            cls(num_classes=2, pretrained=True, weights=weights)

    def recomputed_blocks(self) -> list[nn.Module]:
        """The residual blocks of torchvision's and timm's networks."""
        outermost: list[nn.Module] = []

        def look(module: nn.Module) -> None:
            for child in module.children():
                if BLOCKS.search(type(child).__name__):
                    outermost.append(child)
                else:
                    look(child)

        if self.known is not None:
            look(self.network)
        return outermost


def network_class(builder: Builder) -> type[NetworkModel]:
    """The model class of a function or class that builds a network."""
    return type("NetworkModel", (NetworkModel,), {"builder": staticmethod(builder)})


def arguments_of(target: str, settings: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """What a network's builder gets beside the number of classes.

    Args:
        settings: those that the network adds to the model's
        image_size: pixels a side, for a network that must know
    """
    known = of_target(target)
    given = {name: value for name, value in settings.items() if value is not None}
    given |= given.pop(ARGUMENTS, {}) if known is not None else {}
    if known is None:
        return given
    if (argument := size_argument(known)) is not None:
        pair = argument == "input_size"
        given.setdefault(argument, (image_size, image_size) if pair else image_size)
    if known.library == "torchvision":
        # No auxiliary heads: the model has one loss. And no warning that the default will change.
        decided = {"aux_logits": False, "init_weights": True}
        taken = accepts(known)
        given = {name: value for name, value in decided.items() if name in taken} | given
    return given


def builds_network(made: Any, is_named: bool) -> bool:
    """Whether a `_target_` is a network, and not a model with loss and metrics.

    Args:
        is_named: it is registered, or a library's network; any other function may be one that makes
            a model, if it takes every setting
    """
    if isinstance(made, type):
        return issubclass(made, nn.Module) and not issubclass(made, BaseClassificationModel)
    kinds = [one.kind for one in inspect.signature(made).parameters.values()]
    return is_named or inspect.Parameter.VAR_KEYWORD not in kinds


def check_takes_classes(made: Builder) -> None:
    """ValueError if a function or class cannot be told the number of classes."""
    parameters = inspect.signature(made).parameters
    kinds = [one.kind for one in parameters.values()]
    if "num_classes" not in parameters and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(
            f"model._target_={_path(made)}: does not take num_classes, the number of outputs; give "
            "it the parameter num_classes"
        )


def _path(made: Any) -> str:
    return f"{made.__module__}.{made.__qualname__}"
