"""Starts a run as a job: of SLURM where there is SLURM, else local processes. One task per device.

job = submit(cfg, run_dir)  # after the run folder holds config.yaml and the code snapshot
jobs = submit_array(cfg, runs, folder)  # the runs of a sweep
"""

import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clf.atomic import private_files
from clf.config import RunConfig
from clf.config.node_range import most_nodes
from clf.cores import cores_per_rank
from clf.resilience.lease import Lease
from clf.run_folder import RunFolder
from slurm import environment, queue, submitit_adapter
from slurm.devices import has_slurm, local_gpus, uses_gpus
from slurm.job import Job
from slurm.records import LOCAL, write_job
from slurm.script import body, script


def submit(cfg: RunConfig, run_dir: Path, lease: Lease) -> Any:
    """Start the run of `run_dir` as a job and return submitit's handle of it.

    Args:
        lease: of the run; the job's rank 0 takes it over

    The pickle holds the run folder's path and the name `slurm.job.Job`, which the job's process
    imports from the snapshot. Files are private: the pickle, the logs and the sbatch script show
    the user's paths.

    Raises:
        ConfigError: the installed submitit is not one that we know
        queue.QueueError: SLURM refuses the job
    """
    submitit_adapter.library()  # before there is a job that waits for what it cannot be given
    if has_slurm():
        with private_files():
            job_id = _sbatch(script(cfg, [run_dir]), RunFolder(run_dir).logs)
            job = _hand_over(cfg, run_dir, job_id)
        lease.release()  # from here on job.json says whose the run is; rank 0 waits for this
        return job
    log = RunFolder(run_dir).logs / "submitit.log"
    with private_files(), _own_stderr(log):
        job = local_executor(cfg, run_dir, lease.pass_on()).submit(Job(str(run_dir)))
        write_job(cfg, run_dir, job.job_id, LOCAL)
    return job


def submit_array(cfg: RunConfig, runs: Sequence[Path], folder: Path) -> list[Any]:
    """Start several runs as one job array, `cfg.slurm.parallel` at a time; a handle for each.

    Args:
        cfg: what all of them ask of SLURM
        folder: the sweep's folder, which holds the runs
    """
    submitit_adapter.library()
    with private_files():
        array_id = _sbatch(script(cfg, runs, folder), folder / "logs")
        return [
            _hand_over(cfg, run, f"{array_id}_{index}", folder.name)
            for index, run in enumerate(runs)
        ]


def inside(cfg: RunConfig, run_dir: Path) -> Path:
    """A shell script that starts the run's tasks in the allocation that this process is in."""
    job_id = environment.job_id()
    assert job_id is not None, "called within a job"
    with private_files():
        path = RunFolder(run_dir).logs / f"{job_id}.sh"
        lines = ["#!/bin/bash", *body(cfg, [run_dir], job_id=job_id)]
        path.write_text("\n".join(lines), encoding="utf-8")
        _hand_over(cfg, run_dir, job_id)
    return path


def local_executor(cfg: RunConfig, run_dir: Path, variables: dict[str, str]) -> Any:
    """submitit's executor for `cfg.gpus` processes on this machine, logging into `run_dir/logs`.

    Args:
        variables: of their environment, beside the usual ones
    """
    assert cfg.gpus is not None
    logs = RunFolder(run_dir).logs
    python = _python(run_dir, {**_local_environment(cfg), **variables})
    control = [*python, "-m", "slurm.controller", str(logs), str(cfg.gpus)]
    return submitit_adapter.local_executor(logs, control, cfg.gpus)


def _sbatch(text: str, logs: Path) -> str:
    """Submit a batch script; returns the number of the new job."""
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "job.sbatch"
    path.write_text(text, encoding="utf-8")
    inherited = environment.without_job(os.environ)
    answer = queue.ask(["sbatch", "--parsable", str(path)], inherited)
    found = re.match(r"\d+", answer)  # a federation adds ";cluster"
    if found is None:
        raise queue.QueueError(f"sbatch: expected the number of a job, got {answer!r}")
    return found.group()


def _hand_over(cfg: RunConfig, run_dir: Path, job_id: str, sweep: str | None = None) -> Any:
    """Write what the job's tasks need; they wait for it, since SLURM may start them at once."""
    assert cfg.gpus is not None
    job = submitit_adapter.hand_over(
        RunFolder(run_dir).logs,
        job_id,
        most_nodes(cfg) * cfg.gpus,
        Job(str(run_dir)),
        cfg.slurm.max_requeues,
    )
    write_job(cfg, run_dir, job_id, "slurm", sweep)
    return job


def _python(run_dir: Path, own: dict[str, str]) -> list[str]:
    """The command that starts Python with the snapshot first on its path, and without the
    working directory (-P).

    Args:
        own: variables of the job; those of another one are left out
    """
    listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = [str(RunFolder(run_dir).code), *filter(None, listed)]
    variables = {"PYTHONPATH": os.pathsep.join(path), **own}
    settings = [f"{name}={value}" for name, value in variables.items()]
    left_over = sorted(os.environ.keys() - environment.without_job(os.environ).keys())
    options = [word for name in left_over for word in ("-u", name)]
    return ["env", *options, *settings, sys.executable, "-P"]


def _local_environment(cfg: RunConfig) -> dict[str, str]:
    """Where ranks on this machine meet, which GPUs they see, and their share of the cores."""
    assert cfg.gpus is not None
    gpus = ",".join(local_gpus()[: cfg.gpus]) if uses_gpus(cfg) else ""
    variables = {
        "MASTER_PORT": str(_free_port()),
        "CUDA_VISIBLE_DEVICES": gpus,
    }
    if cfg.gpus > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(cores_per_rank(cfg.gpus))
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _own_stderr(log: Path) -> Iterator[None]:
    """Processes started within write errors to `log`, not over the user's progress bar."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
