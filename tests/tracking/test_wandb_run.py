"""W&B: offline without a key, never in the way of the training, and never with a secret.

No test leaves this machine: servers are sockets on the loopback that each test opens and closes.
"""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from lightning.pytorch.utilities import rank_zero_only

from clf.config import TrackingConfig
from clf.run_folder import RunFolder
from clf.tracking import charts, wandb_key, wandb_run, wandb_start
from clf.tracking.tables import PerClassRow, read_csv, write_csv
from clf.tracking.wandb_run import GuardedWandbLogger, close, wandb_logger
from clf.tracking.wandb_start import chosen_mode
from launch.runs.sync import Unsynced, unsynced, upload
from tests.tracking.recording import offline_runs, records
from tests.tracking.stand_in import serving

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"seed": 7, "data": {"name": "digits", "augment": {"crop_scale": [0.35, 1.0]}}}
ROWS = [PerClassRow("00", 0, 0, 0), PerClassRow("0", 7, 2, 2), PerClassRow("1", 3, 3, 8)]


@pytest.fixture(autouse=True)
def hermetic(tmp_path, monkeypatch) -> Iterator[None]:
    for name in [*os.environ]:
        if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no netrc of the person who runs the tests
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one")


@pytest.fixture
def silent_server(monkeypatch) -> Iterator[None]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@pytest.fixture
def refusing_server(monkeypatch) -> Iterator[None]:
    """Answers each request with: 401 Unauthorized."""
    answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # the test is over
            with connection:
                connection.settimeout(5)
                connection.recv(65536)
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def server_that_hangs(monkeypatch) -> Iterator[threading.Event]:
    """Lets a run begin; from the moment that the event is set it answers nothing more."""
    hangs, ends = threading.Event(), threading.Event()
    project = {"name": "clf", "entity": {"name": "me"}}
    bucket = {"id": "1", "name": "one", "displayName": "one", "project": project}
    answers = {
        "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
        "RunResumeStatus": {"model": None},
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            said = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace")
            if hangs.is_set():
                ends.wait()
                self.close_connection = True
                return
            found = [answer for query, answer in answers.items() if query in said]
            body = json.dumps({"data": found[0] if found else {}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        yield hangs
        ends.set()
        server.shutdown()
    thread.join()


def start(folder: RunFolder, mode: str = "auto"):
    return wandb_logger(TrackingConfig(mode=mode), folder, CONFIG, "one")


def test_without_a_key_the_run_is_recorded_offline_and_nobody_is_asked(folder, recwarn):
    logger = start(folder)
    assert logger.location == str(offline_runs(folder)[0])
    close([logger])
    assert not [w for w in recwarn if "W&B" in str(w.message)], "this is no fault"


def test_online_without_a_key_says_how_to_get_one(folder):
    with pytest.warns(UserWarning, match="no key: type `wandb login`"):
        logger = start(folder, "online")
    assert offline_runs(folder)
    close([logger])


@pytest.mark.parametrize("where", ["environment", "netrc"])
def test_with_a_key_a_server_that_is_away_costs_no_time(folder, where, monkeypatch, tmp_path):
    if where == "environment":
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    else:
        entry = f"machine 127.0.0.1:9 login user password {'a' * 40}\n"
        (tmp_path / "netrc").write_text(entry)
        (tmp_path / "netrc").chmod(0o600)
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"cannot be reached.*refused.*wandb sync .*offline-run"):
        logger = start(folder)
    assert time.monotonic() - begun < 10
    logger.log_metrics({"val/loss": 0.5}, step=3)
    close([logger])
    assert len(offline_runs(folder)) == 1


def test_a_server_that_never_answers_does_not_hold_up_the_training(
    folder, silent_server, monkeypatch
):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert wandb_key.CONNECT_TIMEOUT_S + wandb_start.INIT_TIMEOUT_S <= 25
    monkeypatch.setattr(wandb_start, "INIT_TIMEOUT_S", 3)
    begun = time.monotonic()
    with pytest.warns(UserWarning, match=r"W&B cannot be used online.*wandb sync"):
        logger = start(folder)
    assert time.monotonic() - begun < 3 + 10
    assert offline_runs(folder)
    close([logger])


def test_a_server_that_hangs_later_holds_up_neither_a_step_nor_the_end(
    folder, server_that_hangs, monkeypatch
):
    assert wandb_start.FINISH_TIMEOUT_S <= 10  # a preempted job must be out in 15
    monkeypatch.setattr(wandb_start, "FINISH_TIMEOUT_S", 2)
    logger = start(folder)
    assert logger.location.endswith(f"/me/clf/runs/{logger.version}")
    server_that_hangs.set()
    begun = time.monotonic()
    for step in range(200):
        logger.log_metrics({"train/loss": 0.5}, step)
    logger.mark_preempting()
    with pytest.warns(UserWarning, match="not taken everything .*upload the rest with: wandb sync"):
        logger.finalize("failed")
    assert time.monotonic() - begun < 30  # W&B's own patience is minutes
    (run,) = folder.wandb.glob("run-*")
    rows = [record["history"]["item"] for record in records(run) if record["type"] == "history"]
    assert [row["trainer/global_step"] for row in rows] == list(range(200))


@pytest.mark.parametrize("key", ["b" * 40, "mistyped"])
def test_a_wrong_key_becomes_an_offline_run_that_says_so(folder, refusing_server, key, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", key)
    with pytest.warns(UserWarning, match="401|API key must have") as caught:
        logger = start(folder)
    assert key not in "".join(str(warning.message) for warning in caught)
    assert offline_runs(folder)
    close([logger])


def test_disabled_leaves_wandb_out(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # importing it would fail
    assert start(folder, "disabled") is None
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert start(folder, "auto") is None
    assert not list(folder.wandb.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WANDB_MODE", "offline", "offline"),
        ("WANDB_MODE", "dryrun", "offline"),
        ("WANDB_MODE", "run", "online"),
        ("WANDB_DISABLED", "true", "disabled"),
        ("WANDB_DISABLED", "1", "disabled"),
        ("WANDB_DISABLED", "false", "auto"),
        ("wandb/settings", "offline", "offline"),
        ("wandb/settings", "disabled", "disabled"),
        ("", "", "auto"),
    ],
)
def test_whoever_has_asked_wandb_to_stay_offline_is_heard(
    name, value, expected, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    if name.startswith("WANDB_"):
        monkeypatch.setenv(name, value)
    elif name:  # as `wandb offline` writes it in this folder
        (tmp_path / "wandb").mkdir()
        (tmp_path / name).write_text(f"[default]\nmode = {value}\n")
    assert chosen_mode() == expected


def test_after_wandb_offline_no_server_is_asked(folder, monkeypatch, tmp_path, recwarn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    command = [Path(sys.executable).with_name("wandb"), "offline"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    close([start(folder)])
    assert offline_runs(folder)
    assert not [one for one in recwarn if "W&B" in str(one.message)]


def test_only_rank_0_writes_the_run(folder, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert start(folder, "offline") is None
    assert not list(folder.wandb.iterdir())


def test_a_wandb_that_does_not_work_at_all_costs_the_dashboard_only(folder, monkeypatch):
    def broken(**arguments):
        raise RuntimeError("wandb-core is not executable")

    monkeypatch.setattr(wandb, "init", broken)
    with pytest.warns(UserWarning, match=r"left out \(RuntimeError: wandb-core is not executable"):
        assert start(folder, "offline") is None


def test_a_process_of_wandb_that_is_gone_is_started_anew(folder, monkeypatch, recwarn):
    """A shell or a job inherits WANDB_SERVICE from a process that has ended since."""
    logger = start(folder, "offline")
    left = os.environ["WANDB_SERVICE"]
    close([logger])
    wandb.teardown()
    monkeypatch.setenv("WANDB_SERVICE", left)
    other = start(RunFolder.create(folder.path.with_name("two")), "offline")
    assert other is not None, [str(one.message) for one in recwarn]
    close([other])


def test_a_dead_process_of_wandb_leaves_no_empty_recording(folder, tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "socket"))
    monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{tmp_path / 'socket'}")
    close([start(folder, "offline")])
    (run,) = offline_runs(folder)
    assert any(record["type"] == "run" for record in records(run))


def test_a_process_of_wandb_that_died_is_started_anew(folder):
    close([start(folder, "offline")])
    found = re.search(r"wandb-\d+-(\d+)-", os.environ["WANDB_SERVICE"])
    assert found, os.environ["WANDB_SERVICE"]
    os.kill(int(found[1]), signal.SIGKILL)  # the one that this test's run started
    other = start(RunFolder.create(folder.path.with_name("two")), "offline")
    assert other is not None
    close([other])


def test_a_resumed_run_goes_on_in_the_same_dashboard_run(folder):
    ids = []
    for _ in range(2):
        logger = start(folder, "offline")
        ids.append(logger.experiment.id)
        close([logger])
        time.sleep(1.1)  # W&B names the folder of a start by the second
    assert ids[0] == ids[1] == folder.run_id.read_text()
    assert len(offline_runs(folder)) == 2
    for run in offline_runs(folder):
        assert ids[0] in run.name
    other = start(RunFolder.create(folder.path.with_name("two")), "offline")
    assert other.experiment.id != ids[0]
    close([other])


def _set_and_wait(event: threading.Event, logger: GuardedWandbLogger) -> None:
    event.set()
    assert logger._scalars.wait(10)


def test_a_failure_while_logging_is_reported_once_and_training_continues(
    folder, monkeypatch, recwarn
):
    logger = start(folder, "offline")
    calls, may_fail = [], threading.Event()

    def lost(*args, **kwargs):
        calls.append(args)
        assert may_fail.wait(60)
        raise ConnectionResetError("the service is gone")

    monkeypatch.setattr(type(logger.experiment), "log", lost)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    with pytest.warns(UserWarning, match="ConnectionResetError: the service is gone"):
        _set_and_wait(may_fail, logger)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    logger.log_per_class("val/per_class", ROWS, epoch=0, step=1)
    logger.finalize("failed")
    assert len(calls) == 1
    assert not recwarn.list


def test_a_table_that_cannot_be_written_costs_no_scalar(folder, monkeypatch, recwarn):
    """As where the disk is full: W&B moves the table's file into the run folder."""
    logger = start(folder, "offline")
    log = type(logger.experiment).log

    def full(run, metrics, **arguments):
        if "val/per_class" in metrics:
            raise OSError(28, "No space left on device")
        log(run, metrics, **arguments)

    monkeypatch.setattr(type(logger.experiment), "log", full)
    for step in range(50):
        logger.log_metrics({"train/loss": 1.0}, step)
        if step % 10 == 9:
            logger.log_per_class("val/per_class", ROWS, epoch=step // 10, step=step)
    close([logger])
    (told,) = (str(one.message) for one in recwarn if "W&B" in str(one.message))
    assert re.search("not taken a table .*No space left.*per_class/", told)
    rows = [r["history"]["item"] for r in records(offline_runs(folder)[0]) if "history" in r]
    assert [row["trainer/global_step"] for row in rows] == list(range(50))


def test_a_process_of_wandb_that_hangs_holds_up_neither_a_step_nor_the_end(folder, monkeypatch):
    monkeypatch.setattr(wandb_run, "CLOSE_TIMEOUT_S", 2)
    monkeypatch.setattr(wandb_run, "LEAVE_TIMEOUT_S", 1)
    logger = start(folder, "offline")
    found = re.search(r"wandb-\d+-(\d+)-", os.environ["WANDB_SERVICE"])
    assert found, os.environ["WANDB_SERVICE"]
    os.kill(int(found[1]), signal.SIGSTOP)
    for step in range(5000):  # more than the pipe to that process holds
        logger.log_metrics({f"value{place}": 0.5 for place in range(20)}, step)
    logger.mark_preempting()
    with pytest.warns(UserWarning, match="does not react.*upload the rest with: wandb sync"):
        logger.finalize("failed")
    process = Path("/proc", found[1], "cmdline")  # it would hold up the end of this process
    assert not process.exists() or process.read_bytes() == b""


def test_a_server_that_fails_becomes_an_offline_run_that_says_so(folder, monkeypatch):
    with serving() as stand_in:
        monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setattr(wandb_start, "INIT_TIMEOUT_S", 3)
        stand_in.trouble = "500"
        with pytest.warns(UserWarning, match="(?s)W&B cannot be used online.*wandb sync"):
            logger = start(folder)
        logger.log_metrics({"train/loss": 0.5}, 0)
        close([logger])
    rows = [r["history"]["item"] for r in records(offline_runs(folder)[-1]) if "history" in r]
    assert [row["trainer/global_step"] for row in rows] == [0]


def test_the_training_does_not_wait_until_wandb_has_taken_a_table(folder, monkeypatch):
    """W&B asks its server for each table, and waits 20 s where that is silent."""
    logger = start(folder, "offline")
    may_answer, taken = threading.Event(), []
    log = type(logger.experiment).log

    def slow(run, metrics, **arguments):
        assert may_answer.wait(60)
        taken.append([*metrics])
        log(run, metrics, **arguments)

    monkeypatch.setattr(type(logger.experiment), "log", slow)
    logger.log_per_class("val/per_class", ROWS, epoch=4, step=99)
    assert taken == []
    may_answer.set()
    close([logger])
    assert "val/per_class" in taken[0]
    rows = [r["history"]["item"] for r in records(offline_runs(folder)[0]) if "history" in r]
    assert [row["epoch"] for row in rows] == [5]


def test_the_table_in_wandb_equals_the_csv_and_a_class_without_images_has_no_accuracy(folder):
    logger = start(folder, "offline")
    logger.log_per_class("val/per_class", ROWS, epoch=4, step=99)
    close([logger])
    path = folder.per_class / "val.csv"
    write_csv(ROWS, path)
    (run,) = offline_runs(folder)
    (table_file,) = run.glob("files/media/table/val/per_class*.json")
    table = json.loads(table_file.read_text())
    assert table["columns"] == path.read_text().splitlines()[0].split(",")
    assert table["data"] == [
        ["00", 0, 0, None, 0, None, None, None],
        ["0", 7, 2, 2 / 7, 2, 1.0, 2 / 7, 4 / 9],
        ["1", 3, 3, 1.0, 8, 3 / 8, 1.0, 6 / 11],
    ]
    assert table["data"] == [row.cells() for row in read_csv(path)]


def test_a_table_that_wandb_would_cut_has_the_worst_and_the_best_classes_and_says_so(
    folder, recwarn, monkeypatch
):
    assert charts.MOST_ROWS == wandb.Table.MAX_ROWS
    for module in (charts, wandb_run):
        monkeypatch.setattr(module, "MOST_ROWS", 8)
    rows = [PerClassRow(f"n{c:02d}", 40, (7 * c) % 40, 3) for c in range(30)]
    rows[7] = PerClassRow("n07", 0, 0, 0)
    logger = start(folder, "offline")
    for epoch in range(2):
        logger.log_per_class("val/per_class", rows, epoch=epoch, step=9 * epoch, before=rows)
    close([logger])
    (run,) = offline_runs(folder)
    ordered = sorted(row.correct for row in rows if row.support)
    for file in run.glob("files/media/table/val/per_class*.json"):
        correct = [row[2] for row in json.loads(file.read_text())["data"]]
        assert correct == ordered[:4] + ordered[-4:]
    logged = [one["artifact"] for one in records(run) if "artifact" in one]
    tables = [one for one in logged if one["name"].startswith("per_class-val-")]
    assert len(tables) == 2
    (content,) = tables[1]["manifest"]["contents"]
    assert content["path"] == "val.csv"
    assert read_csv(Path(content["local_path"])) == rows
    assert Path(content["local_path"]).is_relative_to(run)
    (told,) = (str(one.message) for one in recwarn if "rows of a table" in str(one.message))
    assert "has the 4 worst and the 4 best of 30 classes" in told
    assert "per_class/val.csv of the run folder" in told


def test_scalars_and_config_of_an_offline_run_can_be_uploaded_later(folder):
    logger = start(folder, "offline")
    logger.log_metrics({"val/acc_top1": 0.625, "epoch": 2}, step=42)
    close([logger])
    found = json.dumps(records(offline_runs(folder)[0]))
    for expected in ("val/acc_top1", "0.625", "trainer/global_step", "42", "crop_scale", "digits"):
        assert expected in found


def test_the_uploaded_starts_of_a_preempted_run_are_one_run_with_every_step_once(
    folder, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)  # where `wandb sync` leaves a log of its own
    for first in (0, 10, 20):
        logger = start(folder, "offline")
        for step in range(first, first + 10):
            logger.log_metrics({"train/loss": step / 8}, step)
        logger.mark_preempting()
        close([logger])
        time.sleep(1.1)  # W&B names the folder of a start by the second
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with serving() as stand_in:
        monkeypatch.setenv("WANDB_BASE_URL", stand_in.url)
        assert upload(Unsynced(folder.path, unsynced(folder.path), lives=False))
    assert unsynced(folder.path) == []
    names = {
        said["variables"]["name"] for said in stand_in.queries if "UpsertBucket" in said["query"]
    }
    assert len(names - {None}) == 1, "one run"
    rows = [(row["trainer/global_step"], row["train/loss"]) for row in stand_in.rows()]
    assert rows == [(step, step / 8) for step in range(30)]


PROGRAM = """
import sys
from pathlib import Path
from clf.config import TrackingConfig
from clf.run_folder import RunFolder
from clf.tracking.wandb_run import close, wandb_logger
logger = wandb_logger(TrackingConfig(mode="offline"), RunFolder.create(Path("run")), {}, "run")
print("printed-" + sys.argv[1])
logger.log_metrics({"train/loss": 1.5}, step=0)
close([logger])
"""


def test_neither_arguments_nor_environment_nor_code_nor_output_reach_wandb(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(PROGRAM + "# code-hunter2\n")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "WANDB_API_KEY": "environment-" + "hunter2" * 6,
        "MY_PASSWORD": "environment-hunter2",
    }
    command = [sys.executable, str(program), "--password=argument-hunter2"]
    subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=100
    )
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(b"train/loss" in path.read_bytes() for path in files)
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
