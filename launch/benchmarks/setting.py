"""What a benchmark's numbers belong to."""

import contextlib
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("torch", "torchvision", "lightning", "torchmetrics", "pillow", "simplejpeg", "numpy")
OPTIONAL = ("nvidia-dali-cuda130", "spdl-io", "timm")


def describe() -> dict[str, Any]:
    """When, on what, with which versions."""
    from clf.data.jpeg import LIBRARY

    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    for name in OPTIONAL:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    versions["jpeg_region"] = "compiled" if LIBRARY is not None else "not compiled"
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0))
    return {"date": date.today().isoformat(), "cores": cores, "load": load, "versions": versions}
