"""The batch script of a run, or of a sweep's runs as one job array, exactly as `sbatch` gets it.

Every value is quoted for the shell or for SLURM, whichever reads it, and none may hold a line
break: only the lines of `slurm.setup` are meant as shell.
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
from typing import Any

from clf.config import RunConfig
from clf.config.node_range import is_elastic, least_nodes, most_nodes, usable_counts
from clf.config.slurm_words import gpus
from clf.run_folder import RunFolder
from slurm import after
from slurm.submitit_adapter import entry

SIGNAL = "USR2"  # what SLURM sends before a time limit; submitit's own choice too
BLOCKED = "USR1,USR2,TERM"  # until the job's own handlers are in place
RESTART = "7919 * ${SLURM_RESTART_COUNT:-0}"
PORTS = (10000, 22768)  # first, and how many: below those that the kernel gives to clients


def script(cfg: RunConfig, runs: Sequence[Path], array: Path | None = None) -> str:
    """The whole script.

    Args:
        cfg: what is asked of SLURM, and how many tasks; `cfg.gpus` must be set
        runs: run folders; one, or those of an array in the order of its indices
        array: the sweep's folder, for the files that belong to no single run

    Raises:
        ValueError: a value holds a line break
    """
    lines = [_option(name, value) for name, value in _asked(cfg, runs, array)]
    return "\n".join(["#!/bin/bash", *lines, "#SBATCH --requeue", "", *body(cfg, runs, array)])


def body(
    cfg: RunConfig, runs: Sequence[Path], array: Path | None = None, job_id: str | None = None
) -> list[str]:
    """The script's lines after the options of sbatch.

    Args:
        job_id: the job of an existing allocation; None: a job of the script's own
    """
    if array is None:
        which = [f"run={_shell(runs[0])}", f"id={job_id or '$SLURM_JOB_ID'}"]
    else:
        folders = " ".join(_shell(run) for run in runs)
        which = [f"runs=({folders})", "run=${runs[$SLURM_ARRAY_TASK_ID]}"]
        which += ["id=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"]
        # What srun writes about a lost task belongs into the run's own log.
        which += ['exec >>"$run/logs/${id}_0_log.out" 2>&1']
    first, count = PORTS
    # Successive jobs and restarts get ports far apart, and so do runs of two clusters.
    offset = zlib.crc32(os.fsencode(runs[0])) % count
    settings = {"SUBMITIT_EXECUTOR": "slurm", **cfg.slurm.env}
    return [
        "umask 077",
        "unset SLURM_EXPORT_ENV  # sbatch sets it where SBATCH_EXPORT=NONE, and srun would obey it",
        *which,
        "log=${run//%/%%}/logs/$id  # in the name of a log, SLURM reads % as a code",
        *(["", "# setup", *map(_line, cfg.slurm.setup), ""] if cfg.slurm.setup else []),
        *(f"export {name}={_shell(text)}" for name, text in settings.items()),
        f"MASTER_PORT=$(({first} + ({offset} + SLURM_JOB_ID + {RESTART}) % {count}))",
        # Rank 0 will listen on this machine, where the port may be taken.
        'while (: <"/dev/tcp/127.0.0.1/$MASTER_PORT") 2>/dev/null; do',
        f"  MASTER_PORT=$(({first} + (MASTER_PORT + 1 - {first}) % {count}))",
        "done",
        "export MASTER_PORT",
        after.TRAP,
        "",
        *_nodes_used(cfg),
        _srun(cfg, runs),
        "",
        *after.requeue_lines(_python([], sys.executable)),
        "",
    ]


def _asked(cfg: RunConfig, runs: Sequence[Path], array: Path | None) -> list[tuple[str, Any]]:
    """The options of sbatch and their values; those that are None are left to the partition."""
    asked = cfg.slurm
    log = RunFolder(runs[0]).log("%j", 0) if array is None else array / "logs" / "%A_%a.out"
    folder = str(log.parent).replace("%", "%%")
    indices = None
    if array is not None:
        indices = f"0-{len(runs) - 1}" + (f"%{asked.parallel}" if asked.parallel else "")
    options: dict[str, Any] = {
        "job-name": array.name if array else runs[0].name,
        "array": indices,
        **_nodes_asked(cfg),
        "gpus-per-node": _gpus_per_node(cfg),
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
        **asked.options,
    }
    return [(name, value) for name, value in options.items() if value is not None]


def _nodes_asked(cfg: RunConfig) -> dict[str, Any]:
    """Options for the nodes, and the cores on each of them for its tasks."""
    least, most, cores = least_nodes(cfg), most_nodes(cfg), cfg.slurm.cpus_per_gpu
    if not is_elastic(cfg):
        return {"nodes": most, "ntasks-per-node": cfg.gpus, "cpus-per-task": cores}
    # With ntasks-per-node SLURM would count the tasks of the fewest nodes, and give a job of so
    # many tasks no more nodes than that: 1 of 1-4 with one task a node.
    return {"nodes": f"{least}-{most}", "mincpus": (cfg.gpus or 1) * (cores or 1)}


def _nodes_used(cfg: RunConfig) -> list[str]:
    """For a range of nodes: lines that set `$nodes`, which srun takes of those that are there, to
    the most over which a step can be spread."""
    if not is_elastic(cfg):
        return []
    asked = f"{least_nodes(cfg)}-{most_nodes(cfg)}"
    counts = " ".join(map(str, usable_counts(cfg)))
    there = "$SLURM_JOB_NUM_NODES"
    return [
        "nodes=1",
        f'for count in {counts}; do [ "$count" -le "{there}" ] && nodes=$count; done',
        f'echo "clf: nodes={asked}: SLURM has given {there}, and the run uses $nodes"',
    ]


def _gpus_per_node(cfg: RunConfig) -> int | None:
    """None on CPUs, and where slurm.options.gres asks for the GPUs."""
    by_gres = gpus(str(cfg.slurm.options.get("gres") or ""))
    return None if by_gres or cfg.strategy.accelerator == "cpu" else cfg.gpus


def _srun(cfg: RunConfig, runs: Sequence[Path]) -> str:
    """The command that starts one task per device. If one task fails, srun ends the others, which
    would wait for it."""
    assert cfg.gpus is not None, "devices_per_node(cfg) gives the number"
    container = cfg.slurm.container
    most = most_nodes(cfg)
    tasks = [f"--nodes={most}", f"--ntasks={most * cfg.gpus}", f"--ntasks-per-node={cfg.gpus}"]
    if is_elastic(cfg):
        tasks[:2] = ['--nodes="$nodes"', f"--ntasks=$((nodes * {cfg.gpus}))"]
    words: list[str] = []
    if cfg.slurm.cpus_per_gpu is not None:  # srun does not inherit it from sbatch
        words.append(f"--cpus-per-task={cfg.slurm.cpus_per_gpu}")
    python = sys.executable if container.image is None else container.python
    inside: list[str] = []
    if container.image is not None:
        mounts = ",".join([*_own_mounts(cfg), *container.mounts])
        if container.runtime == "pyxis":
            words += [f"--container-image={container.image}", f"--container-mounts={mounts}"]
        else:
            inside = ["apptainer", "exec", "--nv", "--bind", mounts, container.image]
    # The `env` of an image may be another one, which cannot block signals.
    blocking = [f"--block-signal={BLOCKED}"] if container.image is None and can_block() else []
    return " ".join(
        [
            *("srun", "--unbuffered", "--kill-on-bad-exit=1", *tasks),
            *map(_shell, words),
            '--output="${log}_%t_log.out"',
            *map(_shell, inside),
            _python(blocking, python),
            f'-u -m {entry(*runs)} "$run/logs"',
        ]
    )


def _python(options: Sequence[str], python: str) -> str:
    """The command that starts Python with the run's snapshot first on its path, and without the
    working directory (-P).

    Args:
        options: options of `env`
    """
    path = [os.path.abspath(word) for word in os.environ.get("PYTHONPATH", "").split(":") if word]
    more = _shell("".join(f":{word}" for word in path)) if path else ""
    words = [*map(_shell, ["env", *options]), f'PYTHONPATH="$run/code"{more}', _shell(python), "-P"]
    return " ".join(words)


def _own_mounts(cfg: RunConfig) -> list[str]:
    """The folders and files of a run, mounted at the same place inside a container."""
    paths = [cfg.runs_dir, cfg.data.root, cfg.data.stage_dir]
    if cfg.model.weights and os.path.isabs(cfg.model.weights):
        paths.append(cfg.model.weights)
    return list(dict.fromkeys(f"{path}:{path}" for path in paths if path))


@functools.cache
def can_block() -> bool:
    """Whether this machine's `env` can start a program with signals blocked (coreutils 8.31).

    A signal during the start of Python would end it; blocked, it waits for the job's handlers.
    """
    try:
        done = subprocess.run(
            ["env", f"--block-signal={BLOCKED}", "true"], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def _option(name: str, value: Any) -> str:
    """A line of the script; `true` is an option without a value."""
    return f"#SBATCH --{_line(name)}" + ("" if value is True else f"={_value(str(value))}")


def _value(text: str) -> str:
    """A value as SLURM reads it from an #SBATCH line, which the shell takes for a comment."""
    line = _line(text)
    if re.fullmatch(r"[\w.,:/@%+-]+", line, re.ASCII):
        return line
    return '"' + line.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shell(text: str | Path) -> str:
    return shlex.quote(_line(str(text)))


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text!r} holds a line break or control character; take it out")
    return text
