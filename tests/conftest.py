"""What tests share: a checkout of its own whose training is a stand-in, so that a job runs for real
in about a second; ranks, real processes that are started once; and a browser, likewise."""

import functools
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import Ranks

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = '''
"""Writes what a rank sees. A file `wait` in the run folder holds it back until it is gone."""
import json, os, sys, time

MARK = "as submitted"
SCALARS = "epoch,step,train/loss,val/loss,val/acc_top1\\n1,9,0.625,0.5,0.75\\n"
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "WORD")


def fit(cfg, run_dir, progress=True, request=None, job=None):
    rank = int(os.environ.get("RANK", 0))
    seen = {name: os.environ.get(name) for name in NAMES} | {"mark": MARK, "path": sys.path[:2]}
    (run_dir / f"seen{rank}.json").write_text(json.dumps(seen))
    if cfg.seed == 12:
        breakpoint()
    if cfg.seed == 16 and rank == 1:
        os.kill(os.getpid(), 9)
    if cfg.seed in (16, 17):
        request.is_read = True  # it trains, and is deaf
        time.sleep(600)
    while (run_dir / "wait").exists():
        time.sleep(0.05)
    if cfg.seed == 13 and rank == 1:
        raise RuntimeError("no more luck")
    if cfg.seed == 14:
        raise ValueError("data.root: this folder is not the one")
    if cfg.seed == 15:
        os.kill(os.getpid(), 9)
    scalars = {"test/acc_top1": 0.5, "test/acc_top5": 1.0, "test/loss": 0.25}
    if rank == 0:
        (run_dir / "metrics.csv").write_text(SCALARS)
        status = {"state": "finished", "epoch": 1, "epochs": 1, "metrics": scalars}
        (run_dir / "status.json").write_text(json.dumps(status))
        (run_dir / "per_class").mkdir(exist_ok=True)
        table = "class,support,correct,accuracy\\ncat,4,1,0.25\\ndog,0,0,\\n"
        (run_dir / "per_class" / "test.csv").write_text(table)
    return scalars
'''

CHROMIUM = "/usr/bin/chromium"


@functools.cache
def process_of(file: str) -> str:
    """What a test file shares with others, so that one process of pytest-xdist runs them all."""
    text = (ROOT / file).read_text(encoding="utf-8")
    if file.startswith("tests/slurm/") or "testbed" in text:
        return "slurm"
    return "ranks" if re.search(r"\branks\(\w+\)", text) else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those on SLURM come first: they wait, and the others run meanwhile."""
    items.sort(key=lambda item: process_of(item.nodeid.partition("::")[0]) != "slurm")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deals the tests out to processes (`pytest -n 2`), file by file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return process_of(nodeid.partition("::")[0])

    return ByFile(config, log)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copies of launch, clf, configs and slurm, where `clf/run.py` is the stand-in."""
    for name in ("launch", "clf", "configs", "slurm"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=ignore)
    (tmp_path / "checkout" / "clf" / "run.py").write_text(STAND_IN)
    return tmp_path / "checkout"


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], Ranks]]:
    """`ranks(4)`: four processes of one process group, started when first asked for."""
    started: dict[int, Ranks] = {}
    with ExitStack() as stack:

        def of(world: int) -> Ranks:
            if world not in started:
                started[world] = stack.enter_context(Ranks(world))
            return started[world]

        yield of


@pytest.fixture(scope="module")  # while it is there, this thread can run no other event loop
def browser() -> Iterator[Any]:
    """A headless Chromium, playwright's `Browser`. Skips where there is none; in CI that is a
    failure."""
    if not Path(CHROMIUM).exists():
        reason = f"no browser here: expected {CHROMIUM}; apt-get install chromium brings it"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
