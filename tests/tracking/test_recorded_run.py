"""A whole run with W&B offline, read back: what the dashboard gets without being asked."""

from typing import Any
from unittest.mock import patch

import pytest

from clf import run
from clf.config import TrackingConfig
from clf.run_folder import RunFolder
from tests import tiny
from tests.tracking.recording import offline_runs, records

COMMIT = {"commit": "c0ffee" * 6 + "c0ff", "changed": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunFolder:
    """Two epochs of a few steps, and the final test."""
    place = tmp_path_factory.mktemp("recorded")
    folder = RunFolder.create(place / "runs" / "one")
    folder.write_json(folder.commit, COMMIT)
    cfg = tiny.config(str(place / "digits"), limit_batches=8)
    cfg.tracking = TrackingConfig(mode="offline", log_every=1)
    with patch("os.fsync"):
        run.fit(cfg, folder.path, progress=False, job="77")
    return folder


@pytest.fixture(scope="module")
def recorded(folder) -> list[dict[str, Any]]:
    (start,) = offline_runs(folder)
    return records(start)


def test_commit_and_job_are_part_of_the_config(recorded):
    (begin,) = (record["run"] for record in recorded if record["type"] == "run")
    config = begin["config"]["update"]
    about = {name: config[name] for name in ("git_commit", "git_changed", "job_id")}
    assert about == {"git_commit": COMMIT["commit"], "git_changed": True, "job_id": "77"}


def test_the_gradient_norm_and_the_waiting_share_are_curves(recorded):
    rows = [record["history"]["item"] for record in recorded if record["type"] == "history"]
    for name in ("train/grad_norm", "train/waiting_share", "train/images_per_second"):
        steps = [row["trainer/global_step"] for row in rows if name in row]
        assert steps == [0, 1, 2, 3], name
