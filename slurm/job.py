"""What runs on each task of a job. It needs only the run folder, so all starts are the same.

submitit pickles `Job` by name; the job's process imports it from the run's code snapshot.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from clf.config.saved import load
from clf.cores import CORES_PER_RANK
from clf.resilience.signals import Preempted, StopRequest, held
from clf.run_folder import RunFolder
from slurm import submitit_adapter
from slurm.bad_nodes import record_lost
from slurm.environment import cores_of_task, job_id, restarts
from slurm.failures import START_MARK
from slurm.records import record_error, record_event
from slurm.stage import stage

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again
END_S = 30  # for a rank to end after an error, which collectives and uploads may delay


class Job:
    """Trains the run of a folder, or goes on where it stopped.

    Args:
        run_dir: folder with `config.yaml`
    """

    def __init__(self, run_dir: str) -> None:
        self.run_dir = run_dir

    def __call__(self) -> dict[str, float]:
        """Run one rank's part and return its final scalars. An error is also written to the logs.

        A rank that was asked to stop ends the process with `EXIT_REQUEUE`.
        """
        request = StopRequest()
        request.listen()  # submitit's own handler would requeue in the middle of anything
        os.umask(0o077)
        run_dir, rank = Path(self.run_dir), 0
        try:
            rank = export_ranks()
            begin(run_dir, rank)
            with held():  # not for the helpers that copy
                cfg = stage(load(RunFolder(run_dir).config))
            from clf.run import fit  # it imports torch

            scalars = fit(cfg, run_dir, progress=False, request=request, job=job_id())
        except Preempted as stop:
            if rank == 0:
                place = {"epoch": stop.epoch, "step": stop.step}
                record_event(run_dir, "preempted", reason=str(stop), **place)
            end(EXIT_REQUEUE, str(stop))
        except BaseException as error:  # Ctrl-C and sys.exit too, so that the reason is recorded
            record_error(run_dir, rank, error)
            watchdog = threading.Timer(END_S, os._exit, [1])
            watchdog.daemon = True
            watchdog.start()
            raise
        if rank == 0:
            record_event(run_dir, "finished")
        return scalars

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same job."""
        return submitit_adapter.submission(Job(self.run_dir))


def begin(run_dir: Path, rank: int) -> None:
    """Record the start, show the run's notes, and delete the error that this rank left at an
    earlier start."""
    RunFolder(run_dir).error(rank).unlink(missing_ok=True)
    print(f"{START_MARK}{restarts()} of {run_dir.name}, rank {rank}", flush=True)
    if rank == 0:
        for note in RunFolder(run_dir).notes:
            print(f"note: {note}", flush=True)
        if restarts():
            record_lost(run_dir)
        record_event(run_dir, "start")


def end(code: int, message: str) -> NoReturn:
    """End this process now: all is saved, and a normal exit could wait for a lost rank."""
    print(f"clf: {message}", flush=True)
    sys.stderr.flush()
    os._exit(code)


def export_ranks() -> int:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, NODE_RANK, MASTER_ADDR and MASTER_PORT from the job's own
    variables, and the cores of this task; returns the rank of this process."""
    job = submitit_adapter.export_ranks()
    os.environ["NODE_RANK"] = str(job.node)
    if job.name() == "local":
        os.environ["MASTER_ADDR"] = "127.0.0.1"  # a laptop's host name need not resolve
    elif share := cores_of_task():
        os.environ[CORES_PER_RANK] = str(share)
    return job.global_rank
