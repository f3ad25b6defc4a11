"""tracking.mode=shared: each node sends its system metrics to the one run, and nothing else."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

from clf.config import TrackingConfig
from clf.run_folder import RunFolder
from clf.tracking.wandb_nodes import _shared_run
from clf.tracking.wandb_run import close, wandb_logger
from tests.tracking.stand_in import serving
from tests.tracking.test_wandb_run import ROOT, hermetic  # noqa: F401

NODE = """
import json, sys
from pathlib import Path
from clf.run_folder import RunFolder
from clf.tracking.wandb_nodes import NodeMetrics
metrics = NodeMetrics(RunFolder(Path(sys.argv[1])))
metrics._run = metrics._join(1, *json.loads(sys.argv[2]))
metrics.teardown(None, None, "fit")
"""


def test_each_node_shows_its_own_metrics_in_the_run_of_rank_0(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "one")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("SLURMD_NODENAME", "node1")
        logger = wandb_logger(TrackingConfig(mode="shared"), folder, {}, "one")
        shared = _shared_run(SimpleNamespace(loggers=[logger]))
        other = {**os.environ, "SLURMD_NODENAME": "node2", "PYTHONPATH": str(ROOT)}
        other.pop("WANDB_SERVICE", None)  # a node has a process of W&B of its own
        command = [sys.executable, "-c", NODE, str(folder.path), json.dumps(shared)]
        done = subprocess.run(command, env=other, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        logger.log_metrics({"val/loss": 0.5}, step=3)
        close([logger])
    labels = {
        name.partition("/l:")[2]
        for line in server.lines("wandb-events.jsonl")
        for name in line
        if name.startswith("system.")
    }
    assert labels == {"node1", "node2"}
    runs = [said["variables"]["name"] for said in server.queries if "UpsertBucket" in said["query"]]
    assert set(runs) == {logger.version}, "one run, whatever the nodes"
    assert [row["val/loss"] for row in server.lines("wandb-history.jsonl")] == [0.5]
    ends = [stream["exitcode"] for stream in server.streams if stream.get("complete")]
    assert ends == [0], "the run ends once, with rank 0"
    assert (folder.wandb / "nodes" / "node2").is_dir()


def test_the_nodes_of_a_run_that_is_not_shared_do_not_join_it(tmp_path):
    folder = RunFolder.create(tmp_path / "one")
    logger = wandb_logger(TrackingConfig(mode="offline"), folder, {}, "one")
    assert _shared_run(SimpleNamespace(loggers=[logger])) is None
    close([logger])
