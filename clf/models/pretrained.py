"""Weights to start from: by torchvision's name, downloaded once, or from a local file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model_weights

from clf.config.weight_entries import Entry, classes_of, entry_of, rows_of
from clf.config.weight_files import FILE_ENDINGS, PLAIN, SAFETENSORS, contents
from clf.models.filling import MOST, Fitted, fill, fill_heads, matched, new_heads, some


@dataclass(frozen=True)
class WeightFile:
    """A local file as a run asks for it.

    Attributes:
        path: as typed
        entry: as `wanted` of `clf.config.weight_entries.entry_of`
        strict: refuse a file of which less than three quarters fit, or that fills less
        head: its head is taken as well
    """

    path: str
    entry: str | None = None
    strict: bool = True
    head: bool = False


def load_pretrained(
    network: nn.Module,
    architecture: str,
    weights: str | None,
    heads: Sequence[str],
    fitted: Fitted = lambda state: state,
) -> None:
    """Fill all of `network` but its head with weights that torchvision names.

    Args:
        architecture: torchvision's name, such as "resnet18"
        weights: a weights name (IMAGENET1K_V2), or None for the architecture's default
        heads: names of the submodules that map features to classes; they keep their fresh
            initialisation
        fitted: changes the weights before they are loaded, such as for another image size

    Raises:
        ValueError: unknown name, download failed, or weights of another architecture
    """
    path = fetch(architecture, weights)
    try:
        found = matched(network, _entry(path).state)
        fill(network, found, heads, fitted, least=1)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_file(
    network: nn.Module,
    file: WeightFile,
    heads: Sequence[str],
    fitted: Fitted = lambda state: state,
) -> str:
    """Fill `network` but its head from a local file; `heads` and `fitted` as above.

    Returns:
        a line about what was taken, left out and stays new

    Raises:
        ValueError: no such file, one that holds no weights, or weights of another architecture
    """
    path = Path(file.path).expanduser()
    if not path.is_file():
        raise ValueError(
            f"model.weights={file.path}: no such file. "
            f"Give a {'/'.join(FILE_ENDINGS)} file, or a name that torchvision knows"
        )
    try:
        entry = _entry(path, file.entry)
        found = matched(network, entry.state)
        parts = fill(network, found, heads, fitted, MOST if file.strict else 0)
    except ValueError as error:
        raise ValueError(f"model.weights={file.path}: {error}") from error
    if entry.name:
        parts[0] += f", from its entry {entry.name}"
    if not file.head:
        parts += new_heads(network, found, heads)
    if entry.others:
        parts.append(
            f"it holds tensors as {some(entry.others)} too, which "
            f"model.weights_entry={entry.others[0]} takes"
        )
    return f"model.weights={file.path}: {'; '.join(parts)}"


def load_head(
    network: nn.Module, file: WeightFile, heads: Sequence[str], classes: Sequence[str]
) -> str:
    """Fill the heads of `network` too, the outputs of each class by its name.

    Args:
        heads: their names
        classes: of the data, in label order; the file must have them all

    Returns:
        a line about what was taken

    Raises:
        ValueError: the file has no class names or not all of these, or its head is of another kind
    """
    path = Path(file.path).expanduser()
    tree = _content(path)
    known = classes_of(tree)
    try:
        rows = rows_of(classes, known)
        assert known is not None
        found = matched(network, entry_of(tree, _is_tensor, file.entry).state)
        fill_heads(network, found, heads, rows, len(known))
    except ValueError as error:
        raise ValueError(f"model.weights_head=true: {file.path}: {error}") from error
    return (
        f"model.weights_head=true: took {', '.join(heads)} for {len(rows)} classes, by their names"
    )


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


def _is_tensor(one: Any) -> bool:
    return isinstance(one, Tensor)


def _entry(path: Path, wanted: str | None = None) -> Entry:
    """The network's tensors in a file."""
    return entry_of(_content(path), _is_tensor, wanted)


def _content(path: Path) -> Any:
    """What a file holds; ValueError if it is no file of weights, or would run code."""
    contents(path)  # says what is wrong better than torch does
    if path.name.endswith(SAFETENSORS):
        from safetensors.torch import load_file as load_safetensors

        return load_safetensors(path)
    try:
        with torch.serialization.safe_globals(_stand_ins()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"cannot be read as weights: {error}") from error


def _stand_ins() -> list[Any]:
    """What stands for each of `PLAIN`, for torch.load."""
    numpy_types = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    of_name = {
        "Namespace": SimpleNamespace,
        "SimpleNamespace": SimpleNamespace,
        "scalar": np.float64(0).__reduce__()[0],
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "PosixPath": PurePosixPath,
        "WindowsPath": PureWindowsPath,
        "TorchVersion": str,
    }
    dtypes = [type(np.dtype(one)) for one in numpy_types]
    return [*((of_name[path.rpartition(".")[2]], path) for path in PLAIN), *dtypes]
