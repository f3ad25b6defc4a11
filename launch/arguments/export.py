"""The words of export.py."""

import argparse
import difflib
from pathlib import Path

from launch.arguments.parser import Parser, add_data_settings, add_run_or_checkpoint, parser

FORMATS = ("onnx", "torch_export", "torchscript", "safetensors")
EXAMPLES = """\
  python launch/export.py runs/NAME                                   model.onnx, checked
  python launch/export.py runs/NAME --format onnx,torch_export        two files
  python launch/export.py runs/NAME --with-resize                     takes images of any size
  python launch/export.py runs/NAME --int8                            and model.int8.onnx, measured
  python launch/export.py runs/NAME --push me/digits                  and a Hugging Face repository
"""


def export_parser() -> Parser:
    command = parser(
        "Write a run's network as a file that other programs run, and check it on the run's own "
        "validation images.",
        EXAMPLES,
    )
    add_run_or_checkpoint(command)
    command.add_argument(
        "--format",
        type=_formats,
        metavar="FORMAT[,FORMAT]",
        help=f"{', '.join(FORMATS)}; default: onnx, and safetensors too with --push",
    )
    command.add_argument(
        "--with-resize",
        action="store_true",
        help="put the evaluation's resize and centre crop into the file too",
    )
    command.add_argument(
        "--int8", action="store_true", help="an ONNX file of 8-bit integers too, measured likewise"
    )
    command.add_argument(
        "--int8-kind",
        default="auto",
        choices=("auto", "static", "dynamic"),
        help="where the ranges of activations come from: training images, or each image anew; "
        "auto: static for convolutions, dynamic for transformers",
    )
    command.add_argument(
        "--images",
        type=int,
        default=1000,
        metavar="N",
        help="validation images to check with, evenly spaced (default 1000); 0: all of them",
    )
    command.add_argument(
        "--bound",
        type=float,
        default=1e-3,
        help="largest difference of a probability that is accepted (default 0.001)",
    )
    command.add_argument(
        "--int8-loss",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="largest loss of top-1 that --int8 may cost, of 1 (default 0.02)",
    )
    command.add_argument(
        "--without-images",
        action="store_true",
        help="check on noise, where the run's images are out of reach",
    )
    command.add_argument(
        "--output", type=Path, metavar="FOLDER", help="default: export/ in the run's folder"
    )
    command.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="write a Hugging Face repository; upload it if there is a token",
    )
    command.add_argument(
        "--public", action="store_true", help="with --push: a new repository is not private"
    )
    add_data_settings(command)
    return command


def _formats(text: str) -> tuple[str, ...]:
    """Names with commas between."""
    names = tuple(text.split(","))
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, 1)
            raise argparse.ArgumentTypeError(
                f"{name!r} is no format; expected one of {', '.join(FORMATS)}, or several with "
                "commas between" + (f"; did you mean {near[0]}?" if near else "")
            )
    return names
