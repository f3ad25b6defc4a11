"""`testbed`: a real SLURM of 4 nodes for tests, one for the whole session, clean for each test."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm.partitions import partitions
from tests.slurm.testbed import Testbed, can_install, install, missing


@pytest.fixture(autouse=True)
def _ask_slurm_again() -> None:
    """A test may meet another cluster than the one before it in this process."""
    partitions.cache_clear()


@pytest.fixture(scope="session")
def slurm_testbed() -> Iterator[Testbed]:
    """The running testbed. Skips where none can be had; in CI that is a failure."""
    if reason := _why_not():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the tests on a real SLURM: {reason}")
        pytest.skip(f"no real SLURM here: {reason}")
    folder = Path(tempfile.gettempdir()) / f"clf-test-{secrets.token_hex(4)}"
    with Testbed(folder) as made:
        yield made


@pytest.fixture
def testbed(slurm_testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Iterator[Testbed]:
    """The testbed with SLURM_CONF set; afterwards its jobs are gone and its nodes up again."""
    for name, value in slurm_testbed.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_testbed
    slurm_testbed.cancel_all()
    slurm_testbed.repair()


def _why_not() -> str:
    """What keeps the testbed from starting, after an attempt to install it; "" if nothing does."""
    failed = ""
    if missing() and can_install():
        try:
            install()
        except subprocess.CalledProcessError as error:
            failed = f"; apt-get failed: {error}"
    faults = missing()
    return "; ".join(faults) + failed if faults else ""
