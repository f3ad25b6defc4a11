"""The words of check_data.py."""

from pathlib import Path

from launch.arguments.parser import Parser, parser

EXAMPLES = """\
  python launch/check_data.py /my/images                     what would stop or falsify a run
  python launch/check_data.py /my/images --fix-list bad.txt  ... for data.exclude=bad.txt
  python launch/check_data.py /my/images --run NAME          ... and labels that are probably wrong
  python launch/check_data.py /my/images data.exclude=bad.txt data.group_by=folder
"""


def check_data_parser() -> Parser:
    command = parser(
        "Look at every image of a data set for what would stop or falsify a run on it. Exit code 1 "
        "if there is such a thing. Stopped, the same command goes on where it was.",
        EXAMPLES,
    )
    command.add_argument("root", metavar="ROOT", type=Path, help="folder of images, or of lists")
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="of index.html, report.json and the cache; default: data_check/<name of ROOT>",
    )
    command.add_argument(
        "--fix-list",
        type=Path,
        metavar="FILE",
        help="write the images to leave out with data.exclude=FILE",
    )
    command.add_argument(
        "--run",
        nargs="+",
        action="extend",
        default=[],
        metavar="RUN",
        help="find labels that are probably wrong, with runs on this data, or a sweep: each judges "
        "the images that it was not trained on; without settings, those of the first run's data "
        "count",
    )
    command.add_argument(
        "--suspects",
        action="store_true",
        help="put the images that --run finds into the --fix-list too",
    )
    command.add_argument(
        "--exact",
        action="store_true",
        help="find copies by their bytes alone, not pictures that were saved anew",
    )
    command.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode; default: one a core"
    )
    command.add_argument(
        "settings",
        nargs="*",
        metavar="data.key=value",
        help="settings of the data, such as data.name, data.split_seed or data.group_by",
    )
    return command
