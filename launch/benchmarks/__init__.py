"""What launch/benchmark.py measures: a function a section, which imports what it measures, so that
the command's --help stays quick."""

from collections.abc import Callable, Iterator

from launch.benchmarks.comparison import Comparison, Sizes
from launch.benchmarks.loader import loader
from launch.benchmarks.metrics import metrics
from launch.benchmarks.scale import scale
from launch.benchmarks.startup import startup
from launch.benchmarks.step import step

SECTIONS: dict[str, Callable[[Sizes], Iterator[Comparison]]] = {
    "loader": loader,
    "step": step,
    "metrics": metrics,
    "startup": startup,
    "scale": scale,
}
