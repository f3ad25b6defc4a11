"""Real processes over gloo for tests: started once, they run many cases.

    with Ranks(2) as ranks:
        losses = ranks.run(train, "ddp", steps=50)  # [rank 0's, rank 1's]

A case is a function of a test module; its arguments and result are pickled. Inside it
`torch.distributed` is up, and Lightning takes these processes as its ranks.
"""

import contextlib
import gc
import multiprocessing
import os
import queue
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 300  # of a case, on a machine that others use too


class Ranks:
    """`world` processes that are the ranks of one process group."""

    def __init__(self, world: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.world, self.number = world, 0
        self.results = context.Queue()
        self.cases = [context.Queue() for _ in range(world)]
        port = _free_port()
        self.processes = [
            context.Process(
                target=_serve, args=(rank, world, port, self.cases[rank], self.results), daemon=True
            )
            for rank in range(world)
        ]
        for process in self.processes:
            process.start()

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()  # to let torch and the garbage go in order would take seconds
            process.join()

    def run(self, case: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What `case` returns on each rank; raises the first rank's error, with its traceback."""
        self.number += 1  # what a rank still says of a case that failed is not for the next one
        for cases in self.cases:
            cases.put((self.number, case, args, kwargs))
        found: dict[int, Any] = {}
        end = time.monotonic() + DEADLINE_S
        while len(found) < self.world:
            with contextlib.suppress(queue.Empty):
                number, rank, result, error = self.results.get(timeout=1)
                if number == self.number:
                    assert error is None, f"rank {rank} failed:\n{error}"
                    found[rank] = result
            dead = [p.exitcode for p in self.processes if not p.is_alive()]
            assert not dead, f"processes have died, exit codes {dead}"
            assert time.monotonic() < end, f"only ranks {sorted(found)} of {self.world} answered"
        return [found[rank] for rank in range(self.world)]


def _next(cases: Any) -> Any:
    """The next case; None if the tests' process was killed."""
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        with contextlib.suppress(queue.Empty):
            return cases.get(timeout=5)
    return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _serve(rank: int, world: int, port: int, cases: Any, results: Any) -> None:
    import torch  # not for every test that shares conftest.py

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(world),
        "DS_ACCELERATOR": "cpu",
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    imported = 0
    while (received := _next(cases)) is not None:
        number, case, args, kwargs = received
        try:
            results.put((number, rank, case(*args, **kwargs), None))
        except Exception:  # the parent raises it
            results.put((number, rank, None, traceback.format_exc()))
        if len(sys.modules) > imported:
            # DeepSpeed collects garbage up to eleven times an engine, each time through all that
            # was ever imported: it would take most of a small run's time.
            imported = len(sys.modules)
            gc.collect()
            gc.freeze()
    torch.distributed.destroy_process_group()
