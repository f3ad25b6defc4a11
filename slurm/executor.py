"""RunConfig -> a submitit executor: SLURM's where there is SLURM, else local processes. One task a
device.

job = submit(cfg, run_dir)  # after the run folder holds config.yaml and the code snapshot
"""

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clf.config import RunConfig
from slurm.devices import cores, has_slurm, local_gpus, uses_gpus
from slurm.job import Job

LOCAL_MINUTES = 60 * 24 * 365  # submitit stops a local job after 5 minutes unless told otherwise


def submit(cfg: RunConfig, run_dir: Path) -> Any:
    """Start the run of `run_dir` as a job and give submitit's handle of it.

    What is pickled is the run folder's path and the name `slurm.job.Job`, which the job's process
    imports from the snapshot. Files are private: the pickle, the logs and the sbatch script show
    the user's paths.
    """
    with private_files(), _own_stderr(run_dir / "logs" / "submitit.log"):
        return executor(cfg, run_dir).submit(Job(str(run_dir)))


def executor(cfg: RunConfig, run_dir: Path) -> Any:
    """The executor for `cfg.nodes` x `cfg.gpus` tasks, logging into `run_dir/logs`. `cfg.gpus` must
    be set."""
    from submitit import LocalExecutor, SlurmExecutor

    assert cfg.gpus is not None, "devices_per_node(cfg) gives the number"
    made: Any
    if has_slurm():
        made = SlurmExecutor(run_dir / "logs", python=_python(run_dir, {}))
        made.update_parameters(**slurm_parameters(cfg))
    else:
        made = LocalExecutor(run_dir / "logs", python=_python(run_dir, _local_environment(cfg)))
        made.update_parameters(
            tasks_per_node=cfg.gpus, timeout_min=LOCAL_MINUTES, stderr_to_stdout=True
        )
    return made


def slurm_parameters(cfg: RunConfig) -> dict[str, Any]:
    """What is asked of SLURM, in submitit's names. None leaves a value to the partition."""
    asked = cfg.slurm
    return {
        "job_name": cfg.name,
        "nodes": cfg.nodes,
        "ntasks_per_node": cfg.gpus,
        "gpus_per_node": None if cfg.strategy.accelerator == "cpu" else cfg.gpus,
        "cpus_per_task": asked.cpus_per_gpu,
        "mem": None if asked.mem_gb is None else f"{asked.mem_gb}GB",
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "wckey": None,  # submitit would send its own name, which clusters with wckeys refuse
        "stderr_to_stdout": True,
    }


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
        variables["OMP_NUM_THREADS"] = str(max(1, cores() // cfg.gpus))
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
