"""What can happen to a run of local processes. Each fault strikes once, at the instant that the
schedule has chosen, and returns when it is over; whether the ranks live then is its own matter."""

import os
import signal
import time
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

from tests.chaos.starts import Run
from tests.disk import Disk

HANG_S = 90  # for the ranks to end where one of them hangs
WRITE_S = 10  # for a checkpoint to be written, at most; the runs of a schedule save often


class Around(NamedTuple):
    """What a run has around it that a fault can break."""

    disk: Disk | None = None  # a small file system of its own, that holds the run folder
    server: Any = None  # the stand-in for W&B


def kill_one(run: Run, random: Random, around: Around) -> None:
    """kill -9 of one rank"""
    run.send(signal.SIGKILL, [random.choice(run.ranks)])
    run.wait_for_the_others()


def kill_all(run: Run, random: Random, around: Around) -> None:
    """kill -9 of all ranks"""
    run.kill()


def kill_in_a_write(run: Run, random: Random, around: Around) -> None:
    """kill -9 while a checkpoint is written"""
    end = time.monotonic() + WRITE_S
    while time.monotonic() < end and run.living:
        with os.scandir(run.folder.checkpoints) as entries:
            if any(entry.name.endswith(".part") for entry in entries):
                break
    time.sleep(random.uniform(0, 0.002))
    run.kill()


def terminate_all(run: Run, random: Random, around: Around) -> None:
    """SIGTERM to all ranks"""
    run.send(signal.SIGTERM)
    run.wait_for_the_others()


def terminate_one(run: Run, random: Random, around: Around) -> None:
    """SIGTERM to one rank"""
    run.send(signal.SIGTERM, [random.choice(run.ranks)])
    run.wait_for_the_others()


def usr2_all(run: Run, random: Random, around: Around) -> None:
    """SIGUSR2 to all ranks"""
    run.send(signal.SIGUSR2)
    run.wait_for_the_others()


def stop_for_a_while(run: Run, random: Random, around: Around) -> None:
    """SIGSTOP of one rank for a second"""
    rank = [random.choice(run.ranks)]
    run.send(signal.SIGSTOP, rank)
    time.sleep(1)
    run.send(signal.SIGCONT, rank)


def stop_for_ever(run: Run, random: Random, around: Around) -> None:
    """SIGSTOP of one rank for ever"""
    run.send(signal.SIGSTOP, [random.choice(run.ranks)])
    end = time.monotonic() + HANG_S
    while len(run.living) == run.world and time.monotonic() < end:
        time.sleep(0.05)
    run.kill()  # as srun does once a rank has ended


def truncate(run: Run, random: Random, around: Around) -> None:
    """kill -9, and the newest checkpoint truncated"""
    run.kill()
    if _has_an_older_one(run):
        os.truncate(run.folder.last, random.randrange(run.folder.last.stat().st_size))


def flip(run: Run, random: Random, around: Around) -> None:
    """kill -9, and a bit of the newest checkpoint flipped"""
    run.kill()
    if not _has_an_older_one(run):
        return
    content = bytearray(run.folder.last.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    run.folder.last.write_bytes(content)


def _has_an_older_one(run: Run) -> bool:
    """Without one a run whose checkpoint is damaged stops and says so, as it should."""
    return run.folder.last.exists() and bool(run.folder.replaced)


def fill_the_disk(run: Run, random: Random, around: Around) -> None:
    """a full disk for a while"""
    assert around.disk is not None
    with around.disk.full():
        time.sleep(1)


def trouble(kind: str) -> Callable[[Run, Random, Around], None]:
    def strike(run: Run, random: Random, around: Around) -> None:
        around.server.trouble = kind
        time.sleep(1)
        around.server.trouble = None

    strike.__name__ = f"server_{kind}"
    strike.__doc__ = {
        "refuse": "W&B's server ends every connection",
        "silent": "W&B's server does not answer",
        "500": "W&B's server answers 500",
    }[kind]
    return strike


Fault = Callable[[Run, Random, Around], None]
OF_PROCESSES: list[Fault] = [
    kill_one,
    kill_all,
    kill_in_a_write,
    terminate_all,
    usr2_all,
    truncate,
    flip,
]
OF_SEVERAL_RANKS: list[Fault] = [terminate_one, stop_for_a_while, stop_for_ever]
OF_A_DISK: list[Fault] = [fill_the_disk]
OF_A_SERVER: list[Fault] = [trouble(kind) for kind in ("refuse", "silent", "500")]
