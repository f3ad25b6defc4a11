"""Follows a job to its end: a progress bar fed by `status.json`, a line for each epoch, and then
the result or the error."""

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clf.metrics.measures import AS_TRAINED, as_trained, line, percent
from clf.run_folder import read_scalars, read_status
from clf.tracking.bounds import in_words
from launch.runs.folders import Run
from launch.terminal.logs import print_failure, where_it_left
from launch.terminal.screen import duration, is_live, print_commands
from launch.terminal.summary import job_commands, print_next, print_result
from slurm import queue
from slurm.records import LOCAL, first_error, note_stopped, read_job

POLL_S = 0.25
ASK_S = 2.0  # between questions to SLURM's queue


def follow_job(out: Any, job: Any, run_dir: Path, resume: str, debug: str | None = None) -> int:
    """Show a job until its end; exit code 1 if it failed, 130 after Ctrl-C.

    Args:
        resume, debug: commands that continue the run, and that step through it
    """
    resume_command = [(resume, "continue where it stopped")]
    follower = Follower(out, job, run_dir)
    try:
        done = follower.follow()
    except KeyboardInterrupt:
        if follower.queued:
            out.print(f"\nJob {job.job_id} is not stopped by this.")
            print_commands(out, job_commands(run_dir))
        else:
            out.print(f"\nStopped: {where_it_left(run_dir)}.", markup=False)
            print_commands(out, resume_command)
        return 130
    if not done:
        print_failure(out, job, run_dir)
        step = [(debug, "step through it in one process")] if debug else []
        print_commands(out, resume_command + step)
        return 1
    print_result(out, run_dir, follower.scalars())
    print_next(out, run_dir)
    return 0


def follow_each(out: Any, jobs: Iterable[tuple[Run, Any]], count: int) -> int:
    """Show `count` jobs one after the other; gives how many of them failed."""
    failed = 0
    for place, (run, job) in enumerate(jobs, 1):
        out.print(f"\nrun {place} of {count}: {run.path.name}", markup=False)
        if not Follower(out, job, run.path).follow():
            failed += 1
            print_failure(out, job, run.path)
    return failed


