"""The words of jobs.py and of its commands."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.arguments.parser import Parser, parser, refuse_empty
from launch.arguments.run import add_flags_of_going_on

EXAMPLES = """\
  python launch/jobs.py list                        every run, newest last
  python launch/jobs.py status NAME                 where it is, and what is wrong
  python launch/jobs.py logs NAME -f                as it grows; the first error comes first
  python launch/jobs.py list --sweep NAME           the results of a sweep
  python launch/jobs.py compare A B                 is B better than A, or only luckier?
  python launch/jobs.py resume NAME epochs=30       continue a run, here for more epochs
  python launch/jobs.py resume --sweep NAME         start again what failed
  python launch/jobs.py drill NAME                  preempt a running job and compare afterwards
  python launch/jobs.py sync                        upload what W&B does not have yet
"""


def jobs_parser() -> Parser:
    command = parser(
        "Look after runs: list, status, compare, logs, cancel, resume, drill, sync.", EXAMPLES
    )
    command.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str) -> Parser:
        one = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        one.flags = command.flags  # argparse reports an unknown flag to the outer parser
        return one

    listing = add("list", "runs with their state, epoch, best top-1 and time left")
    listing.add_argument("--sweep", metavar="NAME", help="only its runs, as a table of results")
    add("status", "one run: state, reason, epoch, restarts, what is wrong").add_argument(
        "name", metavar="RUN"
    )
    compare = add("compare", "runs beside the first: what differs by more than noise, settings too")
    compare.add_argument("name", metavar="RUN", nargs="+", help="two runs or more")
    logs = add("logs", "the log of a rank; if the run failed, the first error comes first")
    logs.add_argument("name", metavar="RUN")
    logs.add_argument("-f", "--follow", action="store_true", help="as it grows, until the job ends")
    logs.add_argument(
        "--rank", type=int, metavar="R", help="default: the rank that failed first, else 0"
    )
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="default: the last 100")
    add("cancel", "end a job, or take it out of the queue").add_argument("name", metavar="RUN")
    resume = add("resume", "continue a run where it stopped, with other settings if wanted")
    resume.add_argument(
        "words",
        nargs="*",
        metavar="RUN [key=value ...]",
        help="the run, and settings to change, such as epochs=30 data.micro_batch_size=16",
    )
    resume.add_argument("--sweep", metavar="NAME", help="all of its runs that are not done")
    resume.add_argument(
        "--new-code", action="store_true", help="use the code as it is now, not the run's snapshot"
    )
    add_flags_of_going_on(resume)
    drill = add("drill", "preempt a running job for real, and compare what comes back")
    drill.add_argument("name", metavar="RUN")
    sync = add("sync", "upload what runs recorded offline, also while they are running")
    sync.add_argument("name", metavar="RUN", nargs="*", help="default: all")
    return command


def parse_jobs(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """`parse` for the commands of jobs.py. argparse does not mix flags into the words of a command;
    here the words of `resume` may stand behind its flags too."""
    command = jobs_parser()
    command.typed = list(sys.argv[1:] if argv is None else argv)
    refuse_empty(command)
    arguments, rest = command.parse_known_args(command.typed)
    flags = [word for word in rest if word.startswith("-")]
    if flags or (rest and arguments.command != "resume"):
        command.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.words += rest
    return arguments
