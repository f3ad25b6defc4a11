"""`nodes=1-4`: what it may be, and which of the nodes that SLURM gives a run can use."""

from pathlib import Path

import pytest

from clf.config.node_range import nodes_to_use, usable_counts
from clf.config.saved import load, save
from clf.plan import compose, examine, resolve

CPU = ("strategy.accelerator=cpu", "gpus=2")


@pytest.mark.parametrize("nodes", ["4-1", "0-2", "abc", "2.5", "1-", "-3", "true", "null", "1-2-3"])
def test_a_value_that_is_no_number_and_no_range_is_refused(nodes: str) -> None:
    with pytest.raises(ValueError, match=rf"nodes={nodes}: expected a .*number of at least 1"):
        compose([f"nodes={nodes}"])


def test_the_micro_batch_is_fixed_so_that_any_number_of_nodes_computes_the_same_parts() -> None:
    cfg = resolve(compose(["nodes=1-4", "data.batch_size=256", "name=x", *CPU]))
    assert (cfg.nodes, cfg.data.micro_batch_size) == ("1-4", 32)
    assert usable_counts(cfg) == [1, 2, 4]
    assert [nodes_to_use(cfg, given) for given in (1, 2, 3, 4)] == [1, 2, 2, 4]
    fixed = resolve(compose(["nodes=4", "data.batch_size=256", "name=x", *CPU]))
    assert fixed.data.micro_batch_size is None


def test_a_number_of_nodes_that_is_not_used_whole_is_said_with_what_would_use_it() -> None:
    examined = examine(["nodes=1-4", "data.batch_size=240", *CPU])
    assert examined.faults == []
    (note,) = [one for one in examined.notes if one.startswith("nodes=")]
    assert "240 images, 30 a forward pass" in note
    assert "2 of 3 nodes; set data.micro_batch_size=10" in note
    also = ["nodes=1-4", "data.batch_size=240", "data.micro_batch_size=10", *CPU]
    assert not [one for one in examine(also).notes if one.startswith("nodes=")]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (
            ["nodes=2-3", "data.batch_size=24", "data.micro_batch_size=4"],
            "set nodes=3; or set data.micro_batch_size=2",
        ),
        (["nodes=1-3", "data.batch_size=256"], "data.batch_size=256: not divisible by 6 ranks"),
        (["nodes=1-2", "data.micro_batch_size=auto"], "it must be the same at every start"),
        (["nodes=1-2", "strategy=single"], "takes one device, not the 4 of nodes=1-2"),
    ],
)
def test_what_no_allocation_could_run_is_refused(settings: list[str], fault: str) -> None:
    with pytest.raises(ValueError, match="expected|not|set") as caught:
        compose([*settings, *CPU])
    assert fault in str(caught.value)


def test_a_range_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    cfg = resolve(compose(["nodes=1-4", "data.batch_size=256", "name=x", *CPU]))
    path = tmp_path / "config.yaml"
    save(cfg, path)
    assert load(path).nodes == "1-4"
