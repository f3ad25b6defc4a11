"""A trained network as one file that other programs run: uint8 images in, probabilities out.

Normalisation, softmax and, where asked for, resize and centre crop are parts of what is written, so
that nobody has to repeat them. `write` writes a format, `read` gives back a function from images to
probabilities, which runs the file itself.

B images, 3 channels of RGB, H x W or S x S pixels, C classes.
"""

import hashlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from clf.models.base import BaseClassificationModel
from clf.models.exported import Run
from clf.models.onnx_files import read_onnx, write_onnx
from clf.models.resize import Crop, Resize

# What to do about a network that a format cannot hold
REMEDIES = {
    "onnx": "replace the operation in the network by one that ONNX has, or take --format "
    "torch_export, which runs with PyTorch alone",
    "torch_export": "take Python that depends on the values of pixels out of the network (an `if` "
    "on a tensor, .item()), or take --format torchscript",
    "torchscript": "take --format torch_export, which PyTorch has in its place",
    "safetensors": "evaluate the checkpoint itself with launch/evaluate.py",
}
EXAMPLES = 2  # images of the batch that is traced; a batch of 1 would be taken for a constant


class Probabilities(nn.Module):
    """Normalisation, network and softmax, without what only training needs. A model that has a
    `forward` of its own is taken whole."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: BaseClassificationModel) -> None:
        super().__init__()
        base = BaseClassificationModel
        whole = (type(model).forward, type(model).normalised) != (base.forward, base.normalised)
        self.whole = whole
        self.network: nn.Module = model if whole else model.network
        if not whole:
            self.register_buffer("mean", model.mean)
            self.register_buffer("std", model.std)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] uint8, or float32 in 0..255, to [B, C] float32."""
        if self.whole:
            logits = self.network(images)
        else:
            logits = self.network((images - self.mean) / self.std)
        return torch.softmax(logits.to(torch.float32), dim=1)


