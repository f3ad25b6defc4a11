"""What a run that hangs leaves behind: the stacks of its ranks, and which of them is to blame.

RUN/logs/stacks_rank<r>.txt   where every thread of a rank is, its main thread first
RUN/logs/error_rank<r>.json   the hang, as the error of the rank that is to blame
RUN/status.json               "hang": rank, ranks, node, reason, stacks
"""

import os
import sys
import threading
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import FrameType

from clf.atomic import write_text
from clf.run_folder import HANG, RunFolder, read_status

DEBUGGERS = ("bdb", "pdb", "IPython", "pydevd", "debugpy")
MAIN = "main thread"


@dataclass(frozen=True)
class Hang:
    """A hang as one rank found it."""

    ranks: list[int]  # to blame; [] if none is behind the others
    stopped: bool  # nothing is heard of these ranks
    nodes: list[str]  # of `ranks`
    doing: str  # what the first of them does
    epoch: int  # completed
    step: int  # completed
    timeout_s: float
    world_size: int

    @property
    def reporter(self) -> int:
        """The lowest rank that can write the report."""
        stopped = self.ranks if self.stopped else []
        return next((rank for rank in range(self.world_size) if rank not in stopped), 0)

    @property
    def named(self) -> int:
        """The rank whose error this is."""
        return self.ranks[0] if self.ranks else self.reporter

    def sentence(self) -> str:
        """What happened, in one line."""
        seconds, place = f"{self.timeout_s:g} s", f"epoch {self.epoch + 1}, after step {self.step}"
        if not self.ranks:
            return f"no rank made progress for {seconds}, and none is behind the others ({place})"
        who = ", ".join(
            f"rank {rank} on {node}" for rank, node in zip(self.ranks, self.nodes, strict=True)
        )
        if self.stopped:
            limit = f"hang_timeout_s={self.timeout_s:g}"
            return f"{who}: not heard of for too long ({limit}): stopped, or its machine is"
        return f"{who}: no progress for {seconds}; {self.doing} ({place})"


def write_stacks(folder: RunFolder, rank: int, node: str, main: int) -> None:
    """Write the stacks of this process.

    Args:
        main: the identifier of the thread that trains
    """
    frames = sys._current_frames()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = [f"rank {rank} on {node}, process {os.getpid()}, {datetime.now():%Y-%m-%d %H:%M:%S}\n"]
    parts += [_stack(MAIN, frames[main])] if main in frames else []
    for thread, frame in frames.items():
        if thread not in (main, threading.get_ident()):
            parts.append(_stack(f"thread {names.get(thread, thread)}", frame))
    write_text(folder.stacks(rank), "\n".join(parts))


def report(folder: RunFolder, hang: Hang, wait_s: float) -> None:
    """Say in the log and in the run folder what hangs; waits for the stacks of the other ranks.

    Args:
        wait_s: seconds for these to come
    """
    given = _collect(folder, hang, wait_s)
    print(f"clf: hang: {hang.sentence()}", flush=True)
    together = defaultdict(list)
    for rank, text in given.items():
        together[text].append(rank)
    for text, ranks in together.items():
        numbers = ", ".join(map(str, ranks))
        print(f"clf: rank{'s' if len(ranks) > 1 else ''} {numbers}: {text}", flush=True)
    record = {
        "time": time.time(),
        "rank": hang.ranks[0] if hang.ranks else None,
        "host": hang.nodes[0] if hang.nodes else None,
        "type": HANG,
        "message": hang.sentence(),
        "for_the_user": True,
        "traceback": given[hang.named],
    }
    folder.write_json(folder.error(hang.named), record)
    shown = {
        "rank": record["rank"],
        "ranks": hang.ranks,
        "node": record["host"],
        "reason": hang.sentence(),
        "stacks": str(folder.stacks(hang.named).relative_to(folder.path)),
    }
    status = read_status(folder.path) or {}
    status |= {"state": "failed", "error": f"hang: {hang.sentence()}", "hang": shown}
    folder.write_json(folder.status, {**status, "updated": time.time()})


def in_a_debugger(thread: int) -> bool:
    """Whether somebody looks at this thread with a debugger, and may take any time for it."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in DEBUGGERS:
            return True
        frame = frame.f_back
    return False


def _collect(folder: RunFolder, hang: Hang, wait_s: float) -> dict[int, str]:
    """The main thread's stack of each rank, or why there is none; the file says the same."""
    found: dict[int, str] = {}
    waiting = [rank for rank in range(hang.world_size) if not (hang.stopped and rank in hang.ranks)]
    end = time.monotonic() + wait_s
    while waiting and time.monotonic() < end:
        for rank in list(waiting):
            if folder.stacks(rank).exists():
                found[rank] = _main_stack(folder.stacks(rank))
                waiting.remove(rank)
        time.sleep(0.1 if waiting else 0)
    for rank in range(hang.world_size):
        if rank not in found:
            late = (
                f"gave no stack within {wait_s:g} s" if rank in waiting else "cannot give a stack"
            )
            found[rank] = f"{late}: it is stopped, or its machine is\n"
            write_text(folder.stacks(rank), f"rank {rank} {found[rank]}")
    return dict(sorted(found.items()))


def _main_stack(path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    parts = [part for part in text.split("\n\n") if part.startswith(MAIN)]
    return parts[0] if parts else text


def _stack(name: str, frame: FrameType) -> str:
    lines = "".join(traceback.format_stack(frame)).rstrip()
    return f"{name} (most recent call last):\n{lines}\n"
