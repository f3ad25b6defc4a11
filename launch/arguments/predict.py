"""The words of predict.py."""

from pathlib import Path

from launch.arguments.parser import Parser, add_run_or_checkpoint, parser

EXAMPLES = """\
  python launch/predict.py runs/NAME photo.jpg                the most probable classes of an image
  python launch/predict.py runs/NAME /my/images --out labels.csv
  python launch/predict.py runs/NAME 'photos/**/*.jpg' more.tar --out labels.parquet
  find photos -newer last.csv | python launch/predict.py runs/NAME - --out labels.jsonl
"""


def predict_parser() -> Parser:
    command = parser(
        "Label images with a run's best checkpoint, or a checkpoint file. Exit code 1 if an image "
        "cannot be read; the others are labelled all the same.",
        EXAMPLES,
    )
    add_run_or_checkpoint(command)
    command.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="image, folder (with all folders in it), pattern, tar file that is not compressed, or "
        "- for a list of these on standard input, one a line",
    )
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="write a row an image: .csv, .jsonl or .parquet"
    )
    command.add_argument(
        "--top-k", type=int, default=5, metavar="K", help="classes of each image; default: 5"
    )
    command.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images of a forward pass; default: as in the run's evaluations",
    )
    command.add_argument(
        "--device",
        default="auto",
        metavar="auto|cpu|cuda|cuda:N",
        help="default: auto, a GPU where there is one",
    )
    command.add_argument(
        "--tta",
        action="store_true",
        help="mean of the probabilities of each image and of its mirror image; refused where the "
        "run was trained without mirror images",
    )
    return command
