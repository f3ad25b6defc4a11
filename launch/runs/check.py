"""Looks at every image of a data set, for launch/check_data.py."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from clf.atomic import write_file, write_text
from clf.config import ConfigError, DataConfig, RunConfig
from clf.config.compose import read
from clf.config.rules import check as check_rules
from clf.data.check import Report, check
from clf.data.decode import Look
from clf.data.index import ImageSplits, read_splits
from clf.data.inspection import Facts, inspect
from clf.data.reader import DataError
from clf.data.recognise import data_settings_of


def data_to_check(root: Path, settings: Sequence[str]) -> DataConfig:
    """The settings of the data in a folder; its reader is recognised unless `data.name` says it.

    Raises:
        ConfigError: with every fault of the settings
        DataError: the folder cannot be read
    """
    keys = [text.partition("=")[0] for text in settings]
    faults = [
        f"{text}: only settings of the data count here, such as data.split_seed=1"
        for text, key in zip(settings, keys, strict=True)
        if key not in ("data", "trusted_packages") and not key.startswith("data.")
    ]
    without_data = [] if "data" in keys else ["data=imagefolder"]  # not those of the default data
    composed = read(without_data if faults else [*without_data, *settings])
    faults += composed.faults
    if composed.cfg is not None and not faults:
        of_data = (fault for fault in check_rules(composed.cfg, _one_device))
        faults += [fault for fault in of_data if fault.startswith("data.")]
    if composed.cfg is None or faults:
        raise ConfigError(faults)
    cfg = composed.cfg.data
    cfg.root = os.path.abspath(root.expanduser())
    if not {"data", "data.name"} & set(keys):
        vars(cfg).update(data_settings_of(Path(cfg.root)))
    if Path(cfg.root).is_file():
        raise DataError(f"{root}: is a file; unpack it, and give the folder")
    cfg.batch_size = 1  # there may be fewer images than in a step
    return cfg


def splits_of(cfg: DataConfig) -> tuple[ImageSplits, list[str]]:
    """The images of each split and what is wrong with the data set; DataError if there are none."""
    splits, faults = read_splits(cfg)
    if splits is None:
        raise DataError(faults)
    return splits, faults


def look_at_images(
    cfg: DataConfig,
    splits: ImageSplits,
    faults: Sequence[str],
    folder: Path,
    near: bool,
    threads: int | None,
    progress: Callable[[int], None],
) -> tuple[Report, list[Facts]]:
    """The report, and what is known of each image, which is kept in `folder`.

    Args:
        near, threads, progress: as for `clf.data.inspection.inspect`
    """
    members = splits.members()
    cache = folder / "cache.jsonl"
    facts = inspect(members, Look.of(cfg), cache, near, threads, progress)
    return check(splits, faults, members, facts, cfg), facts


def write_report(report: Report, folder: Path) -> Path:
    """Write the report as JSON; the path."""
    path = folder / "report.json"
    write_text(path, json.dumps(report.as_json(), indent=1) + "\n")
    return path


def write_fix_list(report: Report, path: Path, folder: Path) -> None:
    """Write a file for data.exclude. Names that are no UTF-8 stand in it as their bytes."""
    head = f"# {len(report.fix_list)} images of {report.root}; {folder / 'index.html'} says why"
    text = "\n".join([head, *report.fix_list]) + "\n"
    write_file(path, lambda temporary: _write_bytes(temporary, os.fsencode(text)))


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _one_device(cfg: RunConfig) -> None:
    cfg.gpus = 1
