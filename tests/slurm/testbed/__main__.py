"""python -m tests.slurm.testbed up|down|status [--folder DIR] [--install]

A real SLURM of 4 nodes with 2 fake GPUs each on this machine, in seconds, as root.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from tests.slurm.testbed.cluster import Testbed, TestbedError, default_folder
from tests.slurm.testbed.machine import PACKAGES, can_install, install, missing


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done (`status`: it runs), 1 not (`status`: it does not run), 2 wrong usage."""
    asked = parse(arguments)
    testbed = Testbed(asked.folder)
    try:
        if asked.action == "up":
            up(testbed, asked.install)
        elif asked.action == "down":
            gone = testbed.down()
            print(f"The testbed in {testbed.folder} " + ("is gone." if gone else "was not there."))
        elif not testbed.is_up:
            print(f"No testbed runs in {testbed.folder}.")
            return 1
        else:
            show(testbed)
    except (TestbedError, ValueError, OSError, subprocess.CalledProcessError) as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    description, _, more = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m tests.slurm.testbed", description=more.strip())
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument(
        "--folder",
        type=Path,
        default=default_folder(),
        help="holds all of its state (default: %(default)s)",
    )
    parser.add_argument(
        "--install",
        action="store_true",
        help=f"with up: apt-get install {' '.join(PACKAGES)} if they are absent",
    )
    return parser.parse_args(arguments)


def up(testbed: Testbed, may_install: bool) -> None:
    if may_install and missing() and can_install():
        print(f"Installing {' '.join(PACKAGES)} ...", flush=True)
        install()
    if not testbed.up():
        print("The testbed is up already; nothing was changed.")
    show(testbed)


def show(testbed: Testbed) -> None:
    print(testbed.command("sinfo", "-p", "gpu", "-N", "-o", "%8N %10T %6c %8m %G").rstrip())
    print()
    print(testbed.command("sinfo", "-o", "%10P %12l %14p %F").rstrip())
    print()
    print("To use it, in this shell:")
    for name, value in testbed.environment.items():
        print(f"export {name}={value}")


if __name__ == "__main__":
    sys.exit(main())
