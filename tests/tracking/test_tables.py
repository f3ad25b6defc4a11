"""The per-class table as a file and on the terminal."""

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from clf.tracking.tables import (
    PerClassRow,
    read_csv,
    render,
    rows_from_counts,
    worst_and_best,
    write_csv,
)

CLASSES = ["0", "00", 'a "quoted", name', "Größe 7", "[bold]"]
SUPPORT_NC = np.array([[4, 0, 3, 1, 7], [5, 0, 0, 2, 4]])
CORRECT_NC = np.array([[3, 0, 3, 0, 2], [3, 0, 0, 0, 4]])
PREDICTED_C = np.array([8, 0, 6, 4, 8])
COLUMNS = ["support", "correct", "accuracy", "predicted", "precision", "recall", "f1"]


def screen(rows, limit=None, whole="", width=80, terminal=False) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        width=width,
        force_terminal=terminal,
        color_system="standard" if terminal else "auto",
    )
    console.print(render(rows, "val: [accuracy]", limit, whole, console.width))
    return out.getvalue()


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_file_says_what_was_counted(tmp_path):
    path = tmp_path / "val.csv"
    write_csv(rows_from_counts(CLASSES, SUPPORT_NC[:1], CORRECT_NC[:1], PREDICTED_C), path)
    header, *rows = cells(path)
    assert header == ["class", *COLUMNS]
    assert [row[0] for row in rows] == CLASSES
    np.testing.assert_array_equal(np.array([row[1:3] for row in rows], int).T[0], SUPPORT_NC[0])
    np.testing.assert_array_equal(np.array([row[1:3] for row in rows], int).T[1], CORRECT_NC[0])
    assert [row[3] for row in rows] == ["0.75", "", "1.0", "0.0", str(2 / 7)]
    np.testing.assert_array_equal([int(row[4]) for row in rows], PREDICTED_C)
    # 2 x correct / (support + predicted): with neither, there is no F1.
    assert [row[7] for row in rows] == ["0.5", "", str(6 / 9), "0.0", str(4 / 15)]
    # Of what was predicted as the class; of what is of the class.
    assert [row[5] for row in rows] == [str(3 / 8), "", "0.5", "0.0", "0.25"]
    assert [row[6] for row in rows] == [row[3] for row in rows]
    assert b"\r" not in path.read_bytes(), "cut, sort and awk would see it"


def test_several_nodes_have_columns_of_their_own_and_add_up(tmp_path):
    path = tmp_path / "val.csv"
    write_csv(rows_from_counts(CLASSES, SUPPORT_NC, CORRECT_NC, PREDICTED_C, ["a", "b"]), path)
    header, *rows = cells(path)
    by_node = ["support/a", "correct/a", "support/b", "correct/b"]
    assert header == ["class", *COLUMNS, *by_node]
    found = np.array([[*row[1:3], *row[8:]] for row in rows], int).T
    totals = [SUPPORT_NC.sum(0), CORRECT_NC.sum(0)]
    nodes = [SUPPORT_NC[0], CORRECT_NC[0], SUPPORT_NC[1], CORRECT_NC[1]]
    np.testing.assert_array_equal(found, [*totals, *nodes])


@pytest.mark.parametrize("nodes", [[], ["a", "b"]])
def test_a_table_read_back_is_the_table_written(tmp_path, nodes):
    rows = rows_from_counts(CLASSES, SUPPORT_NC, CORRECT_NC, PREDICTED_C, nodes)
    write_csv(rows, tmp_path / "val.csv")
    assert read_csv(tmp_path / "val.csv") == rows


def test_a_table_of_an_older_version_can_be_read_and_says_what_it_lacks(tmp_path):
    path = tmp_path / "val.csv"
    path.write_text("class,support,correct,accuracy\ncat,4,1,0.25\n")
    rows = read_csv(path)
    assert rows == [PerClassRow("cat", 4, 1, None)]
    (line,) = (line for line in screen(rows).splitlines() if "cat" in line)
    assert line.split()[1:7] == ["4", "1", "25.0", "%", "n/a", "n/a"]


def test_the_worst_classes_come_first_and_those_without_images_last():
    names = ["good", "empty", "worst", "bad", "bad but rare"]
    counts = [(4, 4), (0, 0), (5, 0), (8, 2), (4, 1)]
    rows = [PerClassRow(name, *count) for name, count in zip(names, counts, strict=True)]
    lines = screen(rows).splitlines()
    shown = [line.strip() for line in lines if any(line.startswith(f"  {n}") for n in names)]
    order = ["worst", "bad", "bad but rare", "good", "empty"]
    assert [re.split(r"\s{2,}", line)[0] for line in shown] == order


def test_a_table_that_is_too_long_has_the_worst_and_the_best_classes_that_have_images():
    rows = [PerClassRow(str(c), 10 if c else 0, c) for c in range(10)]
    assert worst_and_best(rows, 10) == rows
    assert [row.correct for row in worst_and_best(rows, 4)] == [1, 2, 8, 9]
    few = [PerClassRow(str(c), 0, 0) for c in range(10)] + rows[1:3]
    assert [row.correct for row in worst_and_best(few, 4)] == [1, 2, 0, 0]


def test_a_class_without_images_is_not_shown_as_wrong():
    text = screen(rows_from_counts(CLASSES, SUPPORT_NC, CORRECT_NC, PREDICTED_C))
    (line,) = (line for line in text.splitlines() if line.startswith("  00 "))
    assert "n/a" in line
    assert "%" not in line


def test_a_cut_table_says_how_much_is_missing_and_where_the_whole_is():
    rows = [PerClassRow(f"class{i}", 10, i % 10) for i in range(43)]
    text = screen(rows, limit=15, whole="runs/x/per_class/val.csv")
    assert len(re.findall(r"^  class\d+ ", text, re.M)) == 15
    assert "28 more classes: runs/x/per_class/val.csv" in text
    assert "more classes" not in screen(rows[:15], limit=15, whole="runs/x/per_class/val.csv")


def test_the_table_can_be_read_in_a_file_and_in_a_narrow_terminal():
    rows = [
        *rows_from_counts(CLASSES, SUPPORT_NC, CORRECT_NC, PREDICTED_C),
        PerClassRow("name name", 3, 1),
    ]
    piped = screen(rows)
    assert "\x1b" not in piped
    assert "val: [accuracy]" in piped
    assert "[bold]" in piped, "a class name is text, not markup"
    narrow = screen(rows, width=50)
    assert max(map(len, narrow.splitlines())) <= 50
    for word in ("support", "correct", "accuracy", "54.5 %"):
        assert word in narrow
    assert "predicted" not in narrow
    assert "precision" not in piped
    (titles,) = (line for line in screen(rows, width=120).splitlines() if "support" in line)
    assert titles.split() == ["class", *COLUMNS]


def test_the_worst_are_seen_at_a_glance():
    text = screen([PerClassRow("bad", 10, 3), PerClassRow("good", 10, 10)], terminal=True)
    bars = {line[2:6].strip(): line for line in text.splitlines() if "█" in line}
    assert bars["bad"].count("█") < bars["good"].count("█") / 2
    assert "\x1b[31;" in bars["bad"], "red"
    assert "\x1b[32;" in bars["good"], "green"
