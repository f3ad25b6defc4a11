"""CPU cores that this process may use, and the share of one rank. Imports no torch."""

import os

# The cores of one rank, set by a job that knows them; without it the ranks of a machine share its
# cores.
CORES_PER_RANK = "CLF_CORES_PER_RANK"


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on a Mac
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_per_rank(ranks_here: int) -> int:
    """Cores of this rank, at least 1.

    Args:
        ranks_here: how many ranks run on this machine
    """
    share = os.environ.get(CORES_PER_RANK)
    return int(share) if share else max(1, usable_cores() // ranks_here)
