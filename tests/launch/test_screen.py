"""What is printed can be copied: names, paths and commands are not cut at 60 columns, in a dumb
terminal, or in a pipe. Closing the pipe early is not an error."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = "jersey-numbers-resnet50-20260102-030405-with-a-long-name-of-its-own"
CLASS = "a_class_whose_name_is_longer_than_what_is_left_of_60_columns"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with one finished run whose names are long."""
    run = tmp_path / "runs" / NAME
    (run / "per_class").mkdir(parents=True)
    (run / "config.yaml").touch()
    scalars = {"test/acc_top1": 0.5, "test/loss": 0.25}
    status = {"state": "finished", "epoch": 3, "epochs": 3, "metrics": scalars}
    (run / "status.json").write_text(json.dumps(status))
    (run / "metrics.csv").write_text("epoch,step,val/loss,val/acc_top1\n0,9,0.5,0.75\n")
    (run / "per_class" / "test.csv").write_text(
        f"class,support,correct,accuracy\n{CLASS},4,1,0.25\n"
    )
    return tmp_path


def in_terminal(home: Path, words: list[str], columns: int, term: str) -> str:
    """What a command writes to a terminal, without its colours."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": term}
    process = subprocess.Popen(
        [sys.executable, *words],
        cwd=home,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    text = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        text += chunk
    os.close(ours)
    assert process.wait(timeout=60) == 0, text.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text.decode()).replace("\r\n", "\n")


@pytest.mark.parametrize(("columns", "term"), [(60, "xterm-256color"), (60, "dumb"), (30, "xterm")])
def test_names_paths_and_commands_are_whole_in_a_narrow_terminal(
    home: Path, columns: int, term: str
) -> None:
    jobs = str(ROOT / "launch" / "jobs.py")
    assert NAME in in_terminal(home, [jobs, "list"], columns, term)
    status = in_terminal(home, [jobs, "status", NAME], columns, term)
    assert str(home / "runs" / NAME) in status
    program = (
        "from pathlib import Path\n"
        "from launch.runs.folders import Run\n"
        "from launch.terminal.screen import console\n"
        "from launch.terminal.summary import print_complete, print_submitted\n"
        f"path = Path.cwd() / 'runs' / '{NAME}'\n"
        "print_complete(console(), Run(path, 'finished'))\n"
        "print_submitted(console(), '7', path)"
    )
    said = in_terminal(home, ["-c", program], columns, term)
    assert CLASS in said
    for command in (
        f"python launch/evaluate.py runs/{NAME} --predictions predictions.csv",
        f"python launch/jobs.py logs runs/{NAME} -f",
    ):
        assert command in said
    assert "…" not in said + status


def test_a_long_class_name_is_whole_in_a_pipe(home: Path) -> None:
    program = (
        "from clf.tracking.tables import PerClassRow\n"
        "from launch.terminal.screen import console\n"
        "from launch.terminal.summary import print_per_class\n"
        f"print_per_class(console(), [PerClassRow('{CLASS}' * 2, 4, 1)], 'val', {{}})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert CLASS * 2 in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        "jobs.py list",
        "jobs.py --help",
        f"jobs.py status {NAME}",
        "submit.py --dry-run tracking.mode=disabled",
        "submit.py --settings",
        "train.py --dry-run",
        "evaluate.py --help",
        "benchmark.py --help",
    ],
)
def test_closing_the_pipe_early_is_not_an_error(home: Path, words: str) -> None:
    script, *rest = words.split()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / script), *rest],
        cwd=home,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode in (0, 1)  # argparse ignores what it cannot write
