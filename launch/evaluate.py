"""Score a checkpoint on a split: its numbers and its per-class table.

python launch/evaluate.py runs/digits-resnet18-20260102-030405 --predictions predictions.csv
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.evaluate import evaluate_parser
    from launch.command import answer_help

    answer_help(evaluate_parser())

from launch.arguments.evaluate import evaluate_parser
from launch.arguments.parser import parse
from launch.command import run_command
from launch.runs.evaluations import (
    data_settings,
    folder_of,
    keep,
    run_of,
    run_or_checkpoint,
    write_report,
)
from launch.runs.folders import shown
from launch.terminal.screen import console, exit_code, fail, is_live, print_fields, print_notes
from launch.terminal.summary import print_per_class
from slurm.environment import forget_ranks, many_of_this
from slurm.stage import stage


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command or the data; 1: the evaluation failed."""
    arguments = parse(evaluate_parser(), argv)
    if fault := many_of_this() or _fault(arguments.report):
        return fail(fault)
    print_notes(forget_ranks(), sys.stderr)
    return exit_code(_evaluate, arguments)


def _fault(report: Path | None) -> str | None:
    """What is wrong with --report; it takes a setting that stands behind it for its file."""
    if report in (None, Path()) or report.suffix in (".html", ".htm"):
        return None
    return f"--report {report}: expected a file that ends in .html, or the flag alone at the end"


def _evaluate(arguments: argparse.Namespace) -> int:
    data = data_settings(arguments.settings)
    path = run_or_checkpoint(arguments.run_or_checkpoint)
    out = console()
    out.print("[dim]importing torch and lightning ...[/dim]")
    from clf.scoring import evaluate  # imports torch

    result = evaluate(
        path, arguments.split, arguments.predictions, data, progress=is_live(out), stage=stage
    )
    print_fields(out, {"checkpoint": str(result.checkpoint)})
    print_notes(result.notes)
    print_per_class(out, result.per_class, result.split, result.scalars)
    for name, value in sorted(result.scalars.items()):
        out.print(f"  {name:<16} {value:.6f}", style="dim")
    files = {"predictions": str(arguments.predictions) if arguments.predictions else None}
    run = run_of(result.checkpoint)
    if arguments.report is not None and not (run and result.predictions):
        return fail(
            "--report: the report shows a run beside its evaluation; give a run folder, or a "
            "checkpoint in one, whose model returns logits"
        )
    if (result.other or arguments.report is not None) and run and result.predictions:
        folder = folder_of(run, result.cfg.data)
        try:
            keep(folder, result.predictions, result.per_class)
            files["kept in"] = shown(folder.path)
            if arguments.report is not None:
                out_file = None if arguments.report == Path() else arguments.report
                files["report"] = shown(write_report(run, folder, result, out_file))
        except OSError as error:
            print_notes([f"not kept in {folder.path}: {error.strerror}"], sys.stderr)
    print_fields(out, files)
    return 0


if __name__ == "__main__":
    run_command(main)
