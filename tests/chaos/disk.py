"""A file system of a few megabytes, to be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why_no_disk() -> str:
    """What keeps this process from mounting one; "" if nothing does."""
    if os.geteuid() != 0:
        return "only root may mount a small file system (tmpfs)"
    return ""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A tmpfs of this size at `folder`, which is gone afterwards with all that is in it."""
    folder.mkdir(parents=True)
    size = f"size={megabytes}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "clf-chaos", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
