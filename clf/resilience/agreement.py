"""A moment on which all ranks agree, as once one of them has been asked to leave.

No training step pays for this. A thread of each rank watches its request and the key-value store
through which the ranks met, so training gets no further collective and no wait for the device.
"""

import threading
from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

import torch.distributed as dist

from clf.parallel import lightning_internals as internals

POLL_S = 0.2  # time between two reads of the store
AGREE_S = 60  # time for all ranks to answer; a rank that has died never will
LEAVE_S = 30  # time for rank 0 to close its files and W&B
_NUMBERS = count()  # of the agreements of this process, which all ranks make in the same order


class Request(Protocol):
    """What one rank may ask of all."""

    @property
    def signal(self) -> str | None:
        """Who asks, such as "SIGUSR2"; None: nobody does."""

    is_read: bool  # whether the training looks at it; before, nobody does


class Agreement:
    """The boundary at which all ranks stop, once one of them has been asked to.

    A boundary is a moment that every rank reaches equally often, such as the end of a step. Each
    rank answers with the boundary that it will reach next whatever the others do, and all ranks
    stop at the largest of these answers. The answers come from threads, so that no rank waits for
    an answer while another rank needs it in a collective.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._store: Any = None
        self._rank, self._world_size = 0, 1
        self._lock = threading.Lock()
        self._next = 1  # the boundary that this rank reaches next
        self._answered = False
        self._agreed = threading.Event()
        self._stop_at = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Start to watch, once the process group exists. Does nothing further on a single rank, or
        when called again."""
        self.request.is_read = True
        if self._thread is not None or not (dist.is_available() and dist.is_initialized()):
            return
        self._rank, self._world_size = dist.get_rank(), dist.get_world_size()
        if self._world_size == 1:
            return
        # A connection of our own, because other users hold theirs while they wait on it.
        store = internals.process_group_store()
        self._store = dist.PrefixStore(f"clf/agree/{next(_NUMBERS)}", store)
        self._thread = threading.Thread(target=self._watch, name="clf-agree", daemon=True)
        self._thread.start()

    def reached(self) -> bool:
        """Report that this rank is at a boundary, and return whether it must stop here: it is the
        agreed boundary or a later one.

        Raises:
            RuntimeError: a rank did not answer, which means that it has died
        """
        if self._thread is None:
            return self.request.signal is not None
        with self._lock:
            here = self._next
            self._next += 0 if self._answered else 1
            answered = self._answered
        if not answered:
            return False
        if not self._agreed.wait(AGREE_S):
            raise RuntimeError(f"a rank did not answer within {AGREE_S} s where to stop: it died")
        self._next += 1
        return here >= self._stop_at

    def leave_together(self) -> None:
        """Wait until rank 0 has closed its files, since the first rank that exits may cause the
        others to be killed."""
        if self._thread is None:
            return
        try:
            if self._rank == 0:
                self._store.set("left", "1")
            else:
                self._until(lambda: self._store.check(["left"]), LEAVE_S)
        except RuntimeError:  # rank 0 has exited, and the store with it
            return

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        try:
            if not self._until(self._asked):
                return
            self._store.set("stop", "1")
            with self._lock:
                self._answered = True
                answer = self._next
            self._store.set(f"stop/{self._rank}", str(answer))
            keys = [f"stop/{rank}" for rank in range(self._world_size)]
            if self._until(lambda: self._store.check(keys)):
                self._stop_at = max(int(self._store.get(key)) for key in keys)
                self._agreed.set()
        except RuntimeError:  # rank 0 has exited, and the store with it: the job is ending
            return

    def _asked(self) -> bool:
        return self.request.signal is not None or self._store.check(["stop"])

    def _until(self, condition: Callable[[], bool], seconds: float = float("inf")) -> bool:
        """Wait for the condition; False if `close` was called or the time ran out first."""
        waited = 0.0
        while not condition():
            if waited >= seconds or self._closing.wait(POLL_S):
                return False
            waited += POLL_S
        return True
