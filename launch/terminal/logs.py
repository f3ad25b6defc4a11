"""The log of one rank of a run, whole or as it grows. Of a run that failed, the first real error
stands first: what other ranks say mostly follows from it."""

import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from clf.config import ConfigError
from launch.runs.folders import shown
from slurm.records import first_error, read_job
from slurm.state import diagnosis, read_state

POLL_S = 0.5
ASK_S = 3.0  # between questions to SLURM's queue
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
        out.print(f"log of rank {rank}: {shown(path)}", style="dim", soft_wrap=True)
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
        out.print(line, style="bold red", markup=False, soft_wrap=True)
    if error is not None:
        kind = "" if error["for_the_user"] else f"{error['type']}: "
        out.print(
            f"first error, of rank {error['rank']} on {error['host']}: {kind}{error['message']}",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
        if not error["for_the_user"]:
            print(error["traceback"].rstrip())
    print()
    return error


def log_path(run_dir: Path, rank: int) -> Path | None:
    """The log of the run's latest job."""
    job_id = read_job(run_dir).get("job_id")
    found = {
        match[1]: path
        for path in sorted(
            (run_dir / "logs").glob("*_log.out"), key=lambda one: one.stat().st_mtime
        )
        if (match := LOG.fullmatch(path.name)) and int(match[2]) == rank
    }
    return found.get(job_id or "") or (None if job_id else next(reversed(found.values()), None))


def _follow(out: Any, run_dir: Path, rank: int, path: Path | None) -> None:
    """What is written from now on."""
    place = path.stat().st_size if path else 0
    told, asked, alive = "", 0.0, True
    while alive:
        if time.monotonic() - asked > ASK_S:
            asked, now = time.monotonic(), read_state(run_dir)
            alive = now.lives
            if now.state == "queued" and told != (told := f"queued ({now.reason})"):
                out.print(told, style="dim")
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
