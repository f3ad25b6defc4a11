"""Weights to start from: by torchvision's name, downloaded once, or from a local file."""

import hashlib
from pathlib import Path
from pickle import UnpicklingError
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

FILE_ENDINGS = (".pth", ".pt", ".ckpt")


def load_pretrained(network: nn.Module, architecture: str, weights: str | None, head: str) -> None:
    """Fill all of `network` but its head.

    Args:
        architecture: torchvision's name, such as "resnet18"
        weights: a weights name (IMAGENET1K_V2), a local file, or None for the architecture's
        default
        head: name of the submodule that maps features to classes; it keeps its fresh initialisation

    Raises:
        ValueError: unknown name, no such file, download failed, or weights of another architecture
    """
    if weights is not None and weights.endswith(FILE_ENDINGS):
        load_file(network, weights, head)
    else:
        path = fetch(architecture, weights)
        _fill(network, _read(path), head, path)


def load_file(network: nn.Module, weights: str, head: str | None) -> None:
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
    _fill(network, _read(path), head, path)


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
    """The network's tensors from a plain state dict, or from a Lightning checkpoint, one of ours
    included."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"model.weights={path}: cannot be read as weights: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"model.weights={path}: expected the state dict of a network or a checkpoint, got a "
            f"{type(content).__name__}"
        )
    state = content.get("state_dict", content)
    ours = {
        key.removeprefix("network."): value
        for key, value in state.items()
        if key.startswith("network.")
    }
    return ours or state


def _fill(network: nn.Module, state: dict[str, Tensor], head: str | None, path: Path) -> None:
    own = {key: value for key, value in network.state_dict().items() if not _is_in(key, head)}
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own and not _is_in(key, head)]
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or unexpected or wrong:
        raise ValueError(
            f"{path} does not fit this {type(network).__name__}: {len(missing)} tensors are "
            f"missing {missing[:3]}, {len(unexpected)} are unknown {unexpected[:3]}, {len(wrong)} "
            f"have another shape {wrong[:3]}. Are they the weights of another architecture?"
        )
    network.load_state_dict({key: state[key] for key in own}, strict=False)


def _is_in(key: str, module: str | None) -> bool:
    return module is not None and key.startswith(f"{module}.")
