"""The one place that knows submitit, with the private parts of it that we use.

Every function begins with `library()`, which raises a ConfigError if the installed submitit lacks
something that we rely on: a part that was renamed must not be passed over in silence.
"""

import functools
import importlib
import inspect
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clf.atomic import write_file
from clf.config import ConfigError
from slurm import queue

SUPPORTED = ">=1.5.4,<1.6"  # as in pyproject.toml
CONTROLLER = "CLF_CONTROLLER"  # variable: the process that ends the ranks of a local job together
ENTRY = "submitit.core._submit"  # the module that each task of a job runs
OUR_ENTRY = "slurm.task"  # does the same in a folder with a % in its name
YEAR_MINUTES = 60 * 24 * 365  # submitit ends a local job after 5 minutes by default
# What we use, by module: dotted attribute -> parameters that it must take.
EXPECTED: dict[str, dict[str, tuple[str, ...]]] = {
    "submitit": {
        "LocalExecutor": ("folder", "python"),
        "LocalExecutor.submit": (),
        "LocalExecutor.update_parameters": (),
        "LocalExecutor._submit_command": ("command",),  # private
        "LocalJob": ("folder", "job_id", "tasks", "process"),
        "JobEnvironment.node": (),
        "JobEnvironment.name": (),
        "JobEnvironment.global_rank": (),
        "SlurmJob": ("folder", "job_id", "tasks"),
        "SlurmJob._register_in_watcher": (),  # private
        "SlurmJob.done": ("force_check",),
        "SlurmJob.cancel": (),
        "SlurmJob.task": (),
        "SlurmJob.num_tasks": (),
    },
    "submitit.helpers": {
        "TorchDistributedEnvironment.export": ("set_cuda_visible_devices", "overwrite"),
    },
    "submitit.core.utils": {
        "DelayedSubmission.set_timeout": ("timeout_min", "max_num_timeout"),
        "DelayedSubmission.dump": ("filepath",),
        "JobPaths": ("folder", "job_id", "task_id"),
        "JobPaths.submitted_pickle": (),
        "JobPaths.result_pickle": (),
        "JobPaths.stdout": (),
        "JobPaths._format_id": ("path",),  # private
        "JobPaths.get_first_id_independent_folder": ("folder",),
    },
    "submitit.slurm.slurm": {"_parse_node_list": ()},  # private
    ENTRY: {"submitit_main": ()},  # private
}


@functools.cache
def library() -> SimpleNamespace:
    """The parts of submitit that we use, by their names.

    Raises:
        ConfigError: it is not installed, or some of them are not as expected
    """
    lacking = missing_parts(EXPECTED)
    if lacking:
        raise ConfigError(
            [
                f"submitit: expected {', '.join(lacking)}, which the installed version "
                f"{_installed()} does not have; supported are the versions {SUPPORTED}: "
                f"pip install 'submitit{SUPPORTED}'"
            ]
        )
    parts: dict[str, Any] = {}
    for module, attributes in EXPECTED.items():
        for name in {attribute.split(".")[0] for attribute in attributes}:
            parts[name] = getattr(importlib.import_module(module), name)
    _take_folders_as_they_are(parts["JobPaths"])
    return SimpleNamespace(**parts)


def _take_folders_as_they_are(paths: Any) -> None:
    """Let %j, %t, %A and %a be codes of submitit in the name of a file alone: a folder such as
    `100%a` would become another one."""
    of_whole_path = paths._format_id

    def of_name(self: Any, path: str | Path) -> Path:
        path = Path(path)
        return path if path == self._folder else path.parent / of_whole_path(self, path.name)

    paths._format_id = of_name
    paths.get_first_id_independent_folder = staticmethod(lambda folder: Path(folder).absolute())


def entry(*runs: Path) -> str:
    """The module that each task of a job runs: submitit's, which an older snapshot of our code has
    too, if it takes the names of these folders as they are."""
    return OUR_ENTRY if any("%" in str(run) for run in runs) else ENTRY


def run_task() -> None:
    """Do what submitit's entry does: load the job and call it."""
    library().submitit_main()


def missing_parts(expected: dict[str, dict[str, tuple[str, ...]]]) -> list[str]:
    """The names, of those expected, that are gone or do not take the expected parameters."""
    lacking = []
    for module, attributes in expected.items():
        try:
            owner = importlib.import_module(module)
        except ImportError:
            lacking.append(module)
            continue
        for name, parameters in attributes.items():
            if not _takes(owner, name, parameters):
                takes = f"({', '.join(parameters)})" if parameters else ""
                lacking.append(f"{module}.{name}{takes}")
    return lacking


def _takes(owner: Any, name: str, parameters: Sequence[str]) -> bool:
    part = owner
    for attribute in name.split("."):
        part = getattr(part, attribute, None)
        if part is None:
            return False
    return not parameters or set(parameters) <= set(inspect.signature(part).parameters)


def _installed() -> str:
    try:
        return version("submitit")
    except ImportError:  # PackageNotFoundError is one
        return "(none)"


def local_executor(logs: Path, control: Sequence[str], tasks: int) -> Any:
    """An executor that starts processes on this machine, without a limit of their time.

    Args:
        control: the command that starts them and ends them together, whose number is the job's
    """
    parts = library()

    class Local(parts.LocalExecutor):  # type: ignore[misc,name-defined]
        """submitit's own controller waits for the ranks that a dead one has left behind, and gives
        a rank that is to save one second for it."""

        def _submit_command(self, command: str) -> Any:
            process = subprocess.Popen(control)
            return parts.LocalJob(logs, str(process.pid), range(tasks), process)

    executor = Local(logs)
    executor.update_parameters(tasks_per_node=tasks, timeout_min=YEAR_MINUTES)
    return executor


def submission(function: Any) -> Any:
    """What submitit pickles; also what a job's `checkpoint` returns for its next start."""
    return library().DelayedSubmission(function)


def hand_over(logs: Path, job_id: str, tasks: int, function: Any, requeues: int) -> Any:
    """Write the pickle that the tasks of a SLURM job wait for; returns a handle of the job."""
    job = job_class()(logs, job_id, range(tasks))
    pickled = submission(function)
    pickled.set_timeout(YEAR_MINUTES, requeues)
    write_file(job.paths.submitted_pickle, pickled.dump)
    return job


@functools.cache
def job_class() -> Any:
    """submitit's handle of a job, which asks the queue whether the job has ended."""

    class QueuedJob(library().SlurmJob):  # type: ignore[misc]
        """submitit's own class asks accounting, in the end every ten minutes only, and not every
        cluster has accounting."""

        def _register_in_watcher(self) -> None:
            """Does nothing: the watcher is what calls sacct."""

        def done(self, force_check: bool = False) -> bool:
            return not queue.lives(self.job_id)

    return QueuedJob


def node_names(text: str) -> list[str]:
    """The nodes of a list such as `node[1-2,7]`."""
    return library()._parse_node_list(text)


def is_local() -> bool:
    """Whether this process is a task of a job without SLURM."""
    return bool(library().JobEnvironment().name() == "local")


def export_ranks() -> Any:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from the job's own variables;
    returns submitit's JobEnvironment.

    submitit's local executor sets SUBMITIT_LOCAL_* only, and Lightning reads the others.
    """
    parts = library()
    # Overwriting: a shell inside another job may hold that job's values.
    parts.TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return parts.JobEnvironment()
