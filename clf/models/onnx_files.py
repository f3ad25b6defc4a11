"""ONNX files: written from a program of torch.export, run by onnxruntime, and made of 8-bit
integers.

B images, C classes. torch and ONNX's packages are imported inside the functions: most of the
project runs without the latter.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

INPUT, OUTPUT = "images", "probabilities"
LARGEST = 2**31  # bytes of a protocol buffer
# Layers that are worth computing in integers; softmax and normalisation are not.
QUANTISED = ("Conv", "Gemm", "MatMul")


def write_onnx(
    program: "torch.export.ExportedProgram", path: Path, metadata: dict[str, str]
) -> None:
    """Write a program as one ONNX file with `metadata` in it.

    Raises:
        ImportError: a package is missing
        ValueError: the weights do not fit one file
    """
    import onnx
    import torch

    exported = torch.onnx.export(
        program,
        (),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        optimize=True,
        verbose=False,
    )
    assert exported is not None
    weights = sum(one.numel() * one.element_size() for one in program.state_dict.values())
    if weights >= LARGEST:
        raise ValueError(f"its weights have {weights / 2**30:.1f} GiB, and an ONNX file holds 2")
    model = exported.model_proto
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    _set_metadata(model, metadata)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def read_onnx(path: Path, threads: int = 0) -> Any:
    """[B, 3, H, W] uint8 -> [B, C] float32, by onnxruntime on the CPU."""
    session = session_of(path, threads)
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def session_of(path: Path, threads: int = 0) -> Any:
    """An onnxruntime session on the CPU; 0 threads: one a core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    # From bytes: under its unfinished name the file has another ending.
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )


def metadata_of(path: Path) -> dict[str, str]:
    """What `write_onnx` was given."""
    return session_of(path).get_modelmeta().custom_metadata_map


def is_convolutional(path: Path) -> bool:
    """Whether most weights of the network are those of convolutions."""
    import onnx

    graph = onnx.load(path).graph
    sizes = {one.name: int(np.prod(one.dims)) for one in graph.initializer}
    weights = dict.fromkeys(QUANTISED, 0)
    for node in graph.node:
        if node.op_type in weights:
            weights[node.op_type] += max((sizes.get(name, 0) for name in node.input), default=0)
    return weights["Conv"] * 2 > sum(weights.values())


def quantise(source: Path, path: Path, images: Iterator[np.ndarray] | None) -> None:
    """Write an ONNX file again with 8-bit integers.

    Args:
        source: of `write_onnx`
        images: batches from which the range of each activation is taken, once for all
            ("static"); None: it is taken of each image anew ("dynamic"), and only matrix products
            become integers, since convolutions would get slower
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        simpler, quantised = Path(folder, "simpler.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(str(source), str(simpler), skip_symbolic_shape=True)
        if images is None:
            quantize_dynamic(
                str(simpler),
                str(quantised),
                op_types_to_quantize=["Gemm", "MatMul"],
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        else:
            quantize_static(
                str(simpler),
                str(quantised),
                _Batches(images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTISED),
                per_channel=True,
                weight_type=QuantType.QInt8,
                activation_type=QuantType.QUInt8,
            )
        model = onnx.load(quantised)
        known = {one.key: one.value for one in onnx.load(source).metadata_props}
        _set_metadata(model, known)
        path.write_bytes(model.SerializeToString())


class _Batches:
    """Images as the quantiser asks for them."""

    def __init__(self, batches: Iterator[np.ndarray]) -> None:
        self.rest = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.rest, None)
        return None if images is None else {INPUT: images}


def _set_metadata(model: Any, metadata: dict[str, str]) -> None:
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