class Classifier(nn.Module):
    """What is exported.

    Args:
        model: of a checkpoint, with its weights; it is set to evaluate, in float32 on the CPU
        crop: resize and crop within; None: the images have S x S pixels

    Raises:
        ValueError: resize and crop in front of a model that normalises by itself
    """

    def __init__(self, model: BaseClassificationModel, crop: Crop | None = None) -> None:
        super().__init__()
        model.float().cpu().requires_grad_(False).eval()
        model.split_metrics = nn.ModuleDict()
        self.classify = Probabilities(model)
        self.resize = None if crop is None else Resize(crop)
        if crop is not None and self.classify.whole:
            raise ValueError(
                f"--with-resize: {type(model).__name__} has a forward() or normalised() of its "
                "own, which expects uint8 images; export it without --with-resize"
            )
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] uint8 to [B, C] float32."""
        if self.resize is not None:
            images = self.resize(images)
        return self.classify(images)

    def run(self, images: np.ndarray) -> np.ndarray:
        """The same by PyTorch, from and to NumPy."""
        return run_module(self, images)

    def run_cropped(self, images: np.ndarray) -> np.ndarray:
        """The same of images that the evaluation has resized and cropped."""
        return run_module(self.classify, images)

    def example(self, size: int) -> Tensor:
        """Images to trace with: noise, since a network may divide by what constant images lack."""
        width = size if self.resize is None else size + size // 3 + 1
        pixels = torch.randint(0, 256, (EXAMPLES, 3, size, width), generator=seeded())
        return pixels.to(torch.uint8)

    def program(self, size: int) -> torch.export.ExportedProgram:
        """The graph that torch.export finds, for any batch (and, with the resize, any size)."""
        any_size = {0: Dim.DYNAMIC}
        if self.resize is not None:
            any_size |= {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        with torch.no_grad():
            return torch.export.export(
                self, (self.example(size),), dynamic_shapes={"images": any_size}
            )


def threads() -> int:
    """Of the CPU, that PyTorch and onnxruntime use here."""
    return torch.get_num_threads()


def seeded() -> torch.Generator:
    """A generator that gives the same numbers in every export."""
    return torch.Generator().manual_seed(0)


@torch.inference_mode()
def run_module(module: Any, images: np.ndarray) -> np.ndarray:
    """The probabilities of a module of any kind."""
    return module(torch.from_numpy(images)).numpy()


def write(
    kind: str, classifier: Classifier, size: int, path: Path, metadata: dict[str, str]
) -> None:
    """Write a network as "onnx", "torch_export", "torchscript" or "safetensors".

    Args:
        size: S
        path: of the file, under any name
        metadata: texts by name, which the file carries with it

    Raises:
        ValueError: the network cannot be exported in this format; says why and what to do
    """
    with quiet():
        if kind in ("onnx", "torch_export"):
            with _explained(kind, REMEDIES["torch_export"]):
                program = classifier.program(size)
        with _explained(kind, REMEDIES[kind]):
            if kind == "onnx":
                write_onnx(program, path, metadata)
            elif kind == "torch_export":
                _save_program(program, path, metadata)
            elif kind == "torchscript":
                torch.jit.save(_scripted(classifier, size), str(path), _extra_files=metadata)
            else:
                _save_tensors(classifier.classify.network, path, metadata)


def read(kind: str, path: Path) -> Run:
    """What runs a file of `write`, of any format but safetensors, which holds no program."""
    with quiet():
        if kind == "onnx":
            return read_onnx(path, threads())
        if kind == "torch_export":
            module: Any = torch.export.load(io.BytesIO(path.read_bytes())).module()
        else:
            module = torch.jit.load(str(path))
    return lambda images: run_module(module, images)


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of the names and numbers of all weights, whatever file they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(model: BaseClassificationModel, path: Path) -> None:
    """Fill a model's network, its head too, with the tensors of a safetensors file."""
    from safetensors.torch import load_file

    model.network.load_state_dict(load_file(path))


def _save_program(
    program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]
) -> None:
    # Through memory: the file's own name does not end in .pt2 before it is finished.
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(metadata))
    path.write_bytes(buffer.getvalue())


def _scripted(classifier: Classifier, size: int) -> Any:
    if classifier.classify.whole:
        raise ValueError("the model has a forward() or normalised() of its own around its network")
    images = torch.randint(0, 256, (EXAMPLES, 3, size, size), generator=seeded()).to(torch.uint8)
    example = images if classifier.resize is None else images.float()
    traced = torch.jit.trace(classifier.classify, example, check_trace=False)
    if classifier.resize is None:
        return traced
    # Traced, the size of the example would be written into the resize.
    return torch.jit.script(nn.Sequential(torch.jit.script(classifier.resize), traced))


def _save_tensors(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    # Copies, since the format refuses tensors that share their memory
    tensors = {name: one.contiguous().clone() for name, one in network.state_dict().items()}
    save_file(tensors, path, metadata={"format": "pt", **metadata})


@contextmanager
def _explained(kind: str, remedy: str) -> Iterator[None]:
    """Whatever an exporter raises, as one message."""
    try:
        yield
    except ImportError as error:
        raise missing(error) from error
    except Exception as error:  # each exporter has errors of its own
        reason = _reason(error)
        raise ValueError(
            f"--format {kind}: this network cannot be exported so: {reason}. What to do: "
            f"{remedy}; or take --format safetensors, which any network has"
        ) from error


def missing(error: ImportError) -> ValueError:
    """The same said to a user who has not installed what exports."""
    return ValueError(
        f"the export needs the package {error.name}, which is not installed: "
        "pip install 'clf[export]'"
    )


def _reason(error: BaseException) -> str:
    """The first line that says something, of the error at the bottom."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300].rstrip(". ")


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own future and on what they try."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        # torch.export prints the whole graph to the screen when it fails.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
