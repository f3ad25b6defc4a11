"""Look after submitted runs: list, status, logs, cancel, resume, sync.

python launch/jobs.py status runs/digits-resnet18-20260102-030405
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).resolve().parents[1]
    )  # this file's own clf, not an installed one

from launch.arguments import Parser, fail

EXAMPLES = """\
examples:
  python launch/jobs.py list                        every run, newest last
  python launch/jobs.py status NAME                 where it is, and what is wrong
  python launch/jobs.py logs NAME -f                as it grows; what failed comes first
  python launch/jobs.py list --sweep NAME           a sweep's results
  python launch/jobs.py resume --sweep NAME         start again what failed
  python launch/jobs.py drill NAME                  does it survive? tried on a running job
  python launch/jobs.py sync                        upload what W&B has not got yet
"""


def main(argv: list[str] | None = None) -> int:
    """Exit code 2: no such run, or nothing to do for it; 1: it was tried and failed."""
    made = Parser(
        description=(__doc__ or "").split("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs"
    )
    commands = made.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(run=run)
        return command

    listing = add("list", _list, "runs with their state, epoch, best top-1 and time left")
    listing.add_argument("--sweep", metavar="NAME", help="only its runs, as a table of results")
    status = add("status", _status, "one run: state, reason, epoch, restarts, what is wrong")
    status.add_argument("name", metavar="RUN")
    logs = add("logs", _logs, "the log of a rank; of a failed run the first error first")
    logs.add_argument("name", metavar="RUN")
    logs.add_argument("-f", "--follow", action="store_true", help="as it grows, until the job ends")
    logs.add_argument("--rank", type=int, metavar="R", help="default: that failed first, else 0")
    logs.add_argument("--lines", type=int, default=100, metavar="N", help="default: the last 100")
    ended = add("cancel", _cancel, "end a job, or take it out of the queue")
    ended.add_argument("name", metavar="RUN")
    resume = add("resume", _resume, "start a run again where it stopped")
    resume.add_argument("name", metavar="RUN", nargs="?")
    resume.add_argument("--sweep", metavar="NAME", help="those of its runs that are not done")
    resume.add_argument(
        "--new-code", action="store_true", help="with the code as it is now, not its snapshot"
    )
    drill = add("drill", _drill, "preempt a running job for real, and see that all comes back")
    drill.add_argument("name", metavar="RUN")
    sync = add("sync", _sync, "upload what runs recorded offline, also while they write")
    sync.add_argument("name", metavar="RUN", nargs="*", help="default: all")
    arguments = made.parse_args(argv)

    from clf.config import ConfigError
    from slurm.queue import QueueError

    try:
        return arguments.run(arguments)
    except ConfigError as error:
        return fail("\n".join(error.faults))
    except QueueError as error:
        return fail(error, 1)


def _list(arguments: argparse.Namespace) -> int:
    from launch.runs.folders import all_runs, shown
    from launch.terminal.summary import console
    from launch.terminal.views import print_list, print_results
    from slurm.state import read_states

    if arguments.sweep:
        sweep = _sweep(arguments)
        print_results(console(), sweep, read_states(sweep.run_dirs))
        return 0
    found = all_runs(arguments.runs_dir)
    if not found:
        return fail(f"no runs in {shown(arguments.runs_dir)}; --runs-dir names another folder", 0)
    print_list(console(), read_states(found), arguments.runs_dir)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from launch.terminal.summary import console
    from launch.terminal.views import print_status
    from slurm.state import read_state

    print_status(console(), read_state(_named(arguments)))
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    from launch.terminal.logs import show_logs
    from launch.terminal.summary import console

    return show_logs(
        console(), _named(arguments), arguments.rank, arguments.lines, arguments.follow
    )


def _cancel(arguments: argparse.Namespace) -> int:
    from launch.runs.lifecycle import cancel

    print(cancel(_named(arguments)))
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    from clf.config import ConfigError
    from launch.runs.lifecycle import resume, resume_sweep
    from launch.terminal.summary import console

    if (arguments.name is None) == (arguments.sweep is None):
        raise ConfigError(["resume: name a run, or a sweep with --sweep NAME"])
    if arguments.sweep:
        return resume_sweep(console(), _sweep(arguments), arguments.new_code)
    return resume(console(), _named(arguments), arguments.new_code)


def _drill(arguments: argparse.Namespace) -> int:
    from launch.runs.drill import drill
    from launch.terminal.summary import console

    return drill(console(), _named(arguments))


def _sync(arguments: argparse.Namespace) -> int:
    from launch.runs.folders import all_runs, named
    from launch.runs.sync import sync

    paths = [named(name, arguments.runs_dir) for name in arguments.name]
    return sync(paths or all_runs(arguments.runs_dir))


def _named(arguments: argparse.Namespace) -> Path:
    from launch.runs.folders import named

    return named(arguments.name, arguments.runs_dir)


def _sweep(arguments: argparse.Namespace) -> Any:
    from clf.config import ConfigError
    from launch.runs.sweep import read_sweep

    for folder in (arguments.runs_dir / arguments.sweep, Path(arguments.sweep)):
        if (found := read_sweep(folder.absolute())) is not None:
            return found
    raise ConfigError([f"--sweep {arguments.sweep}: no such sweep in {arguments.runs_dir}"])


if __name__ == "__main__":
    sys.exit(main())
