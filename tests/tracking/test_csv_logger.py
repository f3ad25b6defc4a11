"""metrics.csv loses and repeats nothing when a run is killed and started again."""

import csv
import os
import signal
import time
from pathlib import Path

from clf.tracking.csv_logger import CsvLogger


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def filled(path: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if value} for row in rows(path)]


def test_all_that_is_known_of_a_step_stands_in_one_row_at_once(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = CsvLogger(path)
    logger.log_metrics({"lr": 0.1}, step=4)
    logger.log_metrics({"train/loss": 2.5, "epoch": 0}, step=4)
    assert filled(path) == [{"epoch": "1", "step": "4", "lr": "0.1", "train/loss": "2.5"}]
    logger.log_metrics({"lr": 0.2}, step=9)
    logger.log_metrics({"train/loss": 1.25, "epoch": 0}, step=9)
    logger.log_metrics({"val/loss": 1.5, "epoch": 0}, step=9)
    assert filled(path)[1:] == [
        {"epoch": "1", "step": "9", "lr": "0.2", "train/loss": "1.25", "val/loss": "1.5"}
    ]
    assert list(rows(path)[0]) == ["epoch", "step", "lr", "train/loss", "val/loss"]


def test_a_second_value_of_a_step_does_not_overwrite_the_first(tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    for value in (0.5, 0.75):
        logger.log_metrics({"val/acc_top1": value, "epoch": 1}, step=9)
    assert [row["val/acc_top1"] for row in rows(logger.path)] == ["0.5", "0.75"]


def test_the_first_epoch_is_1_and_the_evaluation_after_the_fit_belongs_to_the_last(tmp_path):
    """Lightning counts epochs from 0 in a fit; after it, its number is that of completed epochs."""
    logger = CsvLogger(tmp_path / "metrics.csv")
    for epoch in (0, 1):
        logger.log_metrics({"val/loss": 0.5, "epoch": epoch}, step=10 * epoch)
    logger.finalize("success")
    logger.log_metrics({"test/loss": 0.5, "epoch": 2}, step=20)
    assert [row["epoch"] for row in rows(logger.path)] == ["1", "2", "2"]


def test_a_resumed_run_keeps_what_came_before_and_replaces_what_is_done_again(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CsvLogger(path)
    for step in range(9, 60, 10):
        first.log_metrics({"train/loss": 100.0 + step, "epoch": step // 20}, step=step)
    again = CsvLogger(path)  # from a checkpoint after 40 steps
    assert len(rows(path)) == 6, "nothing is dropped before there is something to put there"
    again.log_metrics({"train/loss": 49.0, "epoch": 2}, step=49)
    again.log_metrics({"train/loss": 59.0, "new, column": 1.0, "epoch": 2}, step=59)
    found = [(row["step"], row["train/loss"], row["new, column"]) for row in rows(path)]
    kept = [(str(step), str(100.0 + step), "") for step in (9, 19, 29, 39)]
    assert found == [*kept, ("49", "49.0", ""), ("59", "59.0", "1.0")]


def test_a_run_that_starts_over_does_not_mix_with_its_first_attempt(tmp_path):
    path = tmp_path / "metrics.csv"
    CsvLogger(path).log_metrics({"train/loss": 7.0}, step=9)
    CsvLogger(path).log_metrics({"train/loss": 8.0}, step=9)
    assert filled(path) == [{"step": "9", "train/loss": "8.0"}]


def test_a_line_cut_by_a_full_disk_is_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    CsvLogger(path).log_metrics({"train/loss": 7.0, "epoch": 0}, step=9)
    with path.open("a") as file:
        file.write("0,19,0.")
    CsvLogger(path).log_metrics({"train/loss": 6.0, "epoch": 0}, step=29)
    assert [row["step"] for row in rows(path)] == ["9", "29"]


def test_a_file_removed_by_hand_is_written_again(tmp_path):
    logger = CsvLogger(tmp_path / "metrics.csv")
    logger.log_metrics({"lr": 0.1}, step=0)
    logger.path.unlink()
    logger.log_metrics({"lr": 0.2}, step=1)
    assert [row["lr"] for row in rows(logger.path)] == ["0.1", "0.2"]


def log_for_ever(path: Path) -> None:
    logger = CsvLogger(path)
    for step in range(10**9):
        logger.log_metrics({"lr": step, "epoch": 0}, step=step)
        logger.log_metrics({"train/loss": step, f"column{step // 50}": step}, step=step)


def test_a_kill_at_any_instant_leaves_whole_rows(tmp_path):
    for trial in range(8):
        path = tmp_path / f"{trial}.csv"
        child = os.fork()
        if child == 0:
            log_for_ever(path)
        while not path.exists() or path.read_text().count("\n") < 3:
            time.sleep(0.001)
        time.sleep(0.01 + 0.007 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        text = path.read_text()
        assert text.endswith("\n")
        lines = list(csv.reader(text.splitlines()))
        assert len(lines) > 2
        assert {len(line) for line in lines} == {len(lines[0])}
        steps = [int(line[1]) for line in lines[1:]]
        assert steps == list(range(len(steps)))
        for row in rows(path)[:-1]:
            assert row["lr"] == row["train/loss"] == row["step"]
