"""What a file of weights holds: names and shapes, read without torch, so that a login node can say
what is wrong with a file before a job is queued. Nothing that a file names is imported or called.

    contents(Path("resnet18.pth"))  # {"state_dict": {"conv1.weight": Shape((64, 3, 7, 7)), ...}}
"""

import importlib.util
import io
import json
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

FILE_ENDINGS = (".pth", ".pt", ".ckpt", ".pth.tar", ".bin", ".safetensors")
SAFETENSORS = ".safetensors"
# What torch.load(weights_only=True) takes by itself
OF_TORCH = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.(cuda\.|sparse\.|cuda\.sparse\.)?\w+(Storage|Tensor)"
    r"|torch\.storage\.(Typed|Untyped)Storage|torch\.(Tensor|Size|device|per_\w+)"
    r"|torch\.(bool|half|float|double|short|int|long|(b?float|u?int|complex|q?u?int|bits)\d+\w*)"
)
# What it takes from us too, since scripts keep it beside the weights and it runs nothing: the
# arguments of a script, a best accuracy as NumPy has it, paths
PLAIN = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.ndarray",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "torch.torch_version.TorchVersion",
)
SAVE = "torch.save(network.state_dict(), PATH)"
MAGIC = 0x1950A86A20F9469CFC6C  # of a file of torch before 1.6, which is no zip
LARGEST_HEADER = 100_000_000  # bytes of a safetensors header, the format's own limit


class Shape(tuple):
    """The shape of a tensor that was not read."""

    @property
    def shape(self) -> "Shape":
        """Itself, as of a tensor."""
        return self


def is_shape(one: Any) -> bool:
    """Whether a value stands for a tensor."""
    return isinstance(one, Shape)


class _Inert:
    """Stands for an object that is not built: it takes everything and does nothing."""

    def __new__(cls, *arguments: Any, **words: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *arguments: Any, **words: Any) -> None:
        pass

    def append(self, one: Any) -> None:
        """Leaves out what a pickle would add."""

    def extend(self, more: Any) -> None:
        """The same for several."""

    def __setitem__(self, key: Any, one: Any) -> None:
        """The same for an entry."""

    def __setstate__(self, state: Any) -> None:
        """The same for attributes."""


class _Names(pickle.Unpickler):
    """Builds dictionaries, lists and plain values; of a tensor its shape, of all else nothing."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.foreign: list[str] = []  # what torch would refuse to build

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"  # as protocol 2 has it
        if path == "collections.OrderedDict":
            return OrderedDict
        if module == "torch._utils" and name.startswith("_rebuild_"):
            return REBUILT.get(name, _shapeless)
        if not OF_TORCH.fullmatch(path) and path not in PLAIN:
            self.foreign.append(path)
        return _Inert

    def persistent_load(self, pid: Any) -> Any:
        return _Inert()  # where a tensor's numbers are


def _shapeless(*arguments: Any) -> Shape:
    return Shape()


REBUILT: dict[str, Callable[..., Any]] = {
    "_rebuild_tensor": lambda storage, offset, size, *more: Shape(size),
    "_rebuild_tensor_v2": lambda storage, offset, size, *more: Shape(size),
    "_rebuild_tensor_v3": lambda storage, offset, size, *more: Shape(size),
    "_rebuild_parameter": lambda tensor, *more: tensor,
    "_rebuild_parameter_with_state": lambda tensor, *more: tensor,
}


def contents(path: Path) -> Any:
    """What a file holds, with a `Shape` in the place of each tensor.

    Raises:
        ValueError: it is no file of weights, is damaged, or cannot be read without running its code
    """
    if path.name.endswith(SAFETENSORS):
        return _safetensors(path)
    with path.open("rb") as file:
        start = file.read(512)
        file.seek(0)
        if fault := _other_kind(start):
            raise ValueError(fault)
        if start.startswith(b"PK"):
            tree, foreign = _of_zip(path)
        else:
            tree, foreign = _of_old_format(file)
    if foreign:
        raise ValueError(needs_code(foreign[0]))
    return tree


def needs_code(name: str) -> str:
    """Why a file that builds an object of `name` is refused."""
    return f"it holds {name}, and reading that would run code of the file. Write its tensors " + (
        f"alone: {SAVE}"
    )


def _other_kind(start: bytes) -> str | None:
    """What a file is, by its first bytes, if it is nothing that torch.save writes."""
    text = start.lstrip().lower()
    if not start:
        return "it is empty; copy or download it again"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, not a file of weights; download the file itself"
    if start[257:262] == b"ustar":
        return "it is a tar archive; unpack it and give the file of weights in it"
    if start.startswith((b"\x89HDF", b"\x1f\x8b", b"\x93NUMPY")):
        return f"it is an HDF5, gzip or NumPy file; expected what this writes: {SAVE}"
    return None


def _of_zip(path: Path) -> tuple[Any, list[str]]:
    """The content of a file of torch.save, and what its pickle would need to import."""
    try:
        with zipfile.ZipFile(path) as archive:
            inside = archive.namelist()
            pickled = next((one for one in inside if one.split("/")[1:] == ["data.pkl"]), None)
            if any(one.endswith("/constants.pkl") for one in inside):
                raise ValueError(
                    "it is a network of TorchScript (torch.jit.save); write its tensors alone: "
                    "torch.save(torch.jit.load(PATH).state_dict(), NEW)"
                )
            if pickled is None:
                raise ValueError(
                    f"it is a zip file that torch.save did not write; expected one of {SAVE}"
                )
            return _unpickled(io.BytesIO(archive.read(pickled)))
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"it is damaged or only a part of a file ({error}); copy or download it again"
        ) from error


def _of_old_format(file: IO[bytes]) -> tuple[Any, list[str]]:
    """The same for torch before 1.6: pickles of a number, a version, the machine, the content."""
    magic, _ = _unpickled(file)
    if magic != MAGIC:
        raise ValueError(f"it is a pickle that torch.save did not write; expected a file of {SAVE}")
    _unpickled(file)
    _unpickled(file)
    return _unpickled(file)


def _unpickled(file: IO[bytes]) -> tuple[Any, list[str]]:
    place = file.tell()
    protocol = file.read(2)
    file.seek(place)
    if len(protocol) == 2 and protocol[:1] == b"\x80" and protocol[1] > 3:
        raise ValueError(
            f"it was pickled with protocol {protocol[1]}, of which torch reads no weights alone; "
            f"leave out pickle_protocol: {SAVE}"
        )
    names = _Names(file)
    try:
        return names.load(), names.foreign
    except Exception as error:  # whatever a damaged pickle makes Python raise
        if names.foreign:
            return None, names.foreign
        raise ValueError(
            f"it is no file of weights, or a damaged one ({error}); expected what this writes: "
            f"{SAVE}"
        ) from error


def _safetensors(path: Path) -> dict[str, Any]:
    if importlib.util.find_spec("safetensors") is None:
        raise ValueError("reading it needs the package safetensors: pip install 'clf[safetensors]'")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = file.read(length) if length <= min(size, LARGEST_HEADER) else b""
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        shapes = {name: Shape(one["shape"]) for name, one in entries.items()}
        end = 8 + length + max((one["data_offsets"][1] for one in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        other = _other_kind(path.read_bytes()[:512] if size < 1000 else start)
        raise ValueError(other or "it is no safetensors file, or a damaged one") from error
    if end > size:
        raise ValueError(
            f"it is only a part of a file: {size} of {end} bytes; copy or download it again"
        )
    return shapes
