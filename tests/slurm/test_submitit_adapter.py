"""A submitit whose private parts have changed is refused by name, before a job is queued."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from clf.config import ConfigError
from slurm import submitit_adapter
from slurm.submitit_adapter import EXPECTED, SUPPORTED, library, missing_parts

ROOT = Path(__file__).resolve().parents[2]
PARTS = [(module, name) for module, names in EXPECTED.items() for name in names]


@pytest.fixture(autouse=True)
def _look_again() -> Any:
    library.cache_clear()
    yield
    library.cache_clear()


def test_the_installed_version_has_all_that_we_use() -> None:
    assert missing_parts(EXPECTED) == []
    assert library()._parse_node_list("node[1-2,7]") == ["node1", "node2", "node7"]


@pytest.mark.parametrize(("module", "name"), PARTS)
def test_a_part_that_is_gone_is_named_with_the_versions_that_have_it(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    holders = [kind for kind in getattr(owner, "__mro__", [owner]) if last in vars(kind)]
    for holder in holders:
        monkeypatch.delattr(holder, last)
    with pytest.raises(ConfigError) as caught:
        library()
    (fault,) = caught.value.faults
    assert fault.startswith(f"submitit: expected {module}.{last if not path else name}")
    assert re.search(r"the installed version 1\.\d+\.\d+ does not have", fault)
    assert f"pip install 'submitit{SUPPORTED}'" in fault


def test_a_function_that_takes_other_arguments_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    utils = importlib.import_module("submitit.core.utils")
    monkeypatch.setattr(utils.DelayedSubmission, "set_timeout", lambda self, hours: None)
    lacking = missing_parts(EXPECTED)
    assert lacking == [
        "submitit.core.utils.DelayedSubmission.set_timeout(timeout_min, max_num_timeout)"
    ]


def test_a_module_that_is_gone_is_named() -> None:
    assert missing_parts({"submitit.no_such_module": {"x": ()}}) == ["submitit.no_such_module"]


def test_nothing_is_submitted_with_a_version_that_lacks_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clf.plan import compose, resolve
    from clf.resilience.lease import take
    from slurm import executor

    def never(*words: Any) -> None:
        raise AssertionError("sbatch was called")

    monkeypatch.setattr(executor, "has_slurm", lambda: True)
    monkeypatch.setattr(executor, "_sbatch", never)
    monkeypatch.setitem(submitit_adapter.EXPECTED, "submitit", {"Gone": ()})
    cfg = resolve(compose(["gpus=1", f"runs_dir={tmp_path}"]))
    lease = take(tmp_path)
    with pytest.raises(ConfigError, match=r"expected submitit\.Gone"):
        executor.submit(cfg, tmp_path, lease)
    with pytest.raises(ConfigError, match=r"expected submitit\.Gone"):
        executor.submit_array(cfg, [tmp_path / "run"], tmp_path)
    lease.release()
    assert list(tmp_path.iterdir()) == []


def test_the_supported_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"submitit{SUPPORTED}" in project["dependencies"]


def test_the_log_has_the_name_that_submitit_gives_it(tmp_path: Path) -> None:
    from clf.run_folder import RunFolder

    paths = library().JobPaths(tmp_path / "logs", job_id="7_1", task_id=3)
    assert paths.stdout == RunFolder(tmp_path).log("7_1", 3)


def test_a_folder_with_a_percent_sign_is_that_folder(tmp_path: Path) -> None:
    logs = tmp_path / "100%accuracy" / "50%j of %t" / "logs"
    paths = library().JobPaths(logs, job_id="7", task_id=3)
    assert paths.folder == logs
    assert paths.stdout == logs / "7_3_log.out"
    assert paths.submitted_pickle == logs / "7_submitted.pkl"
    assert library().JobPaths.get_first_id_independent_folder(logs) == logs
