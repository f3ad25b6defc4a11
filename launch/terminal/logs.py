"""The log of one rank of a run, whole or as it grows, and why a run failed.

If a run failed, the first real error of all ranks comes first: what other ranks report mostly
follows from it.
"""

import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from clf.config import ConfigError
from clf.run_folder import read_status
from launch.runs.folders import shown
from slurm.failures import diagnose
from slurm.records import events_of_last_start, first_error, read_job
from slurm.state import diagnosis, read_state

POLL_S = 0.5
ASK_S = 3.0  # between questions to SLURM's queue
LOG_LINES = 20  # of a job that ended without an error of its own
LOG = re.compile(r"(.+)_(\d+)_log\.out")


def show_logs(out: Any, run_dir: Path, rank: int | None, lines: int, follow: bool) -> int:
    """Print the log; with `follow` until the job has ended. Exit code 1: the run failed."""
    failed = print_error(out, run_dir)
    if rank is None:
        rank = failed["rank"] if failed else 0
    path = log_path(run_dir, rank)
    if path is None and not follow:
        raise ConfigError([_no_log(run_dir, rank)])
    if path is not None:
        out.print(f"log of rank {rank}: {shown(path)}", style="dim", markup=False)
        for line in _last(path, lines):
            print(line)
    if follow:
        try:
            _follow(out, run_dir, rank, path)
        except KeyboardInterrupt:
            return 130
        failed = first_error(run_dir)
    return 1 if failed else 0


def print_error(out: Any, run_dir: Path) -> dict[str, Any] | None:
    """The error that came first over all ranks; None if there is none."""
    error = first_error(run_dir)
    line = diagnosis(run_dir)
    if error is None and line is None:
        return None
    if line is not None:
        out.print(line, style="bold red", markup=False)
    if error is not None:
        kind = "" if error["for_the_user"] else f"{error['type']}: "
        out.print(
            f"first error, of rank {error['rank']} on {error['host']}: {kind}{error['message']}",
            style="bold red",
            markup=False,
        )
        if not error["for_the_user"]:
            print(error["traceback"].rstrip())
    print()
    return error


def print_failure(out: Any, job: Any, run_dir: Path) -> None:
    """The first real error of all ranks, and where the log is."""
    error = first_error(run_dir)
    if (read_status(run_dir) or {}).get("state") in ("preempted", "stopped"):
        log = Path(job.task(0).paths.stdout)
        out.print(f"The job was asked to leave: {where_it_left(run_dir)}.", style="bold")
    elif error is None and (reason := diagnose(run_dir)) is not None:
        out.print("[bold red]The job failed:[/bold red] ", end="")
        out.print(reason.line(), markup=False)
        log = Path(job.task(reason.rank or 0).paths.stdout)
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
    out.print(f"log: {shown(log)}", markup=False)


def where_it_left(run_dir: Path) -> str:
    """Where a run that was asked to leave has, in words."""
    events = [one for one in events_of_last_start(run_dir) if one["event"] == "preempted"]
    return events[-1]["reason"] if events else "what its last checkpoint holds is kept"


def _tail(out: Any, log: Path) -> None:
    lines = log.read_text(errors="replace").rstrip().split("\n") if log.is_file() else []
    out.print("\n".join(f"  {line}" for line in lines[-LOG_LINES:]), style="dim", markup=False)


def log_path(run_dir: Path, rank: int) -> Path | None:
    """The log of the run's latest job."""
    job_id = read_job(run_dir).get("job_id")
    logs = {  # job -> its log of that rank, oldest first
        match[1]: path
        for path in sorted(
            (run_dir / "logs").glob("*_log.out"), key=lambda one: one.stat().st_mtime
        )
        if (match := LOG.fullmatch(path.name)) and int(match[2]) == rank
    }
    return logs.get(job_id or "") or (None if job_id else next(reversed(logs.values()), None))


def _follow(out: Any, run_dir: Path, rank: int, path: Path | None) -> None:
    """Print what is written from now on, until the job has ended."""
    place = path.stat().st_size if path else 0
    noted, asked, alive = "", 0.0, True
    while alive:
        if time.monotonic() - asked > ASK_S:
            asked, now = time.monotonic(), read_state(run_dir)
            alive = now.lives
            if now.state == "queued" and noted != (noted := f"queued ({now.reason})"):
                out.print(noted, style="dim", markup=False)
        path = path or log_path(run_dir, rank)
        if path is not None:
            with path.open("rb") as file:
                file.seek(place)
                new = file.read()
            place += len(new)
            print(new.decode(errors="replace"), end="", flush=True)
        if alive:
            time.sleep(POLL_S)
    out.print(f"the job has ended: {read_state(run_dir).state}", style="dim")


def _last(path: Path, lines: int) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=lines)]


def _no_log(run_dir: Path, rank: int) -> str:
    logs = [LOG.fullmatch(path.name) for path in (run_dir / "logs").glob("*_log.out")]
    ranks = sorted({int(match[2]) for match in logs if match})
    if not ranks:
        state = read_state(run_dir)
        return f"{run_dir.name}: no log yet; the run is {state.state}" + (
            f" ({state.reason})" if state.reason else ""
        )
    return f"{run_dir.name}: no log of rank {rank}; there are ranks {ranks[0]} to {ranks[-1]}"
