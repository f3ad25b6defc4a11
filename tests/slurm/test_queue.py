"""Reading the answers of SLURM that the testbed does not give: accounting, and no answer at all.
test_jobs.py asks a real SLURM."""

from pathlib import Path

import pytest

from slurm import queue

GONE = "echo 'Job 7_1 not found' >&2; exit 1"


def commands(folder: Path, **scripts: str) -> str:
    """A PATH on which these commands of SLURM are."""
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.parametrize(
    ("line", "state", "nodes", "code"),
    [
        ("CANCELLED by 1000|node[1-2]|2026-01-02T03:04:05|0:15", "CANCELLED", "node[1-2]", "0:15"),
        ("TIMEOUT|node7|2026-01-02T03:04:05|0:0", "TIMEOUT", "node7", "0:0"),
        ("PENDING|None assigned|Unknown|0:0", "PENDING", None, "0:0"),
    ],
)
def test_how_a_job_ended_is_known_from_accounting_when_the_controller_has_forgotten_it(
    line: str, state: str, nodes: str | None, code: str, tmp_path: Path, monkeypatch
) -> None:
    asked = f'[ "$*" = "-n -P -X -j 7_1 -o State,NodeList,Start,ExitCode" ] && echo "{line}"'
    monkeypatch.setenv("PATH", commands(tmp_path, scontrol=GONE, sacct=asked))
    found = queue.job("7_1")
    assert found is not None
    assert (found.state, found.nodes, found.exit_code) == (state, nodes, code)
    assert found.lives == (state == "PENDING")


def test_a_controller_that_does_not_answer_is_no_word_on_the_job(
    tmp_path: Path, monkeypatch
) -> None:
    down = "echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1"
    monkeypatch.setenv("PATH", commands(tmp_path, scontrol=down, squeue=down))
    with pytest.raises(queue.QueueError, match="Unable to contact slurm controller"):
        queue.job("7")
    with pytest.raises(queue.QueueError, match="Unable to contact"):
        queue.jobs(["7"])
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(queue.QueueError, match="scontrol is not on the PATH"):
        queue.job("7")
