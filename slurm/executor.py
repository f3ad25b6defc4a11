"""RunConfig -> a job: of SLURM where there is SLURM, else local processes. One task a device.

job = submit(cfg, run_dir)  # after the run folder holds config.yaml and the code snapshot
jobs = submit_array(cfg, runs, folder)  # a sweep's
"""

import json
import os
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from clf.cores import cores_per_rank
from slurm import events, queue
from slurm.devices import has_slurm, local_gpus, uses_gpus
from slurm.job import Job
from slurm.script import body, script

YEAR_MINUTES = 60 * 24 * 365  # submitit stops a local job after 5 minutes unless told otherwise
LOCAL = "local"  # job.json's cluster, without SLURM


def submit(cfg: RunConfig, run_dir: Path) -> Any:
    """Start the run of `run_dir` as a job and give submitit's handle of it.

    What is pickled is the run folder's path and the name `slurm.job.Job`, which the job's process
    imports from the snapshot. Files are private: the pickle, the logs and the sbatch script show
    the user's paths.

    Raises:
        queue.QueueError: SLURM refuses the job
    """
    if has_slurm():
        with private_files():
            job_id = _sbatch(script(cfg, [run_dir]), run_dir / "logs")
            return _hand_over(cfg, run_dir, job_id)
    with private_files(), _own_stderr(run_dir / "logs" / "submitit.log"), _hears_sigint():
        job = local_executor(cfg, run_dir).submit(Job(str(run_dir)))
        _write_record(cfg, run_dir, job.job_id, LOCAL)
    return job


def submit_array(cfg: RunConfig, runs: Sequence[Path], folder: Path) -> list[Any]:
    """Start several runs as one job array, `cfg.slurm.parallel` at a time; a handle for each.

    Args:
        cfg: what all of them ask of SLURM
        folder: the sweep's, in which the runs lie
    """
    with private_files():
        array_id = _sbatch(script(cfg, runs, folder), folder / "logs")
        return [
            _hand_over(cfg, run, f"{array_id}_{index}", folder.name)
            for index, run in enumerate(runs)
        ]


def inside(cfg: RunConfig, run_dir: Path) -> Path:
    """For an allocation that is there already: the run as a shell script that starts its tasks."""
    job_id = events.job_id()
    assert job_id is not None, "called within a job"
    with private_files():
        path = run_dir / "logs" / f"{job_id}.sh"
        path.write_text(
            "\n".join(["#!/bin/bash", *body(cfg, [run_dir], job_id=job_id)]), encoding="utf-8"
        )
        _hand_over(cfg, run_dir, job_id)
    return path


def local_executor(cfg: RunConfig, run_dir: Path) -> Any:
    """submitit's executor for `cfg.gpus` processes on this machine, logging into `run_dir/logs`."""
    from submitit import LocalExecutor

    made = LocalExecutor(run_dir / "logs", python=_python(run_dir, _local_environment(cfg)))
    made.update_parameters(tasks_per_node=cfg.gpus, timeout_min=YEAR_MINUTES, stderr_to_stdout=True)
    return made


def read_record(run_dir: Path) -> dict[str, Any] | None:
    """`job.json`: job_id, cluster, submitted (seconds since 1970), nodes, gpus, sweep, and
    cancelled once somebody ended the job. None if the run was not submitted."""
    try:
        return json.loads((run_dir / "job.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def note_cancelled(run_dir: Path) -> None:
    """Keep in job.json that somebody ended the job; the next one writes a new record."""
    from clf.run_folder import RunFolder

    with private_files():
        RunFolder.write_json(
            run_dir / "job.json", {**(read_record(run_dir) or {}), "cancelled": True}
        )


def _sbatch(text: str, logs: Path) -> str:
    """The number of the new job."""
    logs.mkdir(parents=True, exist_ok=True)
    path = logs / "job.sbatch"
    path.write_text(text, encoding="utf-8")
    answer = queue.ask(["sbatch", "--parsable", str(path)])
    found = re.match(r"\d+", answer)  # a federation adds ";cluster"
    if found is None:
        raise queue.QueueError(f"sbatch: expected the number of a job, got {answer!r}")
    return found.group()


def _hand_over(cfg: RunConfig, run_dir: Path, job_id: str, sweep: str | None = None) -> Any:
    """What the job's tasks look for; they wait for it, since SLURM may start them at once."""
    from submitit.core.utils import DelayedSubmission

    from slurm.handle import Handle

    assert cfg.gpus is not None
    job = Handle(run_dir / "logs", job_id, range(cfg.nodes * cfg.gpus))
    job.paths.folder.mkdir(parents=True, exist_ok=True)
    submission = DelayedSubmission(Job(str(run_dir)))
    submission.set_timeout(YEAR_MINUTES, cfg.slurm.max_requeues)
    aside = job.paths.folder / f".{job_id}.pkl"
    submission.dump(aside)
    aside.replace(job.paths.submitted_pickle)
    _write_record(cfg, run_dir, job_id, "slurm", sweep)
    return job


def _write_record(
    cfg: RunConfig, run_dir: Path, job_id: str, cluster: str, sweep: str | None = None
) -> None:
    from clf.run_folder import RunFolder

    record = {
        "job_id": job_id,
        "cluster": cluster,
        "submitted": time.time(),
        "nodes": cfg.nodes,
        "gpus": cfg.gpus,
        "sweep": sweep,
    }
    RunFolder.write_json(run_dir / "job.json", record)


def _python(run_dir: Path, environment: dict[str, str]) -> str:
    """The shell command that starts Python in the snapshot: first on the path, and not the working
    directory (-P)."""
    path = [
        str(run_dir / "code"),
        *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    variables = {"PYTHONPATH": os.pathsep.join(path), **environment}
    settings = [f"{name}={value}" for name, value in variables.items()]
    return shlex.join(["env", *settings, sys.executable, "-P"])


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
def _hears_sigint() -> Iterator[None]:
    """What is started within hears SIGINT, by which a job of this machine is cancelled, also where
    a script's `&` has this process ignore it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _own_stderr(log: Path) -> Iterator[None]:
    """Processes started here write errors to `log`, not over the user's progress bar."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def private_files() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
