"""The words of dashboard.py."""

from pathlib import Path

from launch.arguments.parser import Parser, parser

EXAMPLES = """\
  python launch/dashboard.py NAME                 a workspace and a report of a run
  python launch/dashboard.py clf                  of all runs of the W&B project clf
  python launch/dashboard.py NAME --offline       write runs/NAME/wandb/dashboard.json alone
  python launch/dashboard.py --upload runs/NAME/wandb/dashboard.json
"""


def dashboard_parser() -> Parser:
    command = parser(
        "Build a dashboard in Weights & Biases: a workspace and a report with curves by run, the "
        "tables by class, the confusion matrix and the nodes. Without a key or a network its "
        "definition is written to a file, which --upload takes later.",
        EXAMPLES,
    )
    command.add_argument(
        "run_or_project",
        nargs="?",
        metavar="RUN|PROJECT",
        help="run folder or its name; else a project of W&B, as PROJECT or ENTITY/PROJECT",
    )
    command.add_argument("--offline", action="store_true", help="write the definition, no more")
    command.add_argument(
        "--upload", type=Path, metavar="FILE", help="upload a definition that was written before"
    )
    command.add_argument("--entity", metavar="NAME", help="W&B's user or team")
    command.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    return command
