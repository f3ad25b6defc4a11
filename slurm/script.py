"""The batch script of a run, or of a sweep's runs as one job array: what `sbatch` gets, to the
letter.

Every value is quoted where a shell or SLURM reads it, and none may hold a line break: the lines of
`slurm.setup` are the one place where shell is meant.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

from clf.config import RunConfig
from slurm import after

SIGNAL = "USR2"  # what SLURM sends before a time limit; submitit's own choice too
BLOCKED = "USR1,USR2,TERM"  # until the job's own handlers are in place
RESTART = "7919 * ${SLURM_RESTART_COUNT:-0}"
PORTS = (10000, 22768)  # first, and how many: below those that the kernel hands out to clients


def script(cfg: RunConfig, runs: Sequence[Path], array: Path | None = None) -> str:
    """The whole script.

    Args:
        cfg: what is asked of SLURM, and how many tasks; `cfg.gpus` must be set
        runs: run folders; one, or those of an array in the order of its indices
        array: the sweep's folder, where the array keeps what is no run's own

    Raises:
        ValueError: a value holds a line break
    """
    lines = [f"#SBATCH --{name}={_value(text)}" for name, text in _asked(cfg, runs, array)]
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "", *body(cfg, runs, array)])


def body(
    cfg: RunConfig, runs: Sequence[Path], array: Path | None = None, job_id: str | None = None
) -> list[str]:
    """The script's lines after what is asked of SLURM.

    Args:
        job_id: of an allocation that is there already
    """
    if array is None:
        which = [f"run={_shell(runs[0])}", f"id={job_id or '$SLURM_JOB_ID'}"]
    else:
        folders = " ".join(_shell(run) for run in runs)
        which = [f"runs=({folders})", "run=${runs[$SLURM_ARRAY_TASK_ID]}"]
        which += ["id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"]
        # What srun says of a lost task belongs into the run's own log.
        which += ['exec >>"$run/logs/${id}_0_log.out" 2>&1']
    first, count = PORTS
    # Jobs and restarts that follow each other are far apart, as are runs of two clusters.
    offset = zlib.crc32(os.fsencode(runs[0])) % count
    settings = {"SUBMITIT_EXECUTOR": "slurm", **cfg.slurm.env}
    return [
        "umask 077",
        *which,
        "log=${run//%/%%}/logs/$id  # in the name of a log, SLURM reads % as a code",
        *(["", "# setup", *map(_line, cfg.slurm.setup), ""] if cfg.slurm.setup else []),
        *(f"export {name}={_shell(text)}" for name, text in settings.items()),
        f"MASTER_PORT=$(({first} + ({offset} + SLURM_JOB_ID + {RESTART}) % {count}))",
        # Rank 0 will listen on this machine, whose other ports may be taken.
        'while (: <"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do',
        f"  MASTER_PORT=$(({first} + (MASTER_PORT + 1 - {first}) % {count}))",
        "done",
        "export MASTER_PORT",
        after.TRAP,
        "",
        _srun(cfg),
        "",
        *after.requeue_lines(_python([], sys.executable)),
        "",
    ]


def log_file(run_dir: Path, job_id: str, rank: int) -> Path:
    """The log of a rank; all starts of a job append to it."""
    return run_dir / "logs" / f"{job_id}_{rank}_log.out"


def _asked(cfg: RunConfig, runs: Sequence[Path], array: Path | None) -> list[tuple[str, str | int]]:
    """sbatch's options and their values; what is None is left to the partition."""
    asked = cfg.slurm
    log = log_file(runs[0], "%j", 0) if array is None else array / "logs" / "%A_%a.out"
    folder = str(log.parent).replace("%", "%%")
    indices = None
    if array is not None:
        indices = f"0-{len(runs) - 1}" + (f"%{asked.parallel}" if asked.parallel else "")
    options: dict[str, str | int | None] = {
        "job-name": array.name if array else runs[0].name,
        "array": indices,
        "nodes": cfg.nodes,
        "ntasks-per-node": cfg.gpus,
        "gpus-per-node": None if cfg.strategy.accelerator == "cpu" else cfg.gpus,
        "cpus-per-task": asked.cpus_per_gpu,
        "mem": None if asked.mem_gb is None else f"{asked.mem_gb}G",
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "exclude": asked.exclude,
        "nodelist": asked.nodelist,
        "reservation": asked.reservation,
        "dependency": asked.dependency,
        "mail-user": asked.mail_user,
        "mail-type": asked.mail_type,
        "signal": f"{SIGNAL}@{asked.signal_s}",
        "open-mode": "append",
        "output": f"{folder}/{log.name}",
    }
    return [(name, value) for name, value in options.items() if value is not None]


