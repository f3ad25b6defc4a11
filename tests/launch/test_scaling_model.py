"""The model of docs/scaling.md beside numbers that were reckoned by hand or published."""

import math
from dataclasses import replace

import pytest
from torchvision.models import resnet18, resnet50

from launch.benchmarks.scaling_model import (
    FIRST_BUCKET,
    MIB,
    Cluster,
    Link,
    Training,
    all_reduce_s,
    buckets,
    efficiency,
    epoch_s,
    exposed_s,
    fitted,
    images_per_second,
    ring_s,
    slowest,
    step,
    tree_s,
)
from launch.benchmarks.scaling_paper import CLUSTERS, SPREAD, TRAININGS

LINK = Link("", bytes_per_s=1e9, hop_s=1e-3, level_s=5e-3)
ONE_S = Training("", parameters=MIB, images_per_second=100, images=100)  # 4 MiB of gradients


def test_a_ring_of_four_sends_six_quarters_one_after_another() -> None:
    assert ring_s(1e9, 4, LINK) == pytest.approx(6 * (0.25 + 1e-3))
    assert ring_s(1e9, 1, LINK) == 0


def test_a_tree_of_five_has_three_levels_up_and_down() -> None:
    assert tree_s(0.9e9, 5, LINK) == pytest.approx(2 * (1 + 3 * 5e-3))
    assert tree_s(1e9, 1, LINK) == 0
    assert tree_s(1e9, 5, Link("", 1e9, 1e-3)) == math.inf


def test_many_nodes_take_the_tree_and_few_the_ring() -> None:
    cluster = Cluster(1, LINK, LINK)
    assert all_reduce_s(1e6, 2, cluster) == ring_s(1e6, 2, LINK)
    assert all_reduce_s(1e6, 128, cluster) == tree_s(1e6, 128, LINK) < ring_s(1e6, 128, LINK)


def test_all_devices_of_a_node_add_up_before_the_nodes_do() -> None:
    within, between = Link("", 1e12, 0), Link("", 1e9, 0)
    assert all_reduce_s(1e9, 2, Cluster(8, within, between)) == pytest.approx(
        14 / 8 * 1e-3 + 1.0  # a node sends half of 1 GB twice
    )


def test_buckets_are_those_that_distributed_data_parallel_lays() -> None:
    assert buckets(60 * MIB) == [FIRST_BUCKET, 25 * MIB, 25 * MIB, 9 * MIB]
    assert buckets(10) == [10]


def test_only_what_the_backward_pass_does_not_hide_is_exposed() -> None:
    # Ready at 1 and 2 s; each takes 0.5 s: the last one ends at 2.5 s.
    assert exposed_s([1, 1], 2.0, lambda size: 0.5) == pytest.approx(0.5)
    # Each takes 3 s: they end at 4 and 7 s.
    assert exposed_s([1, 1], 2.0, lambda size: 3.0) == pytest.approx(5.0)
    assert exposed_s([1, 1], 2.0, lambda size: 0.0) == 0


def test_the_slowest_of_many_ranks_is_further_from_the_mean() -> None:
    assert slowest(1, 0.5) == 1
    # Expected maxima of 2, 8 and 100 standard normal numbers: 0.564, 1.424, 2.508 (Harter 1961).
    assert slowest(2, 1.0) == pytest.approx(1.564, abs=0.03)
    assert slowest(8, 1.0) == pytest.approx(2.424, abs=0.03)
    assert slowest(100, 1.0) == pytest.approx(3.508, abs=0.03)


def test_one_device_alone_has_an_efficiency_of_one_and_sends_nothing() -> None:
    made = step(ONE_S, 1, Cluster(1, LINK, LINK), spread=0.1)
    assert (made.seconds, made.exposed_s) == (1.0, 0.0)
    assert (efficiency(ONE_S, made), images_per_second(ONE_S, made)) == (1.0, 100.0)


def test_a_step_of_two_nodes_is_what_one_reckons() -> None:
    made = step(ONE_S, 2, Cluster(1, LINK, Link("", MIB, 0)), spread=0.0)
    # 1 MiB is ready after 1/6 s and takes 1 s; 3 MiB take 3 s after it, beyond the 2/3 s.
    assert made.exposed_s == pytest.approx(1 / 6 + 1 + 3 - 2 / 3)
    assert made.seconds == pytest.approx(1 + made.exposed_s)
    assert images_per_second(ONE_S, made) == pytest.approx(200 / made.seconds)
    assert epoch_s(ONE_S, 1_000, made, 7.0) == pytest.approx(5 * made.seconds + 7)


def test_a_link_is_found_again_from_the_times_of_its_rings() -> None:
    sizes = [1e3, 1e5, 1e7]
    link = fitted(sizes, [ring_s(size, 3, LINK) for size in sizes], 3)
    assert link.bytes_per_s == pytest.approx(LINK.bytes_per_s)
    assert link.hop_s == pytest.approx(LINK.hop_s)
    with pytest.raises(ValueError, match="two sizes or more"):
        fitted([1e3, 1e3], [1.0, 1.0], 2)
    with pytest.raises(ValueError, match="do not grow"):
        fitted([1e3, 1e6], [1.0, 0.5], 2)


def test_the_parameters_are_those_of_the_networks() -> None:
    counts = [
        sum(one.numel() for one in network.parameters())
        for network in (resnet18(), resnet50(), resnet50(num_classes=21_841))
    ]
    assert [training.parameters for training in TRAININGS] == counts


def test_one_node_has_the_speed_that_was_published_for_it() -> None:
    for cluster in CLUSTERS:
        made = step(TRAININGS[1], 1, cluster, SPREAD)
        assert images_per_second(TRAININGS[1], made) == pytest.approx(22_067, rel=1e-3)


@pytest.mark.parametrize("training", TRAININGS, ids=lambda one: one.name)
def test_a_slower_network_more_nodes_and_larger_gradients_are_never_faster(
    training: Training,
) -> None:
    fast, slow = CLUSTERS
    for nodes in (2, 8, 128):
        here = efficiency(training, step(training, nodes, fast, SPREAD))
        assert here > efficiency(training, step(training, nodes, slow, SPREAD))
        assert here > efficiency(training, step(training, 2 * nodes, fast, SPREAD))
        halved = replace(training, sent_bytes=2)
        for cluster in CLUSTERS:
            full = efficiency(training, step(training, nodes, cluster, SPREAD))
            assert efficiency(halved, step(halved, nodes, cluster, SPREAD)) > full
