"""Whether the checkpoint that a run goes on from is its own, and what was changed by hand since."""

import secrets
from pathlib import Path
from typing import Any

from clf.atomic import write_text
from clf.config import RunConfig
from clf.config.faults import show
from clf.config.saved import flat
from clf.run_folder import RunFolder

# What says where and on what a run runs, or what is shown of it: it may change without a word.
OF_THE_MACHINE = (
    *("name", "runs_dir", "nodes", "gpus", "slurm.", "tracking.", "strategy.", "report", "debug"),
    *("data.root", "data.origin", "data.stage", "data.cache_", "data.threads", "data.prefetch"),
    *("data.micro_batch_size", "checkpoint.", "trusted_packages"),
)


def run_id(folder: RunFolder) -> str:
    """The random name of a run, 8 hex digits: one for all its starts and checkpoints, and in W&B.
    The first who asks, which must be rank 0, gives it."""
    for file in (folder.run_id, folder.wandb / folder.run_id.name):  # where older versions had it
        if file.is_file():
            return file.read_text(encoding="utf-8").strip()
    write_text(folder.run_id, secrets.token_hex(4))
    return run_id(folder)


def check_own(record: dict[str, Any], path: Path, folder: RunFolder, cfg: RunConfig) -> list[str]:
    """Notes on settings that are others than the checkpoint was written with.

    Args:
        record: the entry of our own in the checkpoint at `path`

    Raises:
        ValueError: another run, or a run of another network, has written it
    """
    theirs, file = record.get("run_id"), folder.run_id
    if theirs and not file.is_file():
        write_text(file, theirs)  # somebody has deleted it
    if theirs and (mine := run_id(folder)) != theirs:
        raise ValueError(
            f"{path} is of another run: expected one of the run {mine}, and it is of the run "
            f"{theirs}, {record['config'].get('name') or 'without a name'}. Nothing was changed. "
            "Put the run's own checkpoint back; to begin from the weights of the other one, start "
            f"a new run with model.weights={path}"
        )
    old, new = flat(record["config"]), flat(cfg)
    if old["model._target_"] != new["model._target_"]:
        raise ValueError(
            f"model._target_={new['model._target_']}: {path} has the weights of another network, "
            f"{old['model._target_']}. Nothing was changed. Set it back in {folder.config}, or "
            f"train the other network under another --name"
        )
    return [
        f"{key}={show(new[key])}: the last checkpoint was written with {show(old[key])}; the run "
        f"goes on with {show(new[key])}"
        for key in old
        if key in new and old[key] != new[key] and not key.startswith(OF_THE_MACHINE)
    ]
