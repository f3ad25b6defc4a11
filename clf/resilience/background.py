"""Work that the training need not wait for, one after another in a thread of its own."""

import queue
import threading
from collections.abc import Callable


class Background:
    """A thread that starts with the first work. It dies with the process, and what it has not done
    by then is lost.

    The work must not raise.

    Args:
        name: of the thread
        most: works that may wait; `do` blocks while there are as many. 0: any number
    """

    def __init__(self, name: str, most: int = 0) -> None:
        self.name = name
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(most)
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], None]) -> None:
        self._waiting.put(work)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._thread.start()

    @property
    def left(self) -> int:
        """How much is not done yet."""
        return self._waiting.unfinished_tasks

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether everything was done within the time; None: it waits as long as it takes."""
        with self._waiting.all_tasks_done:
            return self._waiting.all_tasks_done.wait_for(
                lambda: not self._waiting.unfinished_tasks, timeout_s
            )

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            try:
                work()
            finally:
                self._waiting.task_done()
