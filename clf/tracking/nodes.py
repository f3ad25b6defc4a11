"""Finds a node whose accuracy departs from the others' by more than chance, as with a broken disk
or a wrong shard.

N nodes, C classes.
"""

import os
import socket
from collections.abc import Sequence

import numpy as np

from clf.metrics.measures import percent

LEVEL = 1e-6  # chance of a false alarm in an evaluation, over all nodes
TILTS_T = np.concatenate([-np.geomspace(8, 1e-3, 60), np.geomspace(1e-3, 8, 60)])


def node_name() -> str:
    """The name of this machine; SLURM's own name for it within a job."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def departing_nodes(
    support_NC: np.ndarray, correct_NC: np.ndarray, nodes: Sequence[str], level: float = LEVEL
) -> dict[str, str]:
    """Such nodes, the most improbable first, with a sentence for each.

    Each class is compared with itself on other nodes, since nodes may hold different classes. A
    node that was found is left out of the next comparison, so that the others do not look odd
    beside it.

    Args:
        nodes: their names, N of them; fewer than two: nothing to compare
    """
    sentences = {}
    left = [n for n in range(len(nodes)) if support_NC[n].sum()]
    tests = max(1, len(left))
    while len(left) > 1:
        log_p_N = log_probabilities(support_NC[left], correct_NC[left]) + np.log(tests)
        accuracy_N = correct_NC[left].sum(1) / support_NC[left].sum(1)
        if log_p_N.min() >= np.log(level):
            break
        # Two nodes depart from each other equally; the worse one is at fault.
        worst = int((accuracy_N if len(left) == 2 else log_p_N).argmin())
        node = left.pop(worst)
        own, others = accuracy_N[worst], correct_NC[left].sum() / support_NC[left].sum()
        sentences[nodes[node]] = (
            f"node {nodes[node]} has {percent(own)} of its {support_NC[node].sum()} images right, "
            f"the others {percent(others)}. By chance this happens less than once in "
            f"{1 / level:,.0f} evaluations: look at its disk, its files and its GPUs"
        )
    return sentences


def log_probabilities(support_NC: np.ndarray, correct_NC: np.ndarray) -> np.ndarray:
    """An upper bound of log P(a node's correct count departs this far or farther), [N].

    If nodes do not matter, the correct images of a class on a node are a random draw without
    replacement from those of all nodes: hypergeometric, and independent over classes. Its
    moment generating function is at most the binomial's (Hoeffding 1963, theorem 4), so Chernoff's
    bound holds at any size; a normal approximation would raise false alarms where nearly all images
    are right.
    """
    total_C = support_NC.sum(axis=0)
    right_C = correct_NC.sum(axis=0) / np.maximum(total_C, 1)
    # log E exp(t x) of a node's correct count x, for each tilt t.
    growth_TC = np.log1p(right_C * np.expm1(TILTS_T)[:, None])
    bound_TN = growth_TC @ support_NC.T.astype(float) - TILTS_T[:, None] * correct_NC.sum(axis=1)
    return np.minimum(0.0, bound_TN.min(axis=0) + np.log(2))  # either side
