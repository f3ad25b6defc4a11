"""Faults on a real SLURM of four nodes: jobs that are signalled, preempted, and lose a node or a
rank, and go on by themselves."""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from unittest.mock import patch

from clf.run_folder import RunFolder
from tests.chaos.equal import differences
from tests.chaos.schedule import Struck
from tests.slurm.place import ROOT, SETTINGS, STEPS, Place, read_job, wait_for
from tests.slurm.testbed import Testbed, processes

KIND = "two nodes of a SLURM"
FAULTS_OF_A_RUN = 4


def usr2(place: Place, name: str, random: Random) -> None:
    """SLURM: SIGUSR2 to the ranks"""
    place.testbed.command("scancel", "--signal=USR2", read_job(place.run(name)))


def terminate(place: Place, name: str, random: Random) -> None:
    """SLURM: SIGTERM to the ranks"""
    place.testbed.command("scancel", "--signal=TERM", read_job(place.run(name)))


def terminate_srun(place: Place, name: str, random: Random) -> None:
    """SLURM: SIGTERM to srun, the script and the ranks"""
    place.testbed.command("scancel", "--full", "--signal=TERM", read_job(place.run(name)))


def preempt(place: Place, name: str, random: Random) -> None:
    """SLURM: preempted by an urgent job"""
    restarts = place.job(name).restarts or 0
    urgent = place.testbed.command(
        *("sbatch", "--parsable", "-p", "high", "--nodes=2", f"--nodelist={place.nodes(name)}"),
        *("--exclusive", "--output=/dev/null", "--wrap=sleep 600"),
    ).strip()
    wait_for("preempted", lambda: (place.job(name).restarts or 0) > restarts)
    place.testbed.command("scancel", urgent)


def node_down(place: Place, name: str, random: Random) -> None:
    """SLURM: a node is set down"""
    place.testbed.set_down(random.choice(place.nodes(name).split(",")))


def slurmd_killed(place: Place, name: str, random: Random) -> None:
    """SLURM: kill -9 of a node's slurmd and ranks"""
    place.testbed.kill_node(random.choice(place.nodes(name).split(",")))


def kill_rank(place: Place, name: str, random: Random) -> None:
    """SLURM: kill -9 of a rank"""
    logs = str(RunFolder(place.run(name)).logs)
    ranks = [pid for pid in processes.of_jobs(place.testbed.folder) if _is_rank(pid, logs)]
    processes.send(random.choice(ranks), signal.SIGKILL)


def _is_rank(pid: int, logs: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:  # it ended meanwhile
        return False
    return "python" in words[0] and "submitit.core._submit" in words and logs in words


Fault = Callable[[Place, str, Random], None]
FAULTS: list[Fault] = [
    usr2,
    terminate,
    terminate_srun,
    preempt,
    node_down,
    slurmd_killed,
    kill_rank,
]


def suffer(faults: int, seed: int, say: Callable[[str], None]) -> list[Struck]:
    """So many faults on runs of two nodes, each compared with one of two local ranks that was left
    alone."""
    random, struck = Random(seed), []
    drawn = [one for _ in range(faults) for one in random.sample(FAULTS, len(FAULTS))][:faults]
    with (
        tempfile.TemporaryDirectory(prefix="clf-chaos-") as user,
        Testbed(Path(tempfile.gettempdir()) / f"clf-test-{secrets.token_hex(4)}") as testbed,
        patch.dict(os.environ, testbed.environment),
    ):
        place = Place(Path(user), testbed)
        whole = [sys.executable, str(ROOT / "launch" / "submit.py"), "--name", "whole"]
        words = [*whole, "--gpus", "2", *SETTINGS]
        subprocess.run(words, cwd=user, env=place.local, check=True, stdout=subprocess.DEVNULL)
        for number, first in enumerate(range(0, faults, FAULTS_OF_A_RUN)):
            chosen = drawn[first : first + FAULTS_OF_A_RUN]
            new = _disturb(place, f"struck{number}", chosen, random)
            for one in new:
                say(f"{one.run}, after step {one.step}: {one.fault}: {one.differences}")
            struck += new
        testbed.cancel_all()
    return struck


def _disturb(place: Place, name: str, faults: list[Fault], random: Random) -> list[Struck]:
    place.submit(
        {
            name: (
                *("--nodes", "2", "--gpus", "1", "model.pause=1.0", "--partition", "preempt"),
                *("slurm.retries=100", "slurm.max_excluded=0"),
            )
        }
    )
    steps = sorted(random.sample(range(1, STEPS - 4), len(faults)))
    struck = []
    for fault, step in zip(faults, steps, strict=True):
        place.wait_for_step(name, step)
        began, restarts = time.monotonic(), place.job(name).restarts or 0
        struck.append(Struck(fault.__doc__ or "", KIND, step))
        fault(place, name, random)
        place.wait_until_queued_again(name, restarts + 1)
        place.testbed.repair()
        place.wait_for_step(name, step + 1)
        struck[-1].lost_s = time.monotonic() - began
    place.wait_for_end(name)
    found = differences(RunFolder(place.run(name)), RunFolder(place.run("whole")))
    for one in struck:
        one.differences = found
    return struck
