"""Which images form which batch: the same for any number of ranks, and no image twice."""

import re
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clf.batch import PADDING
from clf.config import DataConfig, RunConfig
from clf.config.batch_rules import batches
from clf.data.reader import DataError
from clf.data.sampler import EvalSampler, TrainSampler, accumulation, micro_batch_size


def long_tailed(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Labels, each class at least once."""
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [np.arange(classes), rng.geometric(0.4, count - classes).clip(max=classes) - 1]
    )


def steps(labels_N: np.ndarray, cfg: DataConfig, ranks: int, epoch: int = 0) -> list[list[set]]:
    """By optimizer step: the micro-batches of all ranks, each as {(position, index)}."""
    parts = []
    for rank in range(ranks):
        sampler = TrainSampler(labels_N, cfg, 3, rank, ranks)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        parts.append([set(zip(b.positions_m, b.indices_m, strict=True)) for b in batches])
    assert len({len(part) for part in parts}) == 1
    each = accumulation(cfg, ranks)
    return [
        [micro for part in parts for micro in part[start : start + each]]
        for start in range(0, len(parts[0]), each)
    ]


def unions(by_step: Iterable[list[set]]) -> list[set]:
    return [set().union(*micros) for micros in by_step]


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(24, 200),
    batch=st.sampled_from([4, 8, 12, 24]),
    kind=st.sampled_from(["shuffle", "class_balanced"]),
    epoch=st.integers(0, 5),
    repeats=st.sampled_from([1, 2, 4]),
)
def test_each_optimizer_step_has_the_same_images_on_1_2_and_4_ranks(
    count, batch, kind, epoch, repeats
):
    labels_N = long_tailed(count, 7)
    cfg = DataConfig(batch_size=batch, sampler=kind, repeats=repeats)
    alone = unions(steps(labels_N, cfg, 1, epoch))
    assert len(alone) == count // batch
    assert all(len(step) == batch for step in alone)
    for ranks in (2, 4):
        assert unions(steps(labels_N, cfg, ranks, epoch)) == alone


def test_the_micro_batches_of_a_step_are_the_same_on_any_number_of_ranks():
    labels_N = long_tailed(100, 5)
    cfg = DataConfig(batch_size=16, micro_batch_size=4)
    alone = steps(labels_N, cfg, 1)
    for ranks in (2, 4):
        for ours, theirs in zip(steps(labels_N, cfg, ranks), alone, strict=True):
            assert sorted(map(sorted, ours)) == sorted(map(sorted, theirs))


@pytest.mark.parametrize("kind", ["shuffle", "class_balanced"])
def test_a_repeated_image_stands_so_often_in_its_step_and_not_always_beside_itself(kind):
    labels_N = long_tailed(300, 7)
    sampler = TrainSampler(labels_N, DataConfig(batch_size=24, repeats=3, sampler=kind), 3)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        order = sampler.global_order()
        orders.append(order)
        assert len(order) == len(sampler) * 24 == 288, "as many steps as without repeats"
        for step in order.reshape(-1, 24):
            _, counts = np.unique(step, return_counts=True)
            assert set(counts % 3) == {0}
            if kind == "shuffle":
                assert set(counts) == {3}
        if kind == "shuffle":
            assert len(set(order)) == 288 // 3
        else:  # over an epoch: every class equally often, to one draw
            drawn = np.bincount(labels_N[order], minlength=7) / 3
            assert drawn.max() - drawn.min() <= 1
        pairs = order.reshape(-1, 2)
        share = (pairs[:, 0] == pairs[:, 1]).mean()
        assert share < 0.25, "by chance 2 of 23"
    assert (orders[0] != orders[1]).any()


def test_micro_batches_do_not_change_what_a_step_sees():
    labels_N = long_tailed(100, 5)
    whole = unions(steps(labels_N, DataConfig(batch_size=16), 1))
    for micro, ranks in ((1, 2), (2, 4), (8, 2), (16, 1)):
        cfg = DataConfig(batch_size=16, micro_batch_size=micro)
        assert unions(steps(labels_N, cfg, ranks)) == whole


@settings(deadline=None)
@given(count=st.integers(10, 300), batch=st.integers(1, 10), epoch=st.integers(0, 3))
def test_an_epoch_shows_each_image_at_most_once_and_drops_less_than_a_batch(count, batch, epoch):
    sampler = TrainSampler(np.zeros(count, int), DataConfig(batch_size=batch), 0)
    sampler.set_epoch(epoch)
    order = sampler.global_order()
    assert len(set(order.tolist())) == len(order) > count - batch
    assert set(order.tolist()) <= set(range(count))


def test_the_order_follows_seed_and_epoch_and_can_be_had_again():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = TrainSampler(np.zeros(50, int), DataConfig(batch_size=50), seed)
        sampler.set_epoch(epoch)
        return sampler.global_order().tolist()

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4
    assert order(1, 1) == orders[3]


def earlier_order(labels_N: np.ndarray, cfg: DataConfig, seed: int, epoch: int) -> np.ndarray:
    """The order as the first versions drew it, with a pass over all images for each class."""
    count = len(labels_N) // cfg.batch_size * cfg.batch_size // cfg.repeats
    if cfg.sampler == "shuffle":
        drawn = np.random.default_rng([1, seed, epoch]).permutation(len(labels_N))[:count]
    else:
        present = np.unique(labels_N)
        rng = np.random.default_rng([2, seed, epoch])
        rounds = [rng.permutation(present) for _ in range(-(-count // len(present)))]
        classes, drawn = np.concatenate(rounds)[:count], np.empty(count, dtype=np.int64)
        for label in np.unique(classes):
            places, members = np.flatnonzero(classes == label), np.flatnonzero(labels_N == label)
            draw = np.random.default_rng([3, seed, epoch, int(label)])
            cycles = [draw.permutation(members) for _ in range(-(-len(places) // len(members)))]
            drawn[places] = np.concatenate(cycles)[: len(places)]
    if cfg.repeats == 1:
        return drawn
    by_step = drawn.reshape(-1, cfg.batch_size // cfg.repeats).repeat(cfg.repeats, axis=1)
    return np.random.default_rng([5, seed, epoch]).permuted(by_step, axis=1).ravel()


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(24, 300),
    classes=st.sampled_from([1, 7, 24, 70_000]),  # the last: more than two bytes count
    kind=st.sampled_from(["shuffle", "class_balanced"]),
    epoch=st.integers(0, 5),
    repeats=st.sampled_from([1, 3]),
)
def test_a_run_that_an_earlier_version_began_goes_on_with_the_order_it_had(
    count, classes, kind, epoch, repeats
):
    rng = np.random.default_rng(count)
    labels_N = rng.integers(classes - min(classes, 40), classes, count)  # in no order
    cfg = DataConfig(batch_size=24, sampler=kind, repeats=repeats)
    sampler = TrainSampler(labels_N, cfg, 3)
    sampler.set_epoch(epoch)
    expected = earlier_order(labels_N, cfg, 3, epoch)
    np.testing.assert_array_equal(sampler.global_order(), expected)
    micro = np.concatenate([micro.indices_m for micro in sampler])
    np.testing.assert_array_equal(micro, expected)
    assert micro.dtype == np.int64


# --- class_balanced ---


@settings(deadline=None, max_examples=40)
@given(count=st.integers(60, 400), classes=st.integers(2, 30), epoch=st.integers(0, 3))
def test_balanced_every_class_comes_equally_often_in_the_epoch_and_in_each_batch(
    count, classes, epoch
):
    labels_N = long_tailed(count, classes, seed=count)
    batch = 2 * classes
    sampler = TrainSampler(labels_N, DataConfig(batch_size=batch, sampler="class_balanced"), 1)
    sampler.set_epoch(epoch)
    seen = labels_N[sampler.global_order()]
    assert len(seen) == count // batch * batch
    for part in (seen, *np.split(seen, len(seen) // batch)):
        assert set(np.bincount(part, minlength=classes)) == {len(part) // classes}


def test_balanced_no_image_comes_again_before_all_of_its_class_came():
    labels_N = np.repeat([0, 1, 2], [50, 7, 1])
    sampler = TrainSampler(labels_N, DataConfig(batch_size=58, sampler="class_balanced"), 0)
    order = sampler.global_order()
    for label in range(3):
        of_class = order[labels_N[order] == label]
        times = np.bincount(of_class, minlength=len(labels_N))[labels_N == label]
        assert times.max() - times.min() <= 1


def test_balanced_leaves_out_classes_that_have_no_image():
    sampler = TrainSampler(
        np.array([0, 0, 3, 3]), DataConfig(batch_size=4, sampler="class_balanced"), 0
    )
    assert np.bincount(np.array([0, 0, 3, 3])[sampler.global_order()]).tolist() == [2, 0, 0, 2]


# --- what cannot be cut ---


def test_a_batch_that_ranks_cannot_share_is_refused_with_one_that_they_can():
    with pytest.raises(ValueError, match=r"batch_size=10: not divisible by 4 ranks; .*=8 or 12"):
        accumulation(DataConfig(batch_size=10), 4)
    cfg = DataConfig(batch_size=24, micro_batch_size=5)
    with pytest.raises(ValueError, match=r"2 ranks x data.micro_batch_size=5 = 10; .*=20 or 30"):
        micro_batch_size(cfg, 2)


@pytest.mark.parametrize(("batch", "micro", "gpus"), [(10, None, 4), (24, 5, 2), (7, 2, 1)])
def test_submitting_and_training_refuse_the_same_batch_in_the_same_words(batch, micro, gpus):
    cfg = RunConfig(gpus=gpus, data=DataConfig(batch_size=batch, micro_batch_size=micro))
    (fault,) = batches(cfg)
    with pytest.raises(ValueError, match=f"^{re.escape(fault)}$"):
        accumulation(cfg.data, gpus)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(DataError, match=r"batch_size: 64 is larger than the training split of 10"):
        TrainSampler(np.zeros(10, int), DataConfig(batch_size=64), 0)


# --- evaluation ---


@settings(deadline=None)
@given(count=st.integers(0, 200), batch=st.integers(1, 40), ranks=st.integers(1, 9))
def test_evaluation_sees_every_image_once_in_equally_many_equal_batches(count, batch, ranks):
    parts = [list(EvalSampler(count, batch, rank, ranks)) for rank in range(ranks)]
    sizes = [[len(micro.indices_m) for micro in part] for part in parts]
    assert all(other == sizes[0] for other in sizes)
    assert {len(EvalSampler(count, batch, rank, ranks)) for rank in range(ranks)} == {len(sizes[0])}
    rows = np.concatenate([[], *(micro.indices_m for part in parts for micro in part)])
    images = rows[rows != PADDING]
    assert sorted(images) == list(range(count))
    for rank, part in enumerate(parts):  # in turns: a node has its share of each class
        own = np.concatenate([[], *(micro.indices_m for micro in part)])
        assert own[own != PADDING].tolist() == list(range(rank, count, ranks))
    assert len(rows) - len(images) < ranks
