"""Score a checkpoint on a split: its numbers and its per-class table.

python launch/evaluate.py runs/digits-resnet18-20260102-030405 --predictions predictions.csv
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # this file's own clf, not an installed one

from launch.arguments import fail, parse, parser

EXAMPLES = """\
  python launch/evaluate.py runs/NAME                                 best checkpoint, test split
  python launch/evaluate.py runs/NAME/checkpoints/last.ckpt --split val
  python launch/evaluate.py runs/NAME --predictions predictions.csv   what it said of each image
  python launch/evaluate.py runs/NAME data.root=/other/images         same classes, other images
"""


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: something to mend in the command or the data; 1: the evaluation failed."""
    made = parser("Score a run's best checkpoint, or a checkpoint file, on one device.", EXAMPLES)
    made.add_argument(
        "run_or_checkpoint",
        metavar="RUN_OR_CHECKPOINT",
        help="run folder, its name, or a .ckpt file",
    )
    made.add_argument(
        "--split",
        choices=("val", "test", "train"),
        help="default: test where there is one, else val",
    )
    made.add_argument(
        "--predictions", type=Path, metavar="FILE.csv", help="write what it said of each image"
    )
    made.add_argument(
        "settings",
        nargs="*",
        metavar="data.key=value",
        help="settings of the data, such as data.root",
    )
    arguments = parse(made, argv)

    from clf.config.faults import is_for_the_user

    try:
        return _evaluate(arguments)
    except ValueError as error:
        if not is_for_the_user(error):
            raise
        return fail(error)


def _evaluate(arguments: argparse.Namespace) -> int:
    from launch.terminal.summary import console, print_table

    data = _data_settings(arguments.settings)
    path = _find(arguments.run_or_checkpoint)
    out = console()
    out.print("[dim]importing torch and lightning ...[/dim]")
    from clf.run import evaluate

    result = evaluate(path, arguments.split, arguments.predictions, data)
    out.print(f"[dim]checkpoint[/dim]  {result.checkpoint}", soft_wrap=True)
    print_table(out, result.per_class, result.split, result.scalars)
    for name, value in sorted(result.scalars.items()):
        out.print(f"  {name:<16} {value:.6f}", style="dim")
    if arguments.predictions:
        out.print(f"[dim]predictions[/dim]  {arguments.predictions}", soft_wrap=True)
    return 0


def _find(text: str) -> Path:
    """A path as typed, or the name of a run in runs/."""
    path = Path(text).expanduser()
    return Path("runs", text) if not path.exists() and Path("runs", text).exists() else path


def _data_settings(texts: list[str]) -> dict[str, Any]:
    """`data.key=value` as fields of the data's config, checked as ever."""
    from clf.config import ConfigError
    from clf.config.assign import lay
    from clf.config.overrides import parse as parse_settings

    typed = parse_settings(texts)
    settings, faults = typed.settings, typed.faults
    cfg, more = lay(settings)
    faults += more
    for setting in settings:
        if not setting.key.startswith("data.") or setting.key.count(".") > 1:
            given = f"{setting.key}={setting.text}"
            faults.append(f"{given}: only the data may differ from the run's, such as data.root")
    if faults or cfg is None:
        raise ConfigError(faults)
    if cfg.data.root is not None:
        cfg.data.root = str(Path(cfg.data.root).expanduser().absolute())
    names = [setting.key.removeprefix("data.") for setting in settings]
    return {name: getattr(cfg.data, name) for name in names}


if __name__ == "__main__":
    sys.exit(main())
