"""The words of evaluate.py."""

from pathlib import Path

from launch.arguments.parser import Parser, add_data_settings, add_run_or_checkpoint, parser

EXAMPLES = """\
  python launch/evaluate.py runs/NAME                                 best checkpoint, test split
  python launch/evaluate.py runs/NAME/checkpoints/last.ckpt --split val
  python launch/evaluate.py runs/NAME --predictions predictions.csv   the prediction of each image
  python launch/evaluate.py runs/NAME data.root=/other/images --report
  python launch/evaluate.py runs/NAME data.root=/other/images         same classes, other images:
                                                                      all of them are scored
"""


def evaluate_parser() -> Parser:
    command = parser(
        "Score a run's best checkpoint, or a checkpoint file, on one device.", EXAMPLES
    )
    add_run_or_checkpoint(command)
    command.add_argument(
        "--split",
        choices=("val", "test", "train"),
        help="default: test if the data has one, else val; other data without splits are one",
    )
    command.add_argument(
        "--predictions", type=Path, metavar="FILE.csv", help="write the prediction of each image"
    )
    command.add_argument(
        "--report",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE.html",
        help="write the run's report with this evaluation in place of its own; default: "
        "report.html in the folder of the evaluation, runs/NAME/evaluations/DATA",
    )
    add_data_settings(command)
    return command
