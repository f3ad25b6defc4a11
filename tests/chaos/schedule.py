"""A seeded schedule of faults: which, on which run, at which instant; and what came of each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, NamedTuple

from clf.config import EmaConfig, RunConfig
from clf.run_folder import RunFolder
from tests import tiny
from tests.chaos.equal import differences
from tests.chaos.faults import OF_A_DISK, OF_A_SERVER, OF_PROCESSES, OF_SEVERAL_RANKS, Around, Fault
from tests.chaos.starts import Run
from tests.disk import small_disk
from tests.tracking.stand_in import StandIn, serving

EPOCHS, STEPS = 3, 16  # steps of an epoch
HANG_S = 5.0  # hang_timeout_s
FAULTS_OF_A_RUN = 5
EARLY = 0.2  # share of the faults that strike while the ranks start
DISK = "12m"  # a run of this size needs some 4


@dataclass
class Struck:
    """A fault and what came of it."""

    fault: str
    run: str
    step: int  # the last one that was logged when it struck; -1: none of this start
    lost_s: float | None = None  # until the run was further than it had been
    differences: list[str] | None = None  # None: the run did not end
    failure: str = ""

    @property
    def survived(self) -> bool:
        return self.differences is not None


class Kind(NamedTuple):
    """A kind of run, and what may happen to it."""

    name: str
    world: int
    faults: list[Fault]
    disk: bool = False
    server: bool = False


KINDS = [
    Kind("two ranks", 2, OF_PROCESSES + OF_SEVERAL_RANKS),
    Kind("one rank on a small disk", 1, OF_PROCESSES + 3 * OF_A_DISK, disk=True),
    Kind("two ranks online in W&B", 2, OF_PROCESSES + 2 * OF_A_SERVER, server=True),
]


def config(root: Path, kind: Kind) -> RunConfig:
    """A run of 48 steps with an average of the weights and accumulated gradients."""
    cfg = tiny.config(
        str(root), "ddp" if kind.world > 1 else "auto", kind.world,
        data={"image_size": 16, "eval_resize": 16, "batch_size": 16 * kind.world},
        model={"_target_": "tests.chaos.network.Slow"}, epochs=EPOCHS, limit_batches=2 * STEPS,
        ema=EmaConfig(decay=0.9),
    )  # fmt: skip
    cfg.hang_timeout_s = HANG_S
    cfg.checkpoint.every_steps = 5
    cfg.tracking.mode = "online" if kind.server else "disabled"
    return cfg


def suffer(
    folder: Path, faults: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> list[Struck]:
    """So many faults on runs below `folder`, each of which is compared with one that was left
    alone."""
    random, struck = Random(seed), []
    whole: dict[str, RunFolder] = {}
    drawn = {kind.name: _endless(kind.faults, random) for kind in KINDS}
    for number in count():
        kind = KINDS[number % len(KINDS)]
        if kind.name not in whole:
            whole[kind.name] = _undisturbed(folder, kind)
        left = min(FAULTS_OF_A_RUN, faults - len(struck))
        chosen = [next(drawn[kind.name]) for _ in range(left)]
        with _around(folder / f"run{number}", kind) as (run, around):
            new = disturb(run, chosen, whole[kind.name], random, around, kind.name)
        for one in new:
            say(_line(one))
        struck += new
        if len(struck) >= faults:
            return struck
    raise AssertionError("not reached")


def disturb(
    run: Run, faults: list[Fault], whole: RunFolder, random: Random, around: Around, kind: str
) -> list[Struck]:
    """Strike the run with these faults at random steps, and see it to its end."""
    last = EPOCHS * STEPS - 4
    steps = sorted(random.sample(range(last), len(faults)))
    struck: list[Struck] = []
    try:
        for fault, step in zip(faults, steps, strict=True):
            run.until(step)
            if run.finished:  # it was faster than the faults
                break
            struck.append(Struck(fault.__doc__ or "", kind, -1))
            if random.random() < EARLY:
                run.kill()
                run.start()
                time.sleep(random.uniform(0, 1.5))
            else:
                time.sleep(random.uniform(0, 0.1))
            reached, began = run.step(), time.monotonic()
            struck[-1].step = reached
            fault(run, random, around)
            run.until(max(reached, step) + 1)
            struck[-1].lost_s = time.monotonic() - began
        run.finish()
        found = differences(run.folder, whole)
        for one in struck:
            one.differences = found
    except AssertionError as error:
        run.kill()
        if not struck:
            raise
        for one in struck:
            one.failure = str(error)
    return struck


def report(struck: list[Struck]) -> str:
    """A row a fault: how often it was tried and survived, how many of these runs ended with the
    same bits, and the seconds that one cost."""
    lines = [
        "| fault | tried | survived | bits equal | seconds lost: median | most |",
        "|---|---|---|---|---|---|",
    ]
    for name in sorted({one.fault for one in struck}):
        lines.append(_row(name, [one for one in struck if one.fault == name]))
    return "\n".join([*lines, _row("all", struck)])


def _row(name: str, struck: list[Struck]) -> str:
    survived = sum(one.survived for one in struck)
    equal = sum(one.differences == [] for one in struck)
    lost = [one.lost_s for one in struck if one.lost_s is not None] or [float("nan")]
    return (
        f"| {name} | {len(struck)} | {survived} | {equal} | {median(lost):.1f} | {max(lost):.1f} |"
    )


def _line(one: Struck) -> str:
    how = "the run did not end" if not one.survived else "the same bits"
    if one.differences:
        how = f"{len(one.differences)} differences, such as {one.differences[0]}"
    lost = "" if one.lost_s is None else f", {one.lost_s:.1f} s"
    return f"{one.run}, after step {one.step}: {one.fault}{lost}: {how} {one.failure}".rstrip()


def _undisturbed(folder: Path, kind: Kind) -> RunFolder:
    path = folder / f"whole: {kind.name}"
    run = Run(path, config(folder / "digits", kind._replace(server=False)))
    run.finish()
    return run.folder


@contextmanager
def _around(folder: Path, kind: Kind) -> Iterator[tuple[Run, Around]]:
    """A new run, not started yet, with what it has around it; all of it is gone afterwards."""
    server: Any = serving() if kind.server else nullcontext()
    disk: Any = small_disk(folder, DISK) if kind.disk else nullcontext()
    with server as stand_in, disk as mounted:
        run = Run(
            folder / "run",
            config(folder.parent / "digits", kind),
            _variables(stand_in) if stand_in else {},
        )
        try:
            yield run, Around(mounted, stand_in)
        finally:
            run.kill()


def _variables(server: StandIn) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40}


def _endless(faults: list[Fault], random: Random) -> Iterator[Fault]:
    """All of them in a random order, again and again."""
    while True:
        yield from random.sample(faults, len(faults))