def _srun(cfg: RunConfig) -> str:
    """One task a device. Where one ends badly the others are ended too, instead of waiting for
    it."""
    assert cfg.gpus is not None, "devices_per_node(cfg) gives the number"
    container = cfg.slurm.container
    words = ["srun", "--unbuffered", "--kill-on-bad-exit=1", f"--nodes={cfg.nodes}"]
    words += [f"--ntasks={cfg.nodes * cfg.gpus}", f"--ntasks-per-node={cfg.gpus}"]
    if cfg.slurm.cpus_per_gpu is not None:  # srun does not take it over from sbatch
        words.append(f"--cpus-per-task={cfg.slurm.cpus_per_gpu}")
    python = sys.executable if container.image is None else container.python
    inside: list[str] = []
    if container.image is not None:
        mounts = ",".join([*_own_mounts(cfg), *container.mounts])
        if container.runtime == "pyxis":
            words += [f"--container-image={container.image}", f"--container-mounts={mounts}"]
        else:
            inside = ["apptainer", "exec", "--nv", "--bind", mounts, container.image]
    # An image may have another `env`, which does not know how to block.
    blocking = [f"--block-signal={BLOCKED}"] if container.image is None and can_block() else []
    return " ".join(
        [
            *map(_shell, words),
            '--output="${log}_%t_log.out"',
            *map(_shell, inside),
            _python(blocking, python),
            '-u -m submitit.core._submit "$run/logs"',
        ]
    )


def _python(options: Sequence[str], python: str) -> str:
    """The command that starts Python in the run's snapshot: first on the path, and not the working
    directory (-P).

    Args:
        options: of `env`
    """
    path = [os.path.abspath(word) for word in os.environ.get("PYTHONPATH", "").split(":") if word]
    more = _shell("".join(f":{word}" for word in path)) if path else ""
    words = [*map(_shell, ["env", *options]), f'PYTHONPATH="$run/code"{more}', _shell(python), "-P"]
    return " ".join(words)


def _own_mounts(cfg: RunConfig) -> list[str]:
    """What a run reads and writes, at the same place inside a container."""
    paths = [cfg.runs_dir, cfg.data.root, cfg.data.stage_dir]
    if cfg.model.weights and os.path.isabs(cfg.model.weights):
        paths.append(cfg.model.weights)
    return list(dict.fromkeys(f"{path}:{path}" for path in paths if path))


@functools.cache
def can_block() -> bool:
    """Whether this machine's `env` can start a program with signals blocked (coreutils 8.31).

    A signal that comes while Python starts would end it; blocked, it waits for the job's handlers.
    """
    try:
        done = subprocess.run(
            ["env", f"--block-signal={BLOCKED}", "true"], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _value(text: str | int) -> str:
    """A value as SLURM reads it from an #SBATCH line, which no shell sees."""
    line = _line(str(text))
    if re.fullmatch(r"[\w.,:/@%+-]+", line, re.ASCII):
        return line
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shell(text: str | Path) -> str:
    return shlex.quote(_line(str(text)))


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a line break or control character; take it out")
    return text
