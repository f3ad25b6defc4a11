"""A broken node is reported by name, and a healthy one never is."""

import numpy as np
import pytest
from scipy.stats import hypergeom

from clf.tracking.nodes import departing_nodes, log_probabilities

NODES = ["node1", "node2", "node3", "node4"]


def counts(accuracy_N: list[float], images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Support and correct of 10 classes on each node."""
    rng = np.random.default_rng(seed)
    support_NC = rng.multinomial(images, np.full(10, 0.1), size=len(accuracy_N))
    return support_NC, rng.binomial(support_NC, np.array(accuracy_N)[:, None])


def test_a_node_that_reads_the_wrong_images_is_named_and_no_other():
    ((name, sentence),) = departing_nodes(*counts([0.9, 0.9, 0.6, 0.9], 500), NODES).items()
    assert name == "node3"
    assert "node node3" in sentence
    assert "look at its disk" in sentence


def test_of_two_nodes_the_worse_is_named():
    (sentence,) = departing_nodes(*counts([0.5, 0.9], 500), NODES[:2]).values()
    assert "node node1" in sentence


@pytest.mark.parametrize("accuracy", [0.1, 0.5, 0.9, 0.999])
def test_chance_alone_raises_no_warning_about_a_node(accuracy):
    for seed in range(200):
        assert departing_nodes(*counts([accuracy] * 4, 300, seed), NODES) == {}


def test_a_node_with_the_hard_classes_is_not_accused():
    support_NC = np.array([[1000, 0], [0, 1000]])
    correct_NC = np.array([[990, 0], [0, 300]])
    assert departing_nodes(support_NC, correct_NC, NODES[:2]) == {}


@pytest.mark.parametrize("correct", [0, 3, 20, 45, 50])
def test_the_bound_is_above_the_exact_probability_and_follows_it(correct):
    support_NC, correct_NC = np.array([[50], [150]]), np.array([[correct], [60]])
    table = hypergeom(200, 60 + correct, 50)
    exact = min(1.0, 2 * min(table.cdf(correct), table.sf(correct - 1)))
    bound = log_probabilities(support_NC, correct_NC)[0]
    assert bound >= np.log(exact) - 1e-9
    assert bound <= 0.5 * np.log(exact) + np.log(2)


def test_one_node_and_empty_nodes_have_nothing_to_compare():
    assert departing_nodes(np.array([[5]]), np.array([[0]]), ["node1"]) == {}
    assert departing_nodes(np.array([[0], [9]]), np.array([[0], [0]]), NODES[:2]) == {}
