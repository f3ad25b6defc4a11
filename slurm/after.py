"""The end of a job's batch script: does the job go into the queue again? The one owner of requeue.

    python -m slurm.after RUN CODE     # CODE: srun's exit code; exit code 75: requeue

It runs when all ranks are gone, on the node of the batch script, and imports no torch. Nobody else
requeues but SLURM itself, which does so when a node fails or a preempted job outstays its grace.
"""

import os
import sys
from pathlib import Path

from clf.run_folder import read_status
from slurm import events, queue
from slurm.failures import diagnose
from slurm.job import EXIT_REQUEUE

IDLE_STARTS = 5  # in a row without a step that was saved: the queue would never see the end of it
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
    verdict, reason = decide(run_dir, code)
    print(f"clf: {verdict}: {reason}", flush=True)
    if verdict != "finished":  # which rank 0 has noted
        events.record(run_dir, verdict, reason=reason, step=_began(run_dir))
    return EXIT_REQUEUE if verdict == "requeued" else 0


def decide(run_dir: Path, code: int) -> tuple[str, str]:
    """("finished", "requeued", "ended" or "failed", and why)."""
    import yaml

    asked = yaml.safe_load((run_dir / "config.yaml").read_text(encoding="utf-8"))["slurm"]
    if code == 0:
        return "finished", "all epochs are done"
    job = _job()
    late = job is not None and job.out_of_time
    if job is not None and job.state != "RUNNING" and not late:
        # scancel, which is final, or a lost node, after which SLURM requeues by itself.
        return "ended", f"by SLURM ({job.state})"
    left = [one for one in events.last_start(run_dir) if one["event"] == "preempted"]
    diagnosis = diagnose(run_dir)
    lost = diagnosis is not None and diagnosis.kind == "node failure"
    if not (left or late or lost):
        return _retry(run_dir, asked["retries"], diagnosis.line() if diagnosis else f"code {code}")
    reason = left[0]["reason"] if left else "time limit"
    if lost and diagnosis is not None:
        reason = diagnosis.line()
    if events.restart() >= asked["max_requeues"]:
        return "failed", f"{reason} (slurm.max_requeues={asked['max_requeues']} reached)"
    if _idle_starts(run_dir) >= IDLE_STARTS:
        return "failed", f"{reason} ({IDLE_STARTS} starts saved not one step: give it longer)"
    return "requeued", reason


def _retry(run_dir: Path, retries: int, reason: str) -> tuple[str, str]:
    """An error in code is not tried again, unless somebody asked for it."""
    again = [one for one in events.read(run_dir) if one["event"] == "requeued"]
    used = sum(one["reason"].startswith("retry") for one in again)
    if used < retries:
        return "requeued", f"retry {used + 1}: {reason}"
    return "failed", reason + (f" (slurm.retries={retries} reached)" if retries else "")


def _idle_starts(run_dir: Path) -> int:
    """How many of the latest starts got no further than those before them.

    Steps are known from where a start left and, where its ranks were killed, from where the next
    one began: at a checkpoint that it had written before.
    """
    furthest, idle = 0, 0
    for event in [*events.read(run_dir), {"event": "requeued", "step": _began(run_dir)}]:
        step = event["step"] or 0
        if event["event"] == "start":
            idle += 1
        elif event["event"] == "preempted" and step > furthest:
            furthest, idle = step, 0
        elif event["event"] == "requeued" and step > furthest:
            furthest, idle = step, 1
    return idle


def _began(run_dir: Path) -> int | None:
    """Optimizer steps that were done when this start took the training up, if it got that far."""
    began = (read_status(run_dir) or {}).get("began") or {}
    return began.get("step")


def _job() -> queue.QueuedJob | None:
    """What SLURM says of this job; None without an answer."""
    try:
        return queue.job(os.environ.get("SLURM_JOB_ID", ""))
    except queue.QueueError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
