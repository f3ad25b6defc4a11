"""Threads that decode images and change them with torch, each on one core."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch


def start_threads(count: int) -> ThreadPoolExecutor:
    """A pool whose threads use one core each; torch would use all cores in every thread."""
    here = torch.get_num_threads()
    all_up = Barrier(count + 1)

    def start() -> None:
        # When a thread first asks for the number, torch sets it to the process's, which would undo
        # ours if it happened later.
        torch.get_num_threads()
        torch.set_num_threads(1)
        all_up.wait()

    pool = ThreadPoolExecutor(count, thread_name_prefix="clf-loader")
    for _ in range(count):
        pool.submit(start)
    all_up.wait()
    # In a thread, `set_num_threads` sets its own number and that of all threads started later.
    torch.set_num_threads(here)
    return pool
