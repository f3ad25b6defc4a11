"""After a job was submitted: what to type next, following it, and how it ended."""

import shlex
from pathlib import Path
from typing import Any

from launch.runs.folders import shown
from launch.terminal.follow import Follower, print_failure
from launch.terminal.summary import print_commands, print_next, print_result


def follow_job(out: Any, job: Any, run_dir: Path, resume: str, debug: str | None = None) -> int:
    """Show a job until its end; exit code 1 if it failed, 130 after Ctrl-C.

    Args:
        resume, debug: commands to go on with the run, and to step through it
    """
    go_on = [(resume, "go on where it stopped")]
    follower = Follower(out, job, run_dir)
    try:
        done = follower.follow()
    except KeyboardInterrupt:
        if follower.queued:
            out.print(f"\nJob {job.job_id} goes on.")
            print_commands(out, commands(run_dir))
        else:
            out.print("\nStopped: the job has ended with its last checkpoint.")
            print_commands(out, go_on)
        return 130
    if not done:
        print_failure(out, job, run_dir)
        step = [(debug, "step through it in one process")] if debug else []
        print_commands(out, go_on + step)
        return 1
    print_result(out, run_dir, follower.scalars())
    print_next(out, run_dir)
    return 0


def print_submitted(out: Any, job_id: str, run_dir: Path) -> None:
    """The number of a SLURM job and the commands that look after it."""
    out.print(f"\nsubmitted as SLURM job {job_id}")
    print_commands(out, commands(run_dir))


def commands(run_dir: Path) -> list[tuple[str, str]]:
    """What to type for a submitted run, each with its meaning."""
    run = shlex.quote(shown(run_dir))
    return [
        (f"python launch/jobs.py status {run}", "state, epoch, best top-1, time left"),
        (
            f"python launch/jobs.py logs {run} -f",
            "its log as it grows; the first error if it failed",
        ),
        (f"python launch/jobs.py cancel {run}", "end it; `resume` goes on later"),
    ]
