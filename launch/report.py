"""Write what a run has done as a page that any browser shows offline, from the run folder alone.

python launch/report.py runs/digits-resnet18-20260102-030405
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.report import report_parser
    from launch.command import answer_help

    answer_help(report_parser())

from clf.report import write_report
from launch.arguments.parser import parse
from launch.arguments.report import report_parser
from launch.command import run_command
from launch.runs.folders import named_run
from launch.terminal.screen import console, exit_code, fail, print_fields


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command or the run folder."""
    return exit_code(_report, parse(report_parser(), argv))


def _report(arguments: argparse.Namespace) -> int:
    runs = [named_run(word) for word in arguments.runs]
    if arguments.out is not None and arguments.out.suffix not in (".html", ".htm"):
        return fail(f"--out {arguments.out}: expected a file that ends in .html")
    if len(runs) > 1:
        return fail("expected one run")
    page = write_report(runs[0], arguments.out)
    found = {path.stem: str(path) for path in page_and_images(page)}
    print_fields(console(), {"report": str(page), **found})
    return 0


def page_and_images(page: Path) -> list[Path]:
    return [
        path for name in ("curves.png", "confusion.png") if (path := page.parent / name).exists()
    ]


if __name__ == "__main__":
    run_command(main)
