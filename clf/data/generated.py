"""Data sets that are written to disk on first use, such as digits and jersey: once, and completely
or not at all, however many processes ask for them at the same time.

    @register(name="mine", group="data")
    @writes_images(classes=("cat", "dog"))
    def write_mine(folder: Path, *, images: int = 100) -> None:

Such a function takes the place of a reader. It fills the empty `folder` with train/, val/ and
test/, each with a folder of images per class; they are then read as by data=imagefolder. The folder
is `data.root`, or `<name>-<hash of all settings that it takes>` in the repository's folder `data`,
or in the user's cache where the package is installed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

from clf.atomic import write_folder
from clf.config import DataConfig
from clf.config.files import IS_INSTALLED, ROOT
from clf.config.registry import entries, load
from clf.data.reader import DataError, Reader, arguments

RECORD = "made_by_clf.json"  # holds the settings that the images were written with
WriteFunction = TypeVar("WriteFunction", bound=Callable[..., None])


class Preview(NamedTuple):
    """What is known of the images before they are written."""

    classes: tuple[str, ...]  # () if it cannot be known
    train_size: Callable[..., int] | None  # images to train on, from the function's settings
    version: int  # of the images that the same settings give
    needs: tuple[str, ...]  # packages to import
    extra: str | None  # of `pip install 'clf[extra]'`, which installs them


_previews: dict[Reader, Preview] = {}


def writes_images(
    classes: Sequence[str] = (),
    train_size: Callable[..., int] | None = None,
    version: int = 1,
    needs: Sequence[str] = (),
    extra: str | None = None,
) -> Callable[[WriteFunction], WriteFunction]:
    """Decorator of a function that writes a folder of images; arguments as in `Preview`."""

    def mark(function: WriteFunction) -> WriteFunction:
        _previews[function] = Preview(tuple(classes), train_size, version, tuple(needs), extra)
        return function

    return mark


def is_generated(cfg: DataConfig) -> bool:
    """Whether the images are written on first use."""
    return cfg.name in entries("data") and load("data", cfg.name) in _previews


def folder(cfg: DataConfig) -> Path:
    """Where the images are, or will be."""
    if cfg.root is not None:
        return Path(cfg.root).expanduser()
    return _home() / f"{cfg.name}-{_hash(cfg)}"


def _home() -> Path:
    if not IS_INSTALLED:
        return ROOT / "data"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "clf")


def preview(cfg: DataConfig) -> tuple[list[str] | None, int]:
    """Class names (None if unknown) and training images (0 if unknown) of what is to be written.

    Raises:
        DataError: it cannot be written here, or not with these settings
    """
    function, known = _writer(cfg)
    if missing := [name for name in known.needs if find_spec(name) is None]:
        remedy = f"pip install 'clf[{known.extra}]'" if known.extra else "install them"
        raise DataError(
            f"data.name={cfg.name}: needs the packages {', '.join(missing)} to draw its images, "
            f"and they are not installed; {remedy}"
        )
    size = known.train_size(**arguments(function, cfg)) if known.train_size else 0
    return sorted(known.classes) or None, size


def ensure(cfg: DataConfig) -> Path:
    """Write the images unless they are there: `train/`, `val/` and `test/`, a folder per class.

    Raises:
        DataError: the folder cannot be written, or holds something else
    """
    target = folder(cfg)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(target):
            if not _is_empty(target):
                if found := faults(cfg):
                    raise DataError(found)
                return target
            preview(cfg)
            _write(cfg, target)
    except OSError as error:
        raise DataError(
            f"data.root: {target} cannot be written ({error}); set data.root=FOLDER to write the "
            f"{cfg.name} images elsewhere"
        ) from error
    return target


def faults(cfg: DataConfig) -> list[str]:
    """What is wrong with the folder if it is there and does not hold what `ensure` would write."""
    target = folder(cfg)
    if _is_empty(target):
        return []
    try:
        record = json.loads((target / RECORD).read_text())
    except (OSError, ValueError):
        return [
            f"data.root: {target} holds other files than data={cfg.name} writes; give a new "
            "folder, or train on it with data=imagefolder"
        ]
    if record != _content(cfg):
        return [
            f"data.root: {target} was written with other settings, {json.dumps(record)} in place "
            f"of {json.dumps(_content(cfg))}; give another folder, or remove that one"
        ]
    return []


def _write(cfg: DataConfig, target: Path) -> None:
    function, _ = _writer(cfg)

    def fill(temporary: Path) -> None:
        function(temporary, **arguments(function, cfg))
        (temporary / RECORD).write_text(json.dumps(_content(cfg)))
        # Whoever can read that folder; a run itself writes what its user alone can read.
        mode = target.parent.stat().st_mode & 0o777
        for path in (temporary, *temporary.rglob("*")):
            path.chmod(mode if path.is_dir() else mode & 0o666)

    try:
        write_folder(target, fill)
    except OSError:
        # Another machine may have been faster, where the lock does not reach over the network.
        if faults(cfg) or _is_empty(target):
            raise


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """The ranks of a machine wait for the first one, so that not all of them write the same."""
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: `os.rename` decides
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_empty(target: Path) -> bool:
    return not target.exists() or (target.is_dir() and not any(target.iterdir()))


def _writer(cfg: DataConfig) -> tuple[Callable[..., None], Preview]:
    function = load("data", cfg.name)
    return function, _previews[function]


def _content(cfg: DataConfig) -> dict[str, object]:
    """All that decides what the images are."""
    function, known = _writer(cfg)
    return {"name": cfg.name, "version": known.version, **arguments(function, cfg)}


def _hash(cfg: DataConfig) -> str:
    text = json.dumps(_content(cfg), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
