"""The words of report.py."""

from pathlib import Path

from launch.arguments.parser import Parser, parser

EXAMPLES = """\
  python launch/report.py runs/NAME                  runs/NAME/report.html, and its pictures as PNG
  python launch/report.py runs/NAME --out page.html  ... somewhere else
  python launch/report.py runs/A runs/B              one page: B beside A, class by class
  python launch/report.py --sweep NAME               the runs of a sweep by their settings
"""


def report_parser() -> Parser:
    command = parser(
        "Write what a run has done as a page that any browser shows offline, from the run folder "
        "alone.",
        EXAMPLES,
    )
    command.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="run folder, or the name of a run; several: each beside the first",
    )
    command.add_argument("--sweep", metavar="NAME", help="the runs of a sweep")
    command.add_argument(
        "--out",
        type=Path,
        metavar="FILE.html",
        help="default: report.html in the run folder, or that of the sweep; of several runs "
        "compare-A-B.html beside the first",
    )
    return command
