"""What runs on each task of a job. It needs only the run folder, so all starts are the same.

submitit pickles `Job` by name; the job's process imports it from the run's code snapshot.
"""

import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from clf.config import ConfigError
from clf.config.saved import load
from clf.cores import CORES_PER_RANK
from clf.parallel.light_imports import lighten_imports
from clf.resilience import lease
from clf.resilience.lease import Lease
from clf.resilience.processes import Process, process
from clf.resilience.signals import LocalStopRequest, Preempted, Stopped, StopRequest, held
from clf.run_folder import RunFolder
from slurm import queue, submitit_adapter
from slurm.bad_nodes import record_lost
from slurm.environment import cores_of_task, job_id, restarts
from slurm.failures import START_MARK
from slurm.records import note_stopped, record_error, record_event
from slurm.stage import stage

EXIT_REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, start it again
EXIT_REFUSED = 73  # EX_CANTCREAT: another job or process writes into the run folder
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

        A rank that was asked to stop ends the process with `EXIT_REQUEUE`, and rank 0 with
        `EXIT_REFUSED` where another job or process writes into the run folder.
        """
        os.umask(0o077)
        lighten_imports()
        run_dir, rank, held_lease = Path(self.run_dir), 0, None
        request = LocalStopRequest() if submitit_adapter.is_local() else StopRequest()
        try:
            request.listen()  # submitit's own handler would requeue in the middle of anything
            rank = export_ranks()
            held_lease = take_lease(run_dir) if rank == 0 else None
            begin(run_dir, rank)
            with held():  # not for the helpers that copy
                cfg = stage(load(RunFolder(run_dir).config))
            from clf.run import fit  # it imports torch

            scalars = fit(cfg, run_dir, progress=False, request=request, job=job_id())
        except (Preempted, Stopped) as stop:
            if rank == 0:
                record_stop(run_dir, stop)
            if held_lease:
                held_lease.release()
            end(EXIT_REQUEUE, str(stop))
        except BaseException as error:  # Ctrl-C and sys.exit too, so that the reason is recorded
            record_error(run_dir, rank, error)
            watchdog = threading.Timer(END_S, os._exit, [1])
            watchdog.daemon = True
            watchdog.start()
            raise
        if held_lease:
            record_event(run_dir, "finished")
            held_lease.release()
        return scalars

    def checkpoint(self) -> Any:
        """What submitit puts into the queue again: the same job."""
        return submitit_adapter.submission(Job(self.run_dir))


def take_lease(run_dir: Path) -> Lease:
    """Become the one writer of the run folder, or end this process: an error must not be recorded
    in a folder that is another's."""
    local = submitit_adapter.is_local()
    try:
        return lease.take(
            run_dir,
            job_id=None if local else job_id(),
            restart=0 if local else restarts(),
            beside=controller(),
            passed_on=os.environ.pop(lease.PASS_ON, None),
            has_ended=queue.has_ended,
            waits=not local,
            command="submit.py",
        )
    except ConfigError as refused:
        end(EXIT_REFUSED, refused.faults[0])


def controller() -> Process | None:
    """The process that ends the ranks of this local job together; None: there is none."""
    number = os.environ.get(submitit_adapter.CONTROLLER)
    return process(int(number)) if number else None


def record_stop(run_dir: Path, stop: Preempted | Stopped) -> None:
    """Record that the run was asked to leave, and where it has."""
    if isinstance(stop, Preempted):
        place = {"epoch": stop.epoch, "step": stop.step}
        record_event(run_dir, "preempted", reason=str(stop), **place)
    else:
        note_stopped(run_dir, stop.signal)
        record_event(run_dir, "preempted", reason=str(stop))


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
