"""The data sets that are made on this machine, digits and jersey: where they lie, and making them
once, whole or not at all, however many processes ask for them at the same time.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from clf.config import DataConfig
from clf.data import digits, jersey
from clf.data.rows import DataError

DATASETS: dict[str, ModuleType] = {"digits": digits, "jersey": jersey}
REPOSITORY = Path(__file__).resolve().parents[2]
RECORD = "made_by_clf.json"


def folder(cfg: DataConfig) -> Path:
    """`cfg.root`, or `data/<name>-<hash of all that decides the content>` in the repository."""
    if cfg.root is not None:
        return Path(cfg.root).expanduser()
    return REPOSITORY / "data" / f"{cfg.name}-{_hash(cfg)}"


def missing(cfg: DataConfig) -> list[str]:
    """A fault for each thing that is needed to make the images and is not installed."""
    return list(jersey.missing()) if cfg.name == "jersey" else []


def ensure(cfg: DataConfig) -> Path:
    """Make the images unless they are there; `train/`, `val/` and `test/`, a folder a class.

    Raises:
        DataError: the folder cannot be written, or holds something else
    """
    target = folder(cfg)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target):
            if not _is_empty(target):
                if found := faults(cfg):
                    raise DataError("\n".join(found))
                return target
            if lacking := missing(cfg):
                raise DataError("\n".join(lacking))
            _make(cfg, target)
    except OSError as error:
        raise DataError(
            f"data.root: {target} cannot be written ({error}); set data.root=FOLDER to make the "
            f"{cfg.name} images elsewhere"
        ) from error
    return target


def faults(cfg: DataConfig) -> list[str]:
    """What is wrong with the folder if it is there and does not hold what `ensure` would make."""
    target = folder(cfg)
    if _is_empty(target):
        return []
    try:
        record = json.loads((target / RECORD).read_text())
    except (OSError, ValueError):
        return [
            f"data.root: {target} holds other files than data={cfg.name} makes; give a new folder, "
            "or train on it with data=imagefolder"
        ]
    if record != _content(cfg):
        return [
            f"data.root: {target} was made with other settings, {json.dumps(record)} in place of "
            f"{json.dumps(_content(cfg))}; give another folder, or remove that one"
        ]
    return []


def _make(cfg: DataConfig, target: Path) -> None:
    """Aside first: a kill in between leaves nothing that looks complete."""
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        DATASETS[cfg.name].write(cfg, aside)
        (aside / RECORD).write_text(json.dumps(_content(cfg)))
        try:
            os.rename(aside, target)
        except (
            OSError
        ):  # another machine was faster, where the lock does not reach over the network
            if faults(cfg) or _is_empty(target):
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """The ranks of a machine wait for the first one in place of all rendering the same."""
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: `os.rename` decides
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_empty(target: Path) -> bool:
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _content(cfg: DataConfig) -> dict[str, object]:
    return {"name": cfg.name, **DATASETS[cfg.name].content(cfg)}


def _hash(cfg: DataConfig) -> str:
    text = json.dumps(_content(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
