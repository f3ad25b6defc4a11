"""Write a run's network as a file that other programs run: ONNX, torch.export, TorchScript or
safetensors.

python launch/export.py runs/digits-resnet18-20260102-030405 --format onnx --int8
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.export import export_parser
    from launch.command import answer_help

    answer_help(export_parser())

from clf.config.faults import ConfigError
from launch.arguments.export import FORMATS, export_parser
from launch.arguments.parser import parse
from launch.command import run_command
from launch.runs.evaluations import data_settings
from launch.runs.export import Export, ExportedFile, Request, export
from launch.runs.folders import named, shown
from launch.runs.hub import Pushed, check_repository, push
from launch.terminal.screen import (
    console,
    exit_code,
    fail,
    print_columns,
    print_fields,
    print_notes,
)
from slurm.environment import many_of_this


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command, or a network that cannot be exported."""
    arguments = parse(export_parser(), argv)
    if fault := many_of_this():
        return fail(fault)
    return exit_code(_export, arguments, heading=False)


def _export(arguments: argparse.Namespace) -> int:
    if arguments.push:
        check_repository(arguments.push)
    if spaced := {arguments.run_or_checkpoint, *arguments.settings} & set(FORMATS):
        raise ConfigError(
            [f"{spaced.pop()}: write several formats as --format {','.join(FORMATS)}"]
        )
    given = Path(arguments.run_or_checkpoint).expanduser()
    path = given if given.is_file() else named(arguments.run_or_checkpoint, Path("runs"))
    out = console()

    def say(text: str) -> None:
        out.print(text, style="dim", markup=False)

    say("importing torch ...")
    result = export(path, _request(arguments), data_settings(arguments.settings), say)
    _print_export(out, result)
    if arguments.push:
        _print_pushed(
            out,
            push(result.folder, result.config, arguments.push, arguments.public),
            arguments.push,
        )
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    default = ("onnx", "safetensors") if arguments.push else ("onnx",)
    return Request(
        arguments.format or default,
        arguments.with_resize,
        arguments.int8_kind if arguments.int8 else None,
        arguments.images,
        arguments.bound,
        arguments.int8_loss,
        arguments.without_images,
        arguments.output,
    )


def _print_export(out: Any, result: Export) -> None:
    checkpoint = result.config["checkpoint"]
    average = ", a moving average of the weights" if checkpoint["averaged"] else ""
    threads = f"{result.threads} CPU thread{'s' * (result.threads != 1)}"
    fields: dict[str, str | None] = {
        "checkpoint": f"{shown(result.checkpoint)}, epoch {checkpoint['epoch']}{average}",
        "compared on": f"{result.shown_to}; times with {threads}",
    }
    print_fields(out, fields)
    first = result.files[0].difference
    top1 = "" if first.top1_of_checkpoint is None else f"{first.top1_of_checkpoint:.2%}"
    rows: list[tuple[str, ...]] = [
        ("the checkpoint", "", f"{result.checkpoint_ms:.2f}", "", "", top1)
    ]
    rows += [_row(file) for file in result.files]
    columns = ("file", "size", "ms/image", "largest difference", "changed predictions", "top-1")
    print_columns(out, columns, rows)
    if result.beside_evaluation is not None:
        largest, changed = result.beside_evaluation
        out.print(
            "The resize inside computes in floating point, the evaluation's in 8 bits. Beside the "
            f"evaluation, probabilities differ by up to {largest:.2g}; changed predictions: "
            f"{changed}.",
            markup=False,
        )
    names = ", ".join([*(file.path.name for file in result.files), "README.md", "config.json"])
    print_fields(out, {"written": f"{shown(result.folder)}: {names}"})
    print_notes(
        [
            f"{name} was written from other weights than these; export it again, or delete it"
            for name in result.stale
        ]
    )


def _row(file: ExportedFile) -> tuple[str, ...]:
    found = file.difference
    return (
        file.path.name,
        f"{file.bytes / 1e6:.1f} MB",
        f"{found.ms_per_image:.2f}",
        f"{found.largest_difference:.2g}",
        f"{found.changed_predictions} of {found.images}",
        "" if found.top1 is None else f"{found.top1:.2%}",
    )


def _print_pushed(out: Any, pushed: Pushed, repository: str) -> None:
    print_fields(out, {"repository": shown(pushed.folder), "uploaded": pushed.url})
    if pushed.url is None:
        out.print(
            "Not uploaded: there is no token. Set HF_TOKEN or log in with `hf auth login`, and "
            f"type the command again, or: hf upload {repository} {shown(pushed.folder)}",
            markup=False,
        )


if __name__ == "__main__":
    run_command(main)
