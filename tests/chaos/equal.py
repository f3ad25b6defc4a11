"""Whether a run that was disturbed ended as one that was not: what differs, a line each."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clf.run_folder import RunFolder
from tests.tracking.recording import records

ENTRIES = ("state_dict", "optimizer_states", "lr_schedulers", "clf_ema", "global_step", "epoch")
STEP = "trainer/global_step"
# Columns of metrics.csv that tell of the machine, not of the training
OF_THE_CLOCK = ("train/images_per_second", "train/waiting_share", "checkpoint/")


def differences(run: RunFolder, whole: RunFolder) -> list[str]:
    """Compares weights, optimizer, schedules and average to the bit, tables and rows as text."""
    found = []
    for name in ("last.ckpt", "best.ckpt"):
        mine, other = (_entries(folder.checkpoints / name) for folder in (run, whole))
        found += [f"{name}{line}" for line in differing(mine, other)]
    mine, other = (sorted(p.name for p in f.per_class.glob("*.csv")) for f in (run, whole))
    found += [f"per_class: {mine} and {other}"] if mine != other else []
    for name in other:
        texts = [_text(folder.per_class / name) for folder in (run, whole)]
        found += [f"per_class/{name}"] if texts[0] != texts[1] else []
    rows, others = (_rows(folder.metrics_csv) for folder in (run, whole))
    if [row["step"] for row in rows] != [row["step"] for row in others]:
        found.append(f"metrics.csv: the steps {[row['step'] for row in rows]}")
    else:
        pairs = zip(rows, others, strict=True)
        found += [f"metrics.csv: {a} and {b}" for a, b in pairs if a != b]
    return found


def wandb_differences(run: RunFolder) -> list[str]:
    """Compares what all starts have recorded for W&B with metrics.csv: one run, no number of a step
    missing, and none twice with another value."""
    recordings = sorted(run.wandb.glob("*run-*-*"))
    ids = {path.name.rpartition("-")[2] for path in recordings}
    found = [f"W&B: the runs {sorted(ids)}"] if len(ids) != 1 else []
    with ThreadPoolExecutor(2) as pool:
        records = [one for part in pool.map(_recorded, recordings) for one in part]
    logged: dict[tuple[int, str], set[float]] = {}
    for record in records:
        item = record.get("history", {}).get("item", {})
        for name, value in item.items():
            if isinstance(value, float | int) and STEP in item:
                logged.setdefault((item[STEP], name), set()).add(float(value))
    for row in _rows(run.metrics_csv):
        for name, text in row.items():
            there = logged.get((int(row["step"]), name), set())
            if name not in ("step", "epoch") and text and there != {float(text)}:
                found.append(f"W&B: step {row['step']}, {name}: {text} and {sorted(there)}")
    return found


def _recorded(recording: Path) -> list[dict[str, Any]]:
    return records(recording) if any(recording.glob("*.wandb")) else []


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


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: text for name, text in row.items() if not name.startswith(OF_THE_CLOCK)}
            for row in csv.DictReader(file)
        ]
