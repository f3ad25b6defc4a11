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

from clf.report import read_run, write_report
from clf.report.comparison import write_comparison
from launch.arguments.parser import parse
from launch.arguments.report import report_parser
from launch.command import run_command
from launch.runs.folders import named
from launch.runs.sweep import find_sweep
from launch.terminal.screen import console, exit_code, fail, print_fields

RUNS = Path("runs")


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to correct in the command or the run folder."""
    return exit_code(_report, parse(report_parser(), argv))


def _report(arguments: argparse.Namespace) -> int:
    if bool(arguments.runs) == bool(arguments.sweep):
        return fail("expected one or more runs, or --sweep NAME")
    if arguments.out is not None and arguments.out.suffix not in (".html", ".htm"):
        return fail(f"--out {arguments.out}: expected a file that ends in .html")
    runs = [named(word, RUNS) for word in arguments.runs]
    if arguments.sweep or len(runs) > 1:
        return _several(runs, arguments.sweep, arguments.out)
    page = write_report(runs[0], arguments.out)
    found = {path.stem: str(path) for path in page_and_images(page)}
    print_fields(console(), {"report": str(page), **found})
    return 0


def _several(run_dirs: list[Path], sweep: str | None, out: Path | None) -> int:
    """One page of several runs: beside the first run's folder, or in that of the sweep."""
    swept = None
    if sweep is not None:
        chosen = find_sweep(sweep, RUNS)
        run_dirs = [path for path in chosen.run_dirs if path.is_dir()]
        swept, place = chosen.runs, chosen.folder / "report.html"
        if not run_dirs:
            return fail(f"--sweep {sweep}: none of its runs has begun yet")
    runs = [read_run(path) for path in run_dirs]
    if sweep is None:
        names = "-".join(run.name for run in runs[:3]) + ("-..." if len(runs) > 3 else "")
        place = run_dirs[0].parent / f"compare-{names}.html"
    print_fields(console(), {"report": str(write_comparison(runs, out or place, swept))})
    return 0


def page_and_images(page: Path) -> list[Path]:
    return [
        path for name in ("curves.png", "confusion.png") if (path := page.parent / name).exists()
    ]


if __name__ == "__main__":
    run_command(main)
