"""Follows a job: a progress bar fed by `status.json`, a line for each epoch, and the error if it
fails."""

import time
from pathlib import Path
from typing import Any

from clf.metrics.measures import line, percent
from clf.run_folder import read_scalars, read_status
from launch.runs.folders import shown
from slurm import queue
from slurm.failures import diagnose
from slurm.records import LOCAL, first_error, read_job

POLL_S = 0.25
ASK_S = 2.0  # between questions to SLURM's queue
STOP_S = 5  # submitit gives interrupted ranks a second, then kills them
GRACE_S = 5  # for the other ranks to end by themselves after one failed
LOG_LINES = 20


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
        self.failed_since: float | None = None
        # SLURM's: it ends lost ranks by itself, and goes on when nobody looks.
        self.queued = read_job(run_dir).get("cluster", LOCAL) != LOCAL
        self.waits_for: str | None = None
        self._asked = 0.0

    def follow(self) -> bool:
        """Block until the job has ended. True if it did its work.

        Raises:
            KeyboardInterrupt: Ctrl-C; a local job is stopped by then
        """
        try:
            if self.out.is_terminal:
                self._follow_live()
            else:
                if not self.queued:
                    self.out.print("starting (importing torch takes some seconds) ...")
                while not self._ended():
                    self._print_epochs()
            self._print_epochs(ended=True)
        except KeyboardInterrupt:
            if not self.queued:
                self._stop(already_told=True)
            raise
        if self.queued:  # what started again may have left a task's result of before
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
        if self.job.done():
            return True
        if self.failed_since is None and first_error(self.run_dir) is not None:
            self.failed_since = time.time()
        if self.failed_since is not None and time.time() - self.failed_since > GRACE_S:
            self._stop()  # the other ranks wait for the failed one, and would for half an hour
            return True
        return False

    def _left_the_queue(self) -> bool:
        if time.time() - self._asked < ASK_S:
            return False
        self._asked = time.time()
        try:
            found = queue.job(self.job.job_id)
        except queue.QueueError as error:  # a controller that restarts: the job goes on
            self._note(f"SLURM does not answer: {error}")
            return False
        if found is not None and found.waits:
            self._note(f"waiting in the queue ({found.reason or found.state})")
        elif found is not None and found.lives:
            self._note(f"running on {found.nodes}" if found.nodes else "starting")
        return found is None or not found.lives

    def _note(self, text: str) -> None:
        if text != self.waits_for and not self.out.is_terminal:
            self.out.print(text, markup=False)
        self.waits_for = text

    def _stop(self, already_told: bool = False) -> None:
        """Interrupt the job and wait for its end.

        Args:
            already_told: the terminal sent Ctrl-C to the job as well; a second one now would
                break off submitit's own ending of the ranks, so give it time first
        """
        if not (already_told and self._ends_within(STOP_S)):
            self.job.cancel()
            self._ends_within(STOP_S)

    def _ends_within(self, seconds: float) -> bool:
        deadline = time.time() + seconds
        while time.time() < deadline:
            if self.job.done():
                return True
            time.sleep(0.05)
        return False

    def _status(self) -> dict[str, Any]:
        """What the job last said; nothing that an earlier start of it left."""
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
            doing = self.waits_for or "starting: importing torch, making the data ready"
            return Spinner("dots", f"{doing} ({waited} s)")
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
            _speed(status),
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
            tail = "" if train is None else f"   [dim]train loss {train:.4g}[/dim]"
            self.out.print(f"epoch {epoch:>3}   val {line(scalars, 'val')}{tail}")


def print_failure(out: Any, job: Any, run_dir: Path) -> None:
    """The first real error of all ranks, and where the log is."""
    error = first_error(run_dir)
    if (read_status(run_dir) or {}).get("state") == "preempted":
        log = Path(job.task(0).paths.stdout)
        out.print("The job was asked to leave before its end, and has saved all.", style="bold")
    elif error is None and (found := diagnose(run_dir)) is not None:
        out.print("[bold red]The job failed:[/bold red] ", end="")
        out.print(found.line(), markup=False)
        log = Path(job.task(found.rank or 0).paths.stdout)
    elif error is None:
        log = Path(job.task(0).paths.stdout)
        out.print(
            "The job ended without finishing, and without an error of its own.", style="bold red"
        )
        out.print(
            "Was it killed? A machine out of memory kills the largest process. Its last lines:"
        )
        _tail(out, log)
    else:
        log = Path(job.task(error["rank"]).paths.stdout)
        where = f" on rank {error['rank']}" if job.num_tasks > 1 else ""
        out.print(f"[bold red]The job failed{where}:[/bold red] ", end="")
        kind = "" if error["for_the_user"] else f"{error['type']}: "
        out.print(f"{kind}{error['message']}", markup=False)
        if not error["for_the_user"]:
            lines = error["traceback"].rstrip().split("\n")
            out.print("\n".join(lines[-LOG_LINES:]), style="dim", markup=False)
    out.print(f"log: {shown(log)}", soft_wrap=True)


def _tasks(job: Any) -> list[Any]:
    return [job.task(index) for index in range(job.num_tasks)]


def _succeeded(task: Any) -> bool:
    # Looked for first: submitit would wait for the result of a killed process.
    return task.paths.result_pickle.exists() and task.exception() is None


def _tail(out: Any, log: Path) -> None:
    lines = log.read_text(errors="replace").rstrip().split("\n") if log.is_file() else []
    out.print("\n".join(f"  {line}" for line in lines[-LOG_LINES:]), style="dim", markup=False)


def _numbers_by_epoch(run_dir: Path) -> dict[int, dict[str, float]]:
    """The numbers of the validation and the train loss of each epoch, the first of which is 1.

    A run without test images validates its best weights at its end: those numbers are not the last
    epoch's, and come after them.
    """
    epochs: dict[int, dict[str, float]] = {}
    for row in read_scalars(run_dir):
        numbers = epochs.setdefault(int(float(row.get("epoch") or 0)), {})
        for name, value in row.items():
            if value and (name == "train/loss" or name.startswith("val/")):
                numbers.setdefault(name, float(value))
    return epochs


def _epochs_in(run_dir: Path) -> int:
    """The last epoch that an earlier start of the run has completed; 0: none."""
    numbers = _numbers_by_epoch(run_dir)
    return max((epoch for epoch, scalars in numbers.items() if "val/loss" in scalars), default=0)


def _speed(status: dict[str, Any]) -> str:
    speed = status.get("images_per_second")
    return f"{speed:,.0f} images/s" if speed else ""


def duration(seconds: float | None, after: str = "") -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min{after}"
    return f"{minutes} min {rest:02} s{after}" if minutes else f"{rest} s{after}"
