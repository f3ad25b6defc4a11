"""How a checkpoint gets onto the disk while the training goes on.

The training waits for a copy in the host's memory. A thread writes it beside its target, syncs it
and renames it, one file after another in the order in which they were saved, so that whatever a
kill leaves behind could also have been left by a training that waits.
"""

import copy
import errno
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from clf.atomic import PatientWriter, link_file, write_file
from clf.resilience.background import Background
from clf.resilience.whole import keep_replaced

LAST, BEST = "last.ckpt", "best.ckpt"
WITHIN_EPOCH = "clf_train_metrics"  # our entry in a checkpoint that is written within an epoch
FULL = os.strerror(errno.ENOSPC)
MOST_COPIES = 2  # that wait in the host's memory, beside the one that is being written


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it. What a `last.ckpt` replaces stays under
    another name.

    Lightning's own class goes through TMPDIR. Where that is another file system, a full disk
    destroys the old file, and a permission error passes in silence (Lightning issue 21800).

    Args:
        keep_last: how many of `last.ckpt` stay, the newest included
    """

    def __init__(self, keep_last: int = 1) -> None:
        super().__init__()
        self.keep_last = keep_last

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """OSError says why it could not be written; what was there before is still there then."""
        target = Path(path)

        def write(temporary: Path) -> None:
            save(checkpoint, temporary)
            if target.name == LAST:
                keep_replaced(target, self.keep_last)

        write_file(target, write)

    def link(self, source: Path, target: Path) -> None:
        """Make `target` another name of the file that was saved last as `source`."""
        link_file(source, target)

    def delete(self, folder: Path, pattern: str, kept: set[Path]) -> None:
        """Delete the other files of that pattern once everything saved before is written."""
        for path in set(folder.glob(pattern)) - kept:
            path.unlink()


@dataclass
class _Save:
    """A checkpoint that waits in memory for the disk."""

    content: dict[str, Any]
    path: Path
    write: Callable[[dict[str, Any], Path], None]

    def __call__(self) -> None:
        self.write(self.content, self.path)


class BackgroundCheckpointIO(AtomicCheckpointIO):
    """The same, in a thread. A disk that is full or read-only does not end the training: what could
    not be written is tried again before whatever comes next, unless a newer one takes its place.

    Args:
        writer: warns of a disk that takes nothing, and knows what is missing
        report: is given a line for each checkpoint that was saved within an epoch

    Attributes:
        saved: of the newest file that is written: its name, the optimizer's step, the seconds that
            the training waited for the copy (copy_s) and that the thread wrote (write_s), bytes
    """

    def __init__(
        self,
        keep_last: int = 1,
        writer: PatientWriter | None = None,
        report: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(keep_last)
        self.saved: dict[str, Any] | None = None
        self._disk, self._report = writer or PatientWriter(), report
        self._error: Exception | None = None  # of the thread, which the training has not seen yet
        self._due: dict[Path, Callable[[], None]] = {}  # in order; of the thread, or after `wait`
        self._background = Background("clf-save", MOST_COPIES)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None
    ) -> None:
        self._raise()
        self._disk.retry()  # tables and rows first: a run that goes on writes them no more
        began = time.perf_counter()
        copied = on_host(checkpoint)
        copy_s = time.perf_counter() - began
        write = partial(self._write_one, copy_s=copy_s)
        self._background.do(lambda: self._do(Path(path), _Save(copied, Path(path), write)))

    def link(self, source: Path, target: Path) -> None:
        def work() -> None:
            waiting = self._due.get(source)
            if isinstance(waiting, _Save):  # a newer one may take its place, and its name
                self._do(target, replace(waiting, path=target))
            else:
                self._do(target, lambda: link_file(source, target))

        self._background.do(work)

    def delete(self, folder: Path, pattern: str, kept: set[Path]) -> None:
        def work() -> None:
            super(BackgroundCheckpointIO, self).delete(folder, pattern, kept)
            for path in set(self._disk.missing) - kept:
                if path.parent == folder and path.match(pattern):
                    self._disk.missing.pop(path, None)

        self._background.do(lambda: self._do(folder, work))

    def wait(self) -> dict[Path, str]:
        """Wait until everything is written; path -> why not, of what cannot be."""
        self._background.wait()
        self._raise()
        self._disk.retry()
        if self._write_due():
            return {}
        return {path: why for path, why in self._disk.missing.items() if path in self._due}

    def teardown(self) -> None:
        self._background.wait()

    def _do(self, path: Path, work: Callable[[], None]) -> None:
        self._due.pop(path, None)
        self._due[path] = work
        try:
            if not self._write_due():
                self._give_up_some()
        except Exception as error:  # such as something of the user's that cannot be pickled
            self._error = error
            self._due.clear()

    def _write_one(self, content: dict[str, Any], path: Path, copy_s: float) -> None:
        began = time.perf_counter()
        super().save_checkpoint(content, path)
        write_s, size = time.perf_counter() - began, path.stat().st_size
        step = content.get("global_step")
        numbers = {"copy_s": round(copy_s, 4), "write_s": round(write_s, 4), "bytes": size}
        self.saved = {"file": path.name, "step": step, **numbers}
        if self._report is not None and WITHIN_EPOCH in content:
            self._report(
                f"saved {path.name} after step {step}: {size / 1e6:.1f} MB, the training waited "
                f"{copy_s:.2f} s for the copy, which was written in {write_s:.2f} s"
            )

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write_due(self) -> bool:
        """Whether all of it is written. What comes after something that cannot be written waits,
        since `last.ckpt` must not know of a best one, or of a table, that is not there."""
        for path, work in list(self._due.items()):
            if path.name == LAST and self._lacks_a_table(path.parent):
                self._hold_up(FULL)
                return False
            if not self._disk.write(path, work):
                self._hold_up(self._disk.missing[path])
                return False
            del self._due[path]
        return True

    def _lacks_a_table(self, folder: Path) -> bool:
        """Whether something else waits for the same full disk."""
        others = [path.parent for path, why in self._disk.waiting if why == FULL]
        disks = {other.stat().st_dev for other in others if other.exists()}
        return folder.stat().st_dev in disks

    def _hold_up(self, why: str) -> None:
        for path, work in self._due.items():
            if isinstance(work, _Save):
                self._disk.missing.setdefault(path, why)

    def _give_up_some(self) -> None:
        """Keep no more than a few in memory: the oldest of those that no later one replaces go."""
        others = [
            path
            for path, work in self._due.items()
            if isinstance(work, _Save) and path.name not in (LAST, BEST)
        ]
        for path in others[:-MOST_COPIES]:
            del self._due[path]
            self._disk.missing[path] = "the disk took nothing for too long"


def save(content: Any, path: Path) -> None:
    """`torch.save`, which on a full disk says only that a position in the file is not as expected.

    Raises:
        OSError: the system's own reason
    """
    with _File(path) as raw:
        try:
            with io.BufferedWriter(raw, 1 << 20) as file:
                torch.save(content, file)
        except (RuntimeError, OSError):
            if raw.problem is not None:
                raise raw.problem from None
            raise


class _File(io.FileIO):
    """A file to write that remembers why a write failed."""

    problem: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w")

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as problem:
            self.problem = problem
            raise


def on_host(content: Any) -> Any:
    """A copy of nested dicts, lists and tensors that no later step changes, its tensors on the CPU.

    Those of a GPU are copied through pinned memory, all at once, and waited for once.
    """
    copies: dict[Any, Tensor] = {}  # tied weights stay tied
    copied = _on_host(content, copies)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copied


def _on_host(value: Any, copies: dict[Any, Tensor]) -> Any:
    if isinstance(value, Tensor):
        place = (value.data_ptr(), value.dtype, value.shape, value.stride(), value.device)
        if place not in copies or not value.numel():
            copies[place] = _copy(value.detach())
        return copies[place]
    if isinstance(value, dict):
        new = copy.copy(value)  # with the attributes that a module's state has
        for key, one in value.items():
            new[key] = _on_host(one, copies)
        return new
    if isinstance(value, list | tuple):
        return type(value)(_on_host(one, copies) for one in value)
    return value


def _copy(tensor: Tensor) -> Tensor:
    if tensor.device.type == "cpu":
        return tensor.clone()
    pinned = torch.empty_like(tensor, device="cpu", pin_memory=tensor.device.type == "cuda")
    return pinned.copy_(tensor, non_blocking=True)
