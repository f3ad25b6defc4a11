"""Many faults on many runs, and a report in the form of docs/reliability.md.

python -m tests.chaos --faults 200 --seed 7      # or: make chaos FAULTS=200 SEED=7
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import on_slurm
from tests.chaos.schedule import report, suffer


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Disturb runs by a seeded schedule of faults, and compare each with one that "
        "was left alone.",
    )
    parser.add_argument("--faults", type=int, default=200, help="how many (default: 200)")
    parser.add_argument(
        "--slurm-faults", type=int, default=0, help="how many more on a real SLURM (default: 0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: 0)")
    arguments = parser.parse_args()
    began = time.monotonic()
    struck = []
    if arguments.faults:
        with tempfile.TemporaryDirectory(prefix="clf-chaos-") as folder:
            struck += suffer(Path(folder), arguments.faults, arguments.seed, say)
    if arguments.slurm_faults:
        struck += on_slurm.suffer(arguments.slurm_faults, arguments.seed, say)
    print(f"\n{report(struck)}\n\n{len(struck)} faults in {time.monotonic() - began:.0f} s")
    return 0 if all(one.differences == [] for one in struck) else 1


if __name__ == "__main__":
    sys.exit(main())
