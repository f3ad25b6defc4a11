"""submitit's handle of a job in SLURM's queue."""

from typing import Any

from submitit import SlurmJob

from slurm import queue


class Handle(SlurmJob[Any]):
    """Asks the queue whether the job is done: submitit's own asks accounting, every ten minutes in
    the end, and not every cluster has it."""

    def _register_in_watcher(self) -> None:
        """Nothing: the watcher is what calls sacct."""

    def done(self, force_check: bool = False) -> bool:
        return not queue.lives(self.job_id)
