"""Compares what a page shows of a command's output with what it prints."""

import re
from collections.abc import Sequence

# What differs from run to run: each becomes one sign before lines are compared.
VARIES = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"/\S*?/runs/"), "/runs/"),  # the folder in which it is typed
    (re.compile(r"\b\d{8}[-_]\d{6}\b"), "TIME"),
    (re.compile(r"\boffline-run-\S+"), "RECORDING"),
    (re.compile(r"\b[0-9a-f]{8}\b"), "ID"),
    (re.compile(r"\bjob(?: array)? \d+"), "job N"),
)


def alike(line: str) -> str:
    for pattern, sign in VARIES:
        line = pattern.sub(sign, line)
    return line.strip()


def differences(shown: Sequence[str], said: str) -> list[str]:
    """The lines of a page that were not printed, in the order of the page; `...` stands for lines
    that the page leaves out."""
    printed = [alike(line) for line in said.split("\n")]
    missing = []
    for line in shown:
        if line.strip() == "...":
            continue
        if alike(line) in printed:
            printed = printed[printed.index(alike(line)) + 1 :]
        else:
            missing.append(line)
    return missing
