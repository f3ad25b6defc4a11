"""Look at every image of a data set for what would stop or falsify a run on it.

python launch/check_data.py /my/images --fix-list bad.txt
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # this checkout, not an installed clf
    from launch.arguments.check_data import check_data_parser
    from launch.command import answer_help

    answer_help(check_data_parser())

from clf.atomic import write_text
from clf.data import label_errors, likeness
from launch.arguments.check_data import check_data_parser
from launch.arguments.parser import parse
from launch.command import run_command
from launch.runs.check import (
    data_to_check,
    look_at_images,
    splits_of,
    write_fix_list,
    write_report,
)
from launch.runs.label_errors import add_suspects, data_of, runs_to_ask, score_labels
from launch.terminal.data_page import page
from launch.terminal.data_report import print_report, progress_bar
from launch.terminal.screen import announce, console, exit_code, fail, print_fields


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: nothing would stop or falsify a run; 1: something would; 2: something to correct
    in the command, or no images."""
    return exit_code(_check, parse(check_data_parser(), argv))


def _check(arguments: argparse.Namespace) -> int:
    # argparse takes what stands behind the runs for runs, too.
    settings = [*arguments.settings, *(word for word in arguments.run if "=" in word)]
    names = [word for word in arguments.run if "=" not in word]
    if reason := (not arguments.exact and likeness.missing()) or (names and label_errors.missing()):
        return fail(reason)
    if arguments.suspects and not (names and arguments.fix_list):
        return fail("--suspects: goes with --fix-list FILE and --run RUN; give both")
    if arguments.workers is not None and arguments.workers < 1:
        return fail(f"--workers {arguments.workers}: expected at least 1")
    runs = runs_to_ask(names)
    cfg = data_of(runs[0], arguments.root) if runs and not settings else None
    cfg = cfg or data_to_check(arguments.root, settings)
    splits, faults = splits_of(cfg)
    folder = arguments.out or Path("data_check", Path(cfg.root or "").name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return fail(f"--out {folder}: cannot be made ({error.strerror}); give another folder")
    out = console()
    try:
        with progress_bar(out, sum(map(len, (splits.train, splits.val, splits.test)))) as progress:
            report, facts = look_at_images(
                cfg, splits, faults, folder, not arguments.exact, arguments.workers, progress
            )
    except KeyboardInterrupt:
        out.print(f"\nStopped. {folder} keeps what is known; the same command goes on from there.")
        return 130
    if runs:
        score_labels(cfg, splits, facts, runs, report, folder, announce)
    if arguments.suspects:
        add_suspects(report)
    print_report(out, report)
    files: dict[str, str | None] = {
        "report": str(write_report(report, folder)),
        "page": str(folder / "index.html"),
    }
    write_text(folder / "index.html", page(report))
    if arguments.fix_list is not None:
        write_fix_list(report, arguments.fix_list, folder)
        files["leave out"] = f"data.exclude={arguments.fix_list} ({len(report.fix_list)} images)"
    print_fields(out, files)
    return 1 if report.spoils else 0


if __name__ == "__main__":
    run_command(main)
