"""The networks of torchvision and timm by name: where they are, and what they take. All of it is
read from the source of the installed packages; nothing is imported.

network = find("convnext_tiny")  # or find("timm/vit_small_patch16_224")
network.target, settings(network)
"""

import ast
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config.about import About
from clf.config.signatures import field_of
from clf.config.source import NO_TIMM, Argument, Source, folder, parameters, parsed

BUILDERS = re.compile(r"^@register_model\b.*\n(?:@.*\n)*def (\w+)", re.MULTILINE)
SIZES = ("image_size", "input_size")  # what torchvision calls the pixels a side of the input
# Not settings: they follow from the run, or belong to auxiliary heads, which are left out.
DECIDED = {
    "num_classes",
    "weights",
    "progress",
    "aux_logits",
    "dropout_aux",
    "init_weights",
    *SIZES,
}
HINTS: dict[str, Any] = {"bool": bool, "int": int, "float": float, "str": str}
HINTS |= {f"Optional[{name}]": kind | None for name, kind in HINTS.items()}
SHARE = ("dropout", "stochastic_depth_prob", "drop_rate")  # probabilities, by the end of their name
MEANINGS = {
    "stochastic_depth_prob": "probability of leaving out the last block; the earlier, the less",
    "dropout": "probability of dropout",
    "drop_rate": "probability of dropout",
    "attention_dropout": "probability of dropout among attention weights",
    "zero_init_residual": "let each residual block begin as the identity",
    "memory_efficient": "compute parts again in the backward pass",
    "width_mult": "factor of the number of channels",
}
TIMM_SETTINGS = {
    "drop_rate": "probability of dropout before the head; null: the network's own",
    "drop_path_rate": "probability of leaving out the last block; null: the network's own",
}
ARGUMENTS = "network_arguments"  # the setting that holds any other argument
# Our own classes -> the network of torchvision that they wrap
OWN = {
    "clf.models.resnet.ResNet18Model": "resnet18",
    "clf.models.resnet.ResNet50Model": "resnet50",
}


@dataclass(frozen=True)
class Network:
    """A function of a library that builds a network.

    Attributes:
        library: "torchvision" or "timm"
        name: of the function
        path: the file that it is in
    """

    library: str
    name: str
    path: Path

    @property
    def target(self) -> str:
        return f"{self.library}.models.{self.path.stem}.{self.name}"

    @property
    def choice(self) -> str:
        """What is typed after `--model`."""
        return f"timm/{self.name}" if self.library == "timm" else self.name


# --- names ---


@functools.cache
def names(library: str) -> dict[str, Path]:
    """Every network of a library -> the file that it is in; {} if it is not installed."""
    place = folder(library)
    if place is None:
        return {}
    found = {}
    for path in sorted((place / "models").glob("*.py")):
        for name in BUILDERS.findall(path.read_text(encoding="utf-8")):
            found[name] = path
    return found


def find(name: str) -> Network | None:
    """The network that `--model NAME` means, if it is one of a library's."""
    first, slash, rest = name.partition("/")
    library, own = ("timm", rest) if slash and first == "timm" else ("torchvision", name)
    path = names(library).get(own)
    return Network(library, own, path) if path else None


def of_target(target: str) -> Network | None:
    """The network of a `_target_`, which may leave out the file (torchvision.models.resnet34)."""
    if target in OWN:
        return find(OWN[target])
    library, _, rest = target.partition(".models.")
    if library not in ("torchvision", "timm"):
        return None
    module, _, name = rest.rpartition(".")
    path = names(library).get(name)
    return Network(library, name, path) if path and module in ("", path.stem) else None


def fault(name: str, registered: Sequence[str]) -> str | None:
    """What is wrong with a name that is nearly one of timm's, or None.

    Args:
        registered: names that mean something else
    """
    own = name.removeprefix("timm/")
    if name.startswith("timm/") and not names("timm"):
        return NO_TIMM
    network, _, tag = own.partition(".")
    if network not in names("timm") or name in registered:
        return None
    weights_too = f" model.weights={tag}" if tag else ""
    return f"is a network of timm; write model=timm/{network}{weights_too}"


def all_choices() -> list[str]:
    """What `--model` takes of the libraries, sorted."""
    return [*sorted(names("torchvision")), *(f"timm/{name}" for name in sorted(names("timm")))]


# --- what a network takes ---


@functools.cache
def settings(network: Network) -> dict[str, tuple[Any, Any]]:
    """Its own arguments as settings of the model: name -> (type, dataclass field)."""
    others = field_of({}, About("further arguments of the network's function: {name: value}"))
    if network.library == "timm":
        share = {
            name: (float | None, field_of(None, About(meaning, 0.0, 1.0)))
            for name, meaning in TIMM_SETTINGS.items()
        }
        return {**share, ARGUMENTS: (dict[str, Any], others)}
    taken = {name: _setting(name, one) for name, one in sorted(accepts(network).items())}
    return {
        **{name: typed for name, typed in taken.items() if typed is not None},
        ARGUMENTS: (dict[str, Any], others),
    }


def _setting(name: str, argument: Argument) -> tuple[Any, Any] | None:
    """The type and field of an argument that a text can give, else None."""
    if name in DECIDED or (argument.bound and name != "stochastic_depth_prob"):
        return None
    kind = HINTS.get(argument.hint) if argument.hint else type(argument.default)
    if kind not in HINTS.values():
        return None
    default = float(argument.default) if kind is float else argument.default
    is_share = name.endswith(SHARE)
    meaning = MEANINGS.get(name, "as torchvision has it")
    if name == "transform_input":  # the images as the weights of Inception want them
        kind, default = bool | None, None
        meaning = "normalise by mean and std 0.5; null: as the named weights want it"
    limits = About(meaning, 0.0, 1.0) if is_share else About(meaning)
    return kind, field_of(default, limits)


def bound(network: Network, name: str) -> float | None:
    """The value of an argument that the network's function sets itself and lets nobody else set."""
    argument = accepts(network).get(name) if network.library == "torchvision" else None
    return argument.default if argument is not None and argument.bound else None


@functools.cache
def accepts(network: Network) -> dict[str, Argument]:
    """Every argument of a network's function."""
    return source_of(network.path, network.library).accepts(network.name)


@functools.cache
def parameters_in(network: Network) -> set[str]:
    """The parameters of all functions and classes of the network's file: what is not among them is
    no argument of the network."""
    functions = ast.walk(parsed(network.path))
    return {
        name
        for one in functions
        if isinstance(one, ast.FunctionDef)
        for name, _, _ in parameters(one)
    }


@functools.cache
def source_of(path: Path, library: str) -> Source:
    """A file of a library, with the constants that it imports from its own package."""
    place = folder(library)
    assert place is not None, "the file was found there"
    if library == "torchvision":
        return Source(path)
    return Source(path, Source(place / "data" / "constants.py").values())
