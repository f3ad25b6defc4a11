"""What runs on each task of a job. It takes the run folder alone: the tenth start is as the first.

submitit pickles `Job` by name; the job's process imports it from the run's code snapshot.
"""

import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from clf.config.faults import is_for_the_user
from clf.cores import CORES_PER_RANK
from clf.resilience.signals import Preempted, StopRequest, held
from clf.run_folder import write_text
from slurm import events
from slurm.devices import cores_of_task

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again
START_MARK = "clf: start "  # what stands behind it in a log is of the latest start
END_S = 30  # for a rank to end after an error, which collectives and uploads may hold up


class Job:
    """Trains the run of a folder, or goes on where it stopped.

    Args:
        run_dir: folder with `config.yaml`
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir

    def __call__(self) -> dict[str, float]:
        """One rank's part of the run: its final scalars. An error is also left in the logs.

        A rank that was asked to leave ends the process with `EXIT_REQUEUE`.
        """
        request = StopRequest()
        request.listen()  # submitit's own handler would requeue from wherever the signal found it
        os.umask(0o077)
        run_dir, rank = Path(self.run_dir), 0
        try:
            rank = export_ranks()
            begin(run_dir, rank)
            from clf.config.compose import load
            from slurm.stage import stage

            with held():  # not for the helpers that copy
                cfg = stage(load(run_dir / "config.yaml"))
            from clf.run import fit

            scalars = fit(cfg, run_dir, progress=False, request=request)
        except Preempted as left:
            if rank == 0:
                place = {"epoch": left.epoch, "step": left.step}
                events.record(run_dir, "preempted", reason=str(left), **place)
            end(EXIT_REQUEUE, str(left))
        except BaseException as error:  # Ctrl-C and sys.exit too: whoever looks must learn why
            record_error(run_dir, rank, error)
            watchdog = threading.Timer(END_S, os._exit, [1])
            watchdog.daemon = True
            watchdog.start()
            raise
        if rank == 0:
            events.record(run_dir, "finished")
        return scalars

    def checkpoint(self) -> Any:
        """What submitit puts in the queue again: the same job."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Job(self.run_dir))


def begin(run_dir: Path, rank: int) -> None:
    """Note the start, and forget what this rank left of an earlier one."""
    (run_dir / "logs" / f"error_rank{rank}.json").unlink(missing_ok=True)
    print(f"{START_MARK}{events.restart()} of {run_dir.name}, rank {rank}", flush=True)
    if rank == 0:
        events.record(run_dir, "start")


def end(code: int, message: str) -> NoReturn:
    """End this process now: all is saved, and what ends by itself could wait for a lost rank."""
    print(f"clf: {message}", flush=True)
    sys.stderr.flush()
    os._exit(code)


def export_ranks() -> int:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, NODE_RANK, MASTER_ADDR and MASTER_PORT from the job's own,
    and its cores; this process's rank.

    submitit's local executor sets SUBMITIT_LOCAL_* only, and Lightning reads these.
    """
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    # Overwriting: a shell inside another job may hold that job's values.
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    environment = JobEnvironment()
    os.environ["NODE_RANK"] = str(environment.node)
    if environment.name() == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a laptop's host name need not resolve
    elif share := cores_of_task():
        os.environ[CORES_PER_RANK] = str(share)
    return environment.global_rank


def record_error(run_dir: Path, rank: int, error: BaseException) -> None:
    """Leave the error in `logs/error_rank<r>.json`, for `first_error`."""
    record = {
        "time": time.time(),
        "rank": rank,
        "host": os.environ.get("SLURMD_NODENAME", socket.gethostname()),
        "type": type(error).__name__,
        "message": str(error),
        "for_the_user": is_for_the_user(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    logs = run_dir / "logs"
    logs.mkdir(exist_ok=True)
    write_text(logs / f"error_rank{rank}.json", json.dumps(record))


def first_error(run_dir: Path) -> dict[str, Any] | None:
    """The error that came first over all ranks; later ones mostly follow from it."""
    records = [json.loads(path.read_text()) for path in (run_dir / "logs").glob("error_rank*.json")]
    real = [one for one in records if one["type"] not in ("KeyboardInterrupt", "SystemExit")]
    return min(real or records, key=lambda record: record["time"], default=None)


def clear_errors(run_dir: Path) -> None:
    """Forget what an earlier start of the job left."""
    for path in (run_dir / "logs").glob("error_rank*.json"):
        path.unlink()
