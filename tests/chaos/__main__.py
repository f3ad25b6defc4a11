"""Many faults on many runs, and a report in the form of docs/reliability.md.

python -m tests.chaos --faults 200 --seed 7      # or: make chaos FAULTS=200 SEED=7
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.schedule import report, suffer


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Disturb runs of local processes by a seeded schedule of faults, and compare "
        "each with one that was left alone.",
    )
    parser.add_argument("--faults", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: 0)")
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="clf-chaos-") as folder:
        struck = suffer(
            Path(folder), arguments.faults, arguments.seed, lambda text: print(text, flush=True)
        )
    print(f"\n{report(struck)}\n\n{len(struck)} faults in {time.monotonic() - began:.0f} s")
    return 0 if all(one.differences == [] for one in struck) else 1


if __name__ == "__main__":
    sys.exit(main())