class Follower:
    """Shows a job until it ends.

    Args:
        out: Rich console
        job: submitit's handle
        run_dir: its run folder
    """

    def __init__(self, out: Any, job: Any, run_dir: Path) -> None:
        self.out, self.job, self.run_dir = out, job, run_dir
        self.begun = time.time()
        self.epochs_shown = _epochs_in(run_dir)
        # SLURM ends lost ranks by itself, and its jobs go on when nobody looks.
        self.queued = read_job(run_dir).get("cluster", LOCAL) != LOCAL
        self.waits_for: str | None = None
        self._advised = False
        self._asked = 0.0

    def follow(self) -> bool:
        """Block until the job has ended. True if it did its work.

        Raises:
            KeyboardInterrupt: Ctrl-C; a local job has saved and left by then, or was ended by a
                second Ctrl-C
        """
        try:
            if is_live(self.out):
                self._follow_live()
            else:
                if not self.queued:
                    self.out.print("starting (importing torch takes some seconds) ...")
                while not self._ended():
                    self._print_epochs()
            self._print_epochs(ended=True)
        except KeyboardInterrupt:
            if not self.queued:
                self._stop()
            raise
        if self.queued:  # a job that started again may have left the result of its first start
            done = (read_status(self.run_dir) or {}).get("state") == "finished"
            return done and first_error(self.run_dir) is None
        return first_error(self.run_dir) is None and all(map(_succeeded, _tasks(self.job)))

    def scalars(self) -> dict[str, Any]:
        """The final numbers of a job that did its work."""
        if self.queued:
            return (read_status(self.run_dir) or {}).get("metrics", {})
        return self.job.task(0).result()

    def _follow_live(self) -> None:
        from rich.live import Live

        with Live(console=self.out, refresh_per_second=8, transient=True) as live:
            while not self._ended():
                self._print_epochs()
                live.update(self._picture())

    def _ended(self) -> bool:
        time.sleep(POLL_S)
        if self.queued:
            return self._left_the_queue()
        return bool(self.job.done())

    def _left_the_queue(self) -> bool:
        if time.time() - self._asked < ASK_S:
            return False
        self._asked = time.time()
        try:
            job = queue.job(self.job.job_id)
        except queue.QueueError as error:  # the controller restarts, and the job goes on
            self._note(f"SLURM does not answer: {error}")
            return False
        if job is not None and job.waits:
            self._note(f"waiting in the queue ({job.reason or job.state})")
        elif job is not None and job.lives:
            self._note(f"running on {job.nodes}" if job.nodes else "starting")
        return job is None or not job.lives

    def _note(self, text: str) -> None:
        if text != self.waits_for and not is_live(self.out):
            self.out.print(text, markup=False)
        self.waits_for = text

    def _stop(self) -> None:
        """Let a job of this machine save and leave; a second Ctrl-C ends it now. The terminal sends
        Ctrl-C to the job as well, and a process that was asked twice for the same leaves once."""
        pid = int(self.job.job_id)
        self.out.print("\nStopping: it saves at the end of this step. Ctrl-C again ends it now.")
        try:
            self._send(pid, signal.SIGTERM)
            while not self.job.done():
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            self._send(pid, signal.SIGQUIT)
            while not self.job.done():
                time.sleep(POLL_S)
        note_stopped(self.run_dir, "SIGINT")

    def _send(self, pid: int, number: signal.Signals) -> None:
        if not self.job.done():
            os.kill(pid, number)

    def _status(self) -> dict[str, Any]:
        """What the job last wrote; {} if only an earlier start of it has written."""
        path = self.run_dir / "status.json"
        if not path.is_file() or path.stat().st_mtime < self.begun:
            return {}
        return read_status(self.run_dir) or {}

    def _picture(self) -> Any:
        """A bar over all steps and a line of numbers; each fits any width."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        status = self._status()
        if not status.get("steps"):
            waited = int(time.time() - self.begun)
            doing = self.waits_for or "starting: importing torch, preparing the data"
            text = Text(f"{doing} ({waited} s)", overflow="ellipsis", no_wrap=True)
            return Spinner("dots", text)
        done = status.get("step", 0)
        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True)
        epoch = min(status.get("epoch", 0) + 1, status["epochs"])
        bar.add_row(
            f"[bold]epoch {epoch}/{status['epochs']}[/bold]",
            ProgressBar(total=status["steps"], completed=done),
            percent(done / status["steps"], digits=0),
        )
        parts = [
            duration(status.get("eta_s"), " left"),
            *in_words(status.get("speed") or {}),
            str(status.get("device") or ""),
        ]
        text = Text(
            " · ".join(part for part in parts if part),
            style="dim",
            overflow="ellipsis",
            no_wrap=True,
        )
        return Group(bar, text)

    def _print_epochs(self, ended: bool = False) -> None:
        """A line for each epoch that is complete since the last call.

        The train loss is the last number that an epoch logs: until it is there, or the job has
        `ended`, the epoch has no line.
        """
        for epoch, scalars in sorted(_numbers_by_epoch(self.run_dir).items()):
            train = scalars.get("train/loss")
            is_complete = ended or train is not None
            if epoch <= self.epochs_shown or not is_complete or "val/loss" not in scalars:
                continue
            self.epochs_shown = epoch
            parts = [] if train is None else [f"train loss {train:.4g}"]
            parts += in_words(self._status().get("speed") or {})
            tail = f"   [dim]{'   '.join(parts)}[/dim]" if parts else ""
            self.out.print(
                f"epoch {epoch:>3}   val {line(scalars, 'val')}{as_trained(scalars)}{tail}"
            )
        self._print_advice()

    def _print_advice(self) -> None:
        """Once, what to set where the training waits for its data."""
        found = (self._status().get("speed") or {}).get("advice")
        if found and not self._advised:
            self._advised = True
            self.out.print(f"note: {found}", markup=False)


def _tasks(job: Any) -> list[Any]:
    return [job.task(index) for index in range(job.num_tasks)]


def _succeeded(task: Any) -> bool:
    # The file is looked for first: submitit would wait for the result of a killed process.
    return task.paths.result_pickle.exists() and task.exception() is None


def _numbers_by_epoch(run_dir: Path) -> dict[int, dict[str, float]]:
    """The numbers of the validation and the train loss of each epoch, the first of which is 1.

    A run without test images validates its best weights at its end: those numbers are not the last
    epoch's, and come after them.
    """
    epochs: dict[int, dict[str, float]] = {}
    for row in read_scalars(run_dir):
        numbers = epochs.setdefault(int(float(row.get("epoch") or 0)), {})
        for name, value in row.items():
            if value and (name == "train/loss" or name.startswith(("val/", f"{AS_TRAINED}/"))):
                numbers.setdefault(name, float(value))
    return epochs


def _epochs_in(run_dir: Path) -> int:
    """The last epoch that an earlier start of the run has completed; 0: none."""
    numbers = _numbers_by_epoch(run_dir)
    return max((epoch for epoch, scalars in numbers.items() if "val/loss" in scalars), default=0)
