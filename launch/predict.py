"""Label images with a trained network: files, folders, patterns, tar files.

python launch/predict.py runs/digits-resnet18-20260102-030405 photos --out labels.csv
"""

import argparse
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.predict import predict_parser
    from launch.command import answer_help

    answer_help(predict_parser())

from clf.data.found import find_images
from launch.arguments.parser import parse
from launch.arguments.predict import predict_parser
from launch.command import run_command
from launch.runs.evaluations import run_or_checkpoint
from launch.runs.labels import listed, out_fault, write_labels
from launch.terminal.labels import print_labels, print_unread
from launch.terminal.screen import console, exit_code, fail, is_live, print_fields, print_notes
from slurm.environment import forget_ranks, many_of_this


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: every image is labelled; 1: some could not be read; 2: something to correct in
    the command, or no image."""
    arguments = parse(predict_parser(), argv)
    if fault := many_of_this() or _fault(arguments):
        return fail(fault)
    print_notes(forget_ranks(), sys.stderr)
    return exit_code(_predict, arguments)


def _fault(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the flags, before anything takes time."""
    for flag, value in (("--top-k", arguments.top_k), ("--batch-size", arguments.batch_size)):
        if value is not None and value < 1:
            return f"{flag} {value}: expected at least 1"
    return out_fault(arguments.out) if arguments.out is not None else None


def _predict(arguments: argparse.Namespace) -> int:
    path = run_or_checkpoint(arguments.run_or_checkpoint)
    found = find_images(listed(arguments.paths, sys.stdin.buffer))
    print_notes(found.notes, sys.stderr)
    if not found.images:
        print_unread(found.unread)
        return fail("there is no image to predict; name files, folders or tar files of images")
    out = console()
    out.print("[dim]importing torch and lightning ...[/dim]")
    from clf.scoring import predict  # imports torch

    start = time.perf_counter()
    labelled = predict(
        path,
        found.images,
        arguments.top_k,
        arguments.batch_size,
        arguments.device,
        arguments.tta,
        progress=is_live(out),
    )
    seconds = time.perf_counter() - start
    print_labels(out, labelled, seconds)
    if arguments.out is not None:
        write_labels(labelled, arguments.out)
        print_fields(out, {"labels": str(arguments.out)})
    unread = found.unread | labelled.unread
    print_unread(unread)
    return 1 if unread else 0


if __name__ == "__main__":
    run_command(main)
