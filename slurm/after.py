"""The end of a job's batch script: does the job go into the queue again? The one owner of requeue.

    python -m slurm.after RUN CODE     # CODE: srun's exit code; exit code 75: requeue

It runs when all ranks are gone, on the node of the batch script, and imports no torch. Nobody else
requeues but SLURM itself, which does so when a node fails or a preempted job outstays its grace.
"""

import os
import sys
from pathlib import Path

from slurm import events, queue
from slurm.failures import diagnose
from slurm.job import EXIT_REQUEUE

IDLE_STARTS = 5  # in a row without a step: the queue would never see the end of it
# bash: without a trap the script would die of SIGTERM while the ranks still save; with -e, which a
# line of slurm.setup may have set, of srun's exit code.
TRAP = "trap : TERM USR1 USR2; set +e"


def requeue_lines(python: str) -> list[str]:
    """Lines of the batch script behind its srun, where `$run` is the run folder.

    Args:
        python: shell command that starts Python in the run's snapshot
    """
    return [
        "code=$?",
        f'{python} -m slurm.after "$run" "$code"',
        f"if [ $? -eq {EXIT_REQUEUE} ]; then",
        '  scontrol requeue "$SLURM_JOB_ID" && sleep 60  # until SLURM ends this script',
        "fi",
        'exit "$code"',
    ]


def main(argv: list[str]) -> int:
    """Exit code `EXIT_REQUEUE` asks the batch script to requeue the job."""
    run_dir, code = Path(argv[0]), int(argv[1])
    requeue, reason = decide(run_dir, code)
    print(f"clf: {'goes into the queue again' if requeue else 'ends'}: {reason}", flush=True)
    if code != 0:
        events.record(run_dir, "requeued" if requeue else "failed", reason=reason)
    return EXIT_REQUEUE if requeue else 0


def decide(run_dir: Path, code: int) -> tuple[bool, str]:
    """Whether to requeue, and why."""
    import yaml

    asked = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))["slurm"]
    if code == 0:
        return False, "finished"
    if _cancelled():
        return False, "cancelled"
    left = [one for one in events.last_start(run_dir) if one["event"] == "preempted"]
    diagnosis = diagnose(run_dir)
    if left or (diagnosis is not None and diagnosis.kind in ("node failure", "time limit")):
        reason = left[0]["reason"] if left else diagnosis.line() if diagnosis else ""
        used, limit, name = events.restart(), asked["max_requeues"], "max_requeues"
        if _idle_starts(run_dir) >= IDLE_STARTS:
            return False, f"{reason} ({IDLE_STARTS} starts made not one step: give it longer)"
    else:
        reason = diagnosis.line() if diagnosis else f"exit code {code} without a word"
        failed = [one for one in events.read(run_dir) if one["event"] == "requeued"]
        used = sum(one["reason"].startswith("retry") for one in failed)
        limit, name = asked["retries"], "retries"
        reason = f"retry {used + 1}: {reason}" if used < limit else reason
    if used >= limit:
        return False, f"{reason} (slurm.{name}={limit} reached)" if limit else reason
    return True, reason


def _idle_starts(run_dir: Path) -> int:
    """How many of the latest starts got no further than those before them."""
    furthest, idle = 0, 0
    for event in events.read(run_dir):
        if event["event"] == "start":
            idle += 1
        elif event["event"] == "preempted" and (event["step"] or 0) > furthest:
            furthest, idle = event["step"], 0
    return idle


def _cancelled() -> bool:
    """Whether scancel ended the job, which the ranks cannot tell from a preemption."""
    try:
        found = queue.job(os.environ.get("SLURM_JOB_ID", ""))
    except queue.QueueError:
        return False  # no answer; SLURM itself refuses to requeue what was cancelled
    return found is not None and found.state == "CANCELLED"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
