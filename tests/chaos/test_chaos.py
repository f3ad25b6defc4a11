"""Twenty faults at random instants, of all kinds: each run ends with the bits of one that was left
alone. `make chaos FAULTS=200` is the long one."""

import os
from pathlib import Path

import pytest

from tests.chaos.schedule import FAULTS_OF_A_RUN, KINDS, report, suffer
from tests.disk import why_not_mounted

FAULTS, SEED = 20, 11


def test_runs_that_are_struck_by_twenty_faults_end_with_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if reason := why_not_mounted():
        if os.environ.get("CI"):
            pytest.fail(f"CI must run all kinds of faults: {reason}")
        pytest.skip(reason)
    struck = suffer(tmp_path, FAULTS, SEED, print)
    print(report(struck))
    assert len(struck) == FAULTS
    assert {one.run for one in struck} == {kind.name for kind in KINDS[: FAULTS // FAULTS_OF_A_RUN]}
    assert [one for one in struck if one.differences != []] == []
