"""What SLURM says about jobs, with and without accounting, and ending them. Knows no runs."""

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from clf.config.slurm_words import seconds

ANSWER_S = 30  # a busy controller may need as long to answer
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING")
ACTIVE = ("CONFIGURING", "RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED", "SUSPENDED")
FORGOTTEN = ("Invalid job id", "not found")  # the second one for a task of an array
FORMAT = "%i|%T|%r|%N|%S|%l|%M"  # id, state, reason, nodes, start, limit, time used


class QueueError(RuntimeError):
    """SLURM did not answer or refused; the message holds its own words."""


@dataclass(frozen=True)
class QueuedJob:
    """A job as SLURM sees it."""

    job_id: str
    state: str  # SLURM's own word: PENDING, RUNNING, TIMEOUT, ...
    reason: str | None = None  # why it waits, or why it ended
    nodes: str | None = None  # node[1-2]
    starts: str | None = None  # expected or actual, as SLURM writes a time
    restarts: int | None = None
    exit_code: str | None = None  # status:signal
    out_of_time: bool = False  # it has run for its whole time limit

    @property
    def waits(self) -> bool:
        return self.state in WAITING

    @property
    def lives(self) -> bool:
        """Whether it is queued or running."""
        return self.state in WAITING or self.state in ACTIVE


def jobs(job_ids: Iterable[str]) -> dict[str, QueuedJob]:
    """Those of the given jobs that are in the queue, asked in one call.

    Raises:
        QueueError: no controller answers
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    # All jobs of the user: squeue fails for a list that names one which has left the queue.
    listing = ask(["squeue", "--me", "-h", "-r", "-a", "-o", FORMAT])
    found = [_from_squeue(line) for line in listing.splitlines()]
    return {job.job_id: job for job in found if job.job_id in wanted}


def job(job_id: str) -> QueuedJob | None:
    """A job in the queue or after its end: from the controller, which remembers it for some
    minutes, else from accounting. None if neither knows it.

    Raises:
        QueueError: no controller answers
    """
    try:
        shown = ask(["scontrol", "-o", "show", "job", job_id])
    except QueueError as error:
        if not any(word in str(error) for word in FORGOTTEN):
            raise
        return _from_accounting(job_id)
    return _from_scontrol(job_id, shown)


def lives(job_id: str) -> bool:
    """Whether the job is queued or running."""
    found = job(job_id)
    return found is not None and found.lives


def has_ended(job_id: str) -> bool:
    """Whether SLURM says that a job is over; False where it does not answer."""
    try:
        return not lives(job_id)
    except QueueError:
        return False


def cancel(job_id: str) -> None:
    """End a job, or take it out of the queue. Raises QueueError if SLURM refuses."""
    ask(["scancel", job_id])


def ask(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The output of one of SLURM's commands. Raises QueueError with its message if it fails.

    Args:
        environment: of the command; None: that of this process
    """
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise QueueError(f"{command[0]} is not on the PATH of this machine") from error
    except subprocess.TimeoutExpired as error:
        raise QueueError(f"{' '.join(command)}: no answer in {ANSWER_S} s") from error
    if done.returncode:
        raise QueueError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _from_squeue(line: str) -> QueuedJob:
    job_id, state, reason, nodes, starts, *_ = line.split("|")
    return QueuedJob(job_id, state, _given(reason), _given(nodes), _given(starts))


def _from_scontrol(job_id: str, text: str) -> QueuedJob | None:
    """Reads the first line, which is that of the array itself: `-o` writes one job per line."""
    fields = dict(re.findall(r"(\w+)=(\S*)", text.split("\n")[0]))
    if "JobState" not in fields:
        return None
    return QueuedJob(
        job_id,
        fields["JobState"],
        _given(fields.get("Reason", "")),
        _given(fields.get("NodeList", "")),
        _given(fields.get("StartTime", "")),
        int(fields.get("Restarts", 0)),
        fields.get("ExitCode"),
        (seconds(fields.get("RunTime", "")) or 0)
        >= _seconds_or_unlimited(fields.get("TimeLimit", "")),
    )


def _from_accounting(job_id: str) -> QueuedJob | None:
    command = ["sacct", "-n", "-P", "-X", "-j", job_id, "-o", "State,NodeList,Start,ExitCode"]
    try:
        lines = ask(command).splitlines()
    except QueueError:  # sacct fails on a cluster without accounting
        return None
    if not lines:
        return None
    state, nodes, starts, code = lines[-1].split("|")
    # "CANCELLED by 1000"
    return QueuedJob(job_id, state.split()[0], None, _given(nodes), _given(starts), None, code)


def _seconds_or_unlimited(text: str) -> float:
    found = seconds(text)
    return float("inf") if found is None else found


def _given(text: str) -> str | None:
    return None if text in ("", "None", "(null)", "N/A", "Unknown", "None assigned") else text
