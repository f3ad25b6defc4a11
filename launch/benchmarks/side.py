"""The process of one side of a comparison: python -m launch.benchmarks.side MODULE:FUNCTION JSON

It calls the function with a Meter and the arguments, and prints the Meter's reading as JSON.
"""

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from launch.benchmarks.comparison import BenchmarkError, Reading
from launch.benchmarks.meter import Meter


def measure(function: str, arguments: dict[str, Any]) -> Reading:
    """What the function's Meter read."""
    module, _, name = function.partition(":")
    meter = Meter()
    getattr(importlib.import_module(module), name)(meter, **arguments)
    if meter.reading is None:
        raise BenchmarkError(f"{function} did not stop its meter")
    return meter.reading


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as answer:
        os.dup2(2, 1)  # what libraries print is no part of the answer
        json.dump(asdict(measure(sys.argv[1], json.loads(sys.argv[2]))), answer)
