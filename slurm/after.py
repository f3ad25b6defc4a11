"""The end of a job's batch script: decides whether the job goes into the queue again.

    python -m slurm.after RUN CODE     # CODE: srun's exit code; exit code 75: requeue

It runs after all ranks have ended, on the node of the batch script, and imports no torch. Nothing
else requeues except SLURM itself, which does so when a node fails or when a preempted job is still
running at the end of its grace time.
"""

import os
import sys
from pathlib import Path

from clf.run_folder import RunFolder, read_status
from slurm import bad_nodes, environment, queue
from slurm.failures import diagnose
from slurm.job import EXIT_REQUEUE
from slurm.records import events_of_last_start, read_events, record_event

HANGS = 2  # further starts of a job after a rank that hung
IDLE_STARTS = 5  # in a row without a saved step, after which the job is not requeued any more
# Kinds of a diagnosis that is no error in code
START_AGAIN = ("node failure", "hardware", "hang", "signalled")
# For bash: without a trap SIGTERM would end the script while the ranks still save, and with -e,
# which a line of slurm.setup may have set, srun's exit code would.
TRAP = "trap : TERM USR1 USR2; set +e"


def requeue_lines(python: str) -> list[str]:
    """Lines of the batch script after its srun, where `$run` is the run folder.

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
    if verdict != "finished":  # which rank 0 has recorded
        # SLURM itself has requeued a job that has ended and waits: a node was lost, or preempted.
        waits = verdict == "ended" and (job := _job()) is not None and job.waits
        blame = bad_nodes.suspect(run_dir) if verdict != "ended" or waits else {}
        record_event(run_dir, verdict, reason=reason, step=_began(run_dir), **blame)
        bad_nodes.leave_out(run_dir)
        leaves_out = bad_nodes.left_out(run_dir, read_events(run_dir))  # also of an earlier start
        if leaves_out and (verdict == "requeued" or waits):
            job_id, nodes = os.environ.get("SLURM_JOB_ID", ""), bad_nodes.excluded(run_dir)
            if waits:
                bad_nodes.update(job_id, nodes)
            elif bad_nodes.requeue(job_id, nodes):
                return 0
    return EXIT_REQUEUE if verdict == "requeued" else 0


def decide(run_dir: Path, code: int) -> tuple[str, str]:
    """("finished", "requeued", "ended" or "failed", and the reason)."""
    import yaml

    settings = yaml.safe_load(RunFolder(run_dir).config.read_text(encoding="utf-8"))["slurm"]
    if code == 0:
        return "finished", "all epochs are done"
    job = _job()
    out_of_time = job is not None and job.out_of_time
    if job is not None and job.state != "RUNNING" and not out_of_time:
        # After scancel, which is final, or after a lost node, when SLURM requeues by itself.
        return "ended", f"by SLURM ({job.state})"
    preempted = [one for one in events_of_last_start(run_dir) if one["event"] == "preempted"]
    diagnosis = diagnose(run_dir)
    kind = diagnosis.kind if diagnosis else None
    if not (preempted or out_of_time or kind in START_AGAIN):
        return _retry(
            run_dir, settings["retries"], diagnosis.line() if diagnosis else f"code {code}"
        )
    reason = preempted[0]["reason"] if preempted else "time limit"
    if diagnosis is not None and kind in START_AGAIN:
        reason = diagnosis.line()
    if kind == "hang" and _hangs(run_dir) >= HANGS:
        return "failed", f"{reason} (it hung {HANGS + 1} times)"
    if environment.restarts() >= settings["max_requeues"]:
        return "failed", f"{reason} (slurm.max_requeues={settings['max_requeues']} reached)"
    if _idle_starts(run_dir) >= IDLE_STARTS:
        return "failed", f"{reason} ({IDLE_STARTS} starts saved no step; set a longer slurm.time)"
    return "requeued", reason


def _hangs(run_dir: Path) -> int:
    """How often this job went into the queue again because a rank hung."""
    mine = [one for one in read_events(run_dir) if one["job_id"] == environment.job_id()]
    again = [one["reason"] for one in mine if one["event"] == "requeued"]
    return sum(reason.startswith("hang") for reason in again)


def _retry(run_dir: Path, retries: int, reason: str) -> tuple[str, str]:
    """Decide about an error in code, which is retried only as often as slurm.retries says."""
    again = [one for one in read_events(run_dir) if one["event"] == "requeued"]
    used = sum(one["reason"].startswith("retry") for one in again)
    if used < retries:
        return "requeued", f"retry {used + 1}: {reason}"
    return "failed", reason + (f" (slurm.retries={retries} reached)" if retries else "")


def _idle_starts(run_dir: Path) -> int:
    """How many of the latest starts made no progress.

    A start's progress is known from the step at which it was preempted or, if its ranks were
    killed, from the step at which the next start began: that of the last checkpoint.
    """
    furthest, idle = 0, 0
    for event in [*read_events(run_dir), {"event": "requeued", "step": _began(run_dir)}]:
        step = event["step"] or 0
        if event["event"] == "start":
            idle += 1
        elif event["event"] == "preempted" and step > furthest:
            furthest, idle = step, 0
        elif event["event"] == "requeued" and step > furthest:
            furthest, idle = step, 1
    return idle


def _began(run_dir: Path) -> int | None:
    """Optimizer steps that were done when this start began to train; None if it did not."""
    began = (read_status(run_dir) or {}).get("began") or {}
    return began.get("step")


def _job() -> queue.QueuedJob | None:
    """What SLURM says about this job; None without an answer."""
    try:
        return queue.job(os.environ.get("SLURM_JOB_ID", ""))
    except queue.QueueError:
        return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
