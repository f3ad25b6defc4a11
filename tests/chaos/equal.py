"""Whether a run that was disturbed ended as one that was not: what differs, a line each."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clf.run_folder import RunFolder

ENTRIES = ("state_dict", "optimizer_states", "lr_schedulers", "clf_ema", "global_step", "epoch")
# Columns of metrics.csv that tell of the machine, not of the training
OF_THE_CLOCK = (
    "train/images_per_second",
    "train/waiting_share",
    "train/process_memory_gib",
    "checkpoint/",
)


def differences(run: RunFolder, whole: RunFolder) -> list[str]:
    """Compares weights, optimizer, schedules and average to the bit, and tables and rows as text,
    in the columns that `whole` has."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        mine, other = (_entries(folder.checkpoints / name) for folder in (run, whole))
        found += [f"{name}{line}" for line in differing(mine, other)]
    mine, other = (sorted(p.name for p in f.per_class.glob("*.csv")) for f in (run, whole))
    found += [f"per_class: {mine} and {other}"] if mine != other else []
    for name in other:
        rows, others = (_table(folder.per_class / name) for folder in (run, whole))
        columns = others[0].keys()  # of several nodes there are further ones
        if [{name: row.get(name) for name in columns} for row in rows] != others:
            found.append(f"per_class/{name}")
    rows, others = (_rows(folder.metrics_csv) for folder in (run, whole))
    if [row["step"] for row in rows] != [row["step"] for row in others]:
        found.append(f"metrics.csv: the steps {[row['step'] for row in rows]}")
    else:
        pairs = zip(rows, others, strict=True)
        found += [f"metrics.csv: {a} and {b}" for a, b in pairs if a != b]
    return found


def differing(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the tensors and numbers in which two checkpoints differ by a bit."""
    if isinstance(one, Tensor):
        return [] if torch.equal(one, other) else [f"{name}: {(one - other).abs().max()}"]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{name}: {sorted(one)} and {sorted(other)}"]
        return [n for key in one for n in differing(one[key], other[key], f"{name}/{key}")]
    if isinstance(one, list | tuple):
        pairs = enumerate(zip(one, other, strict=True))
        return [n for i, pair in pairs for n in differing(*pair, f"{name}/{i}")]
    return [] if one == other else [f"{name}: {one} and {other}"]


def _entries(path: Path) -> dict[str, Any]:
    checkpoint = torch.load(path, weights_only=True)
    return {name: checkpoint[name] for name in ENTRIES if name in checkpoint}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _rows(path: Path) -> list[dict[str, str]]:
    return [
        {name: text for name, text in row.items() if not name.startswith(OF_THE_CLOCK)}
        for row in _table(path)
    ]
