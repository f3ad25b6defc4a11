"""Weights to start from: by torchvision's name, downloaded once, or from a local file."""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import UnpicklingError
from types import SimpleNamespace
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from clf.config.weights import FILE_ENDINGS

OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)
# Where a checkpoint has the network's tensors, and beside them often its script's arguments
HELD_AS = ("state_dict", "model", "model_state_dict")
ARGUMENTS = (SimpleNamespace, "argparse.Namespace")
# What a model around the network puts before each name: ours, DDP, many a LightningModule, compile
WRAPPED_AS = ("network.", "module.", "model.", "_orig_mod.")
Head = str | Sequence[str] | None
Fitted = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def load_pretrained(
    network: nn.Module,
    architecture: str,
    weights: str | None,
    head: Head,
    fitted: Fitted = lambda state: state,
) -> None:
    """Fill all of `network` but its head.

    Args:
        architecture: torchvision's name, such as "resnet18"
        weights: a weights name (IMAGENET1K_V2), a local file, or None for the architecture's
        default
        head: name of the submodule that maps features to classes, or of several; it keeps its
            fresh initialisation
        fitted: changes the weights before they are loaded, such as for another image size

    Raises:
        ValueError: unknown name, no such file, download failed, or weights of another architecture
    """
    if weights is not None and weights.endswith(FILE_ENDINGS):
        load_file(network, weights, head, fitted)
    else:
        path = fetch(architecture, weights)
        _fill(network, _read(path), head, path, fitted)


def load_file(
    network: nn.Module, weights: str, head: Head, fitted: Fitted = lambda state: state
) -> None:
    """Fill all of `network` but its head from a local file; arguments and errors as above.

    Args:
        head: None: the network has none
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ValueError(
            f"model.weights={weights}: no such file. "
            f"Give a {'/'.join(FILE_ENDINGS)} file, or a name that torchvision knows"
        )
    _fill(network, _read(path), head, path, fitted)


def named_weights(architecture: str, name: str | None) -> WeightsEnum:
    """torchvision's entry for a name; None is the default. ValueError lists the valid names."""
    known = get_model_weights(architecture)
    if name is None:
        return known["DEFAULT"]
    if name not in known.__members__:
        raise ValueError(
            f"model.weights={name}: {architecture} has {', '.join(known.__members__)}; "
            f"or give a local file that ends in {', '.join(FILE_ENDINGS)}"
        )
    return known[name]


def fetch(architecture: str, weights: str | None) -> Path:
    """The file of weights that torchvision names, downloaded if it is not there yet.

    Raises:
        ValueError: unknown name, download failed, or a damaged file
    """
    return _download(named_weights(architecture, weights))


def _download(weights: WeightsEnum) -> Path:
    path = cached_file(weights)
    if path.is_file():  # also one that the user put there by hand, where there is no network
        expected = path.stem.rsplit("-", 1)[-1]
        if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(expected):
            raise ValueError(
                f"{path} is damaged (its SHA-256 does not begin with {expected}): delete it"
            )
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            weights.url, str(path), hash_prefix=path.stem.rsplit("-", 1)[-1], progress=False
        )
    except (URLError, OSError) as error:
        raise ValueError(
            f"model.pretrained: could not download {path.name} ({error}). On a machine with "
            f"internet, fetch {weights.url} and put it at {path}; "
            "or set model.weights=/path/to/file.pth, or model.pretrained=false"
        ) from error
    return path


def cached_file(weights: WeightsEnum) -> Path:
    """Where torch.hub keeps the file of these weights ($TORCH_HOME moves it)."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)


def _read(path: Path) -> dict[str, Tensor]:
    """The network's tensors from a plain state dict, or from a checkpoint that holds one: of ours,
    of Lightning, or of torchvision's and others' scripts."""
    try:
        with torch.serialization.safe_globals([ARGUMENTS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(
            f"model.weights={path}: cannot be read as weights: {_why(error)}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"model.weights={path}: expected the state dict of a network or a checkpoint, got a "
            f"{type(content).__name__}"
        )
    held = (content[key] for key in HELD_AS if isinstance(content.get(key), dict))
    state = next(held, content)
    if others := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"model.weights={path}: expected tensors by their names, or a dictionary of them as "
            f"{' or '.join(HELD_AS)}; {', '.join(map(str, others[:3]))} is something else. "
            "torch.save(network.state_dict(), PATH) writes what is needed"
        )
    return state


def _why(error: Exception) -> str:
    """torch's message, which otherwise advises to run the code that a file holds."""
    if found := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
        return (
            f"it holds {found[1]}, and reading that would run code of the file. Write its tensors "
            "alone: torch.save(network.state_dict(), PATH)"
        )
    return str(error)


def _unwrapped(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Names as the network has them: a model around it puts its own word before each."""
    own = list(network.state_dict())
    for word in WRAPPED_AS:
        inside = {
            key.removeprefix(word): value for key, value in state.items() if key.startswith(word)
        }
        if inside and not any(key.startswith(word) for key in own):
            return _unwrapped(inside, network)
    return state


def _fill(
    network: nn.Module, state: dict[str, Tensor], head: Head, path: Path, fitted: Fitted
) -> None:
    heads = [head] if isinstance(head, str) else list(head or ())
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    state = fitted(_with_versions(_renamed(_unwrapped(state, network)), network))
    for key in [key for key in state if _is_in(key, heads) or _is_left_out(key, network)]:
        del state[key]
    wrong = [key for key, value in state.items() if shapes.get(key, value.shape) != value.shape]
    for key in wrong:
        del state[key]
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [key for key in missing if not _is_in(key, heads) and key not in wrong]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # in old files
    if missing or unexpected or wrong:
        raise ValueError(
            f"{path} does not fit this {type(network).__name__}: {len(missing)} tensors are "
            f"missing {missing[:3]}, {len(unexpected)} are unknown {unexpected[:3]}, {len(wrong)} "
            f"have another shape {wrong[:3]}. Are they the weights of another architecture?"
        )


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's files of DenseNet have names of before a module's name could hold no dot."""
    for key in [key for key in state if OLD_DENSENET.match(key)]:
        state[OLD_DENSENET.sub(r"\1\2", key)] = state.pop(key)
    return state


def _with_versions(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state dict that torch saved says of which version each module's part is; any other is
    taken for one of the network's own versions."""
    if isinstance(state, OrderedDict):
        return state
    own = network.state_dict()
    own.clear()
    own.update(state)
    return own


def _is_left_out(key: str, network: nn.Module) -> bool:
    """Whether a tensor belongs to an auxiliary head, which this network was built without."""
    part = key.split(".")[0]
    return part.lower().startswith("aux") and getattr(network, part, ...) is None


def _is_in(key: str, modules: Sequence[str]) -> bool:
    return key.startswith(tuple(f"{module}." for module in modules))
