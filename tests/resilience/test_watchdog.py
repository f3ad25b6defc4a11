"""A rank that hangs is named, every rank that can leaves its stack, and the run ends.

Real runs over gloo whose ranks hang in each way; all at once, since each of them mostly waits.
"""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clf.resilience.beats import EXIT_HANG, Beat, Still, behind
from clf.run_folder import RunFolder, read_status
from slurm.failures import diagnose

TIMEOUT_S = 6.0
STEP = 2  # steps done when a rank hangs
FOR_EVER_S = 10_000
# A way to hang -> (ranks, the rank that hangs)
WAYS = {"stopped": (2, 1), "stopped rank 0": (2, 0), "asleep": (2, 1), "loader": (1, 0)}
PATIENT = {"a long validation": (2, 1)}  # what takes its time is no hang


def stop_here(event: threading.Event) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fall_asleep(event: threading.Event) -> None:
    event.wait(FOR_EVER_S)


def one_rank(way: str, rank: int, world: int, port: int, root: Path) -> None:
    """Trains until the rank hangs in this way."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ["SLURMD_NODENAME"] = f"node{rank}" if way == "asleep" else "here"
    import torch

    from clf.data.loader import ThreadedLoader
    from clf.run import fit
    from tests.tiny import TinyModel, config

    torch.set_num_threads(1)
    hangs = rank == (WAYS | PATIENT)[way][1]
    act: Callable[[threading.Event], None] = stop_here if "stopped" in way else fall_asleep
    step, batches = TinyModel.training_step, ThreadedLoader.__iter__
    validate = TinyModel.validation_step

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        time.sleep(0.2)
        if hangs and way in ("asleep", "stopped", "stopped rank 0") and self.global_step == STEP:
            act(threading.Event())
        return step(self, batch, batch_idx)

    def iterate(self: Any) -> Any:
        for number, batch in enumerate(batches(self)):
            if way == "loader" and number == STEP:
                act(threading.Event())
            yield batch

    def validation_step(self: Any, batch: Any, batch_idx: int) -> Any:
        if hangs and way == "a long validation" and batch_idx == 0 and self.current_epoch == 1:
            time.sleep(1.5 * TIMEOUT_S)
        return validate(self, batch, batch_idx)

    TinyModel.validation_step = validation_step  # type: ignore[method-assign]
    TinyModel.training_step, ThreadedLoader.__iter__ = training_step, iterate  # type: ignore[method-assign]
    data = {"micro_batch_size": 32 // world}
    cfg = config(f"{root}/digits", gpus=world, data=data, hang_timeout_s=TIMEOUT_S)
    fit(cfg, root / way, progress=False)


@pytest.fixture(scope="module")
def codes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[int | None]]]:
    """(the folder of the runs, exit codes of the ranks by way)."""
    root = tmp_path_factory.mktemp("hang")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["clf.run", "tests.tiny"])
    started: dict[str, list[Any]] = {}
    for way, (world, _) in (WAYS | PATIENT).items():
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        started[way] = [
            context.Process(target=one_rank, args=(way, rank, world, port, root))
            for rank in range(world)
        ]
        for process in started[way]:
            process.start()
    end = time.monotonic() + 120
    for process in (one for processes in started.values() for one in processes):
        process.join(max(0, end - time.monotonic()))
    found = {way: [one.exitcode for one in processes] for way, processes in started.items()}
    for process in (one for processes in started.values() for one in processes):
        if process.is_alive():
            process.kill()
    return root, found


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_hangs_ends_and_no_rank_of_it_stays(
    codes: tuple[Path, dict[str, list[int | None]]], way: str
) -> None:
    world, hangs = WAYS[way]
    expected = [EXIT_HANG] * world
    if "stopped" in way:
        expected[hangs] = -signal.SIGKILL
    assert codes[1][way] == expected


@pytest.mark.parametrize("way", WAYS)
def test_the_rank_that_hangs_is_named_with_its_node_and_step(
    codes: tuple[Path, dict[str, list[int | None]]], way: str
) -> None:
    run, hangs = codes[0] / way, WAYS[way][1]
    status = read_status(run) or {}
    assert status["state"] == "failed"
    assert (status["hang"]["rank"], status["hang"]["ranks"]) == (hangs, [hangs])
    found = diagnose(run)
    assert found is not None
    node = f"node{hangs}" if way == "asleep" else "here"
    assert (found.kind, found.rank, found.host) == ("hang", hangs, node)
    assert status["hang"]["node"] == node
    assert "logs/stacks_rank*.txt" in found.remedy
    if "stopped" not in way:
        assert f"after step {STEP}" in found.summary
    if way == "loader":
        assert "waits for its next batch" in found.summary


@pytest.mark.parametrize("way", WAYS)
def test_the_stack_of_every_rank_shows_where_it_is(
    codes: tuple[Path, dict[str, list[int | None]]], way: str
) -> None:
    world, hangs = WAYS[way]
    for rank in range(world):
        stack = RunFolder(codes[0] / way).stacks(rank).read_text()
        if rank == hangs and "stopped" in way:
            assert "cannot give a stack: it is stopped" in stack
        elif rank == hangs:
            assert "in fall_asleep" in stack
        else:
            assert "main thread (most recent call last)" in stack
            assert "in backward" in stack


def test_what_takes_its_time_is_no_hang(
    codes: tuple[Path, dict[str, list[int | None]]],
) -> None:
    assert codes[1]["a long validation"] == [0, 0]
    assert (read_status(codes[0] / "a long validation") or {})["state"] == "finished"


def beat(marks: int, **more: Any) -> Beat:
    fields = {"node": "node1", "machine": "", "pid": 1, "began": "", "number": 0, "doing": ""}
    return Beat(**(fields | {"marks": marks, "watched": True, "epoch": 0, "step": 0} | more))


def test_of_ranks_that_are_equally_far_none_is_blamed() -> None:
    assert behind({0: beat(5), 1: beat(4), 2: beat(4)}) == [1, 2]
    assert behind({0: beat(4), 1: beat(4)}) == []
    assert behind({0: beat(4)}) == [0]


def test_time_in_which_the_watching_rank_was_stopped_itself_counts_for_nobody() -> None:
    still = Still(most_s=2)
    still.look({"rank 1": 7}, 1)
    still.look({"rank 1": 7}, 1)
    still.look({"rank 1": 7}, 3600)
    assert still.seconds["rank 1"] == 3
    still.look({"rank 1": 8}, 1)
    assert still.seconds["rank 1"] == 0
