"""Compiles jpeg_region.c, which decodes no more of a JPEG than a crop needs:

    python -m clf.data.jpeg_build      # make env does it, and pip install in its own way

It takes a C compiler and the header of libjpeg-turbo. Without them JPEGs are decoded whole.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LACKS = "JPEGs will be decoded whole, which takes longer; on Debian: apt-get install gcc libc6-dev "
LACKS += "libjpeg62-turbo-dev (Ubuntu: libjpeg-turbo8-dev)"


def build(target: Path = HERE / "jpeg_region.so") -> str | None:
    """Write the library; returns what is lacking where that cannot be done, and None otherwise."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return f"no C compiler found: {LACKS}"
    new = target.with_name(f".{target.name}.{os.getpid()}")  # a process may be using the old one
    source = str(HERE / "jpeg_region.c")
    command = [*compiler.split(), "-O2", "-shared", "-fPIC", "-o", str(new), source, "-ljpeg"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            new.replace(target)
            return None
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [
            "no reason given"
        ]
        return f"{source} could not be compiled ({lines[0].strip()}): {LACKS}"
    except OSError as error:
        return f"{compiler} could not be run ({error.strerror}): {LACKS}"
    finally:
        new.unlink(missing_ok=True)


if __name__ == "__main__":
    reason = build()
    print("compiled clf/data/jpeg_region.c" if reason is None else reason, file=sys.stderr)
