"""The words of benchmark.py."""

from pathlib import Path

from launch.arguments.parser import Parser, parser
from launch.arguments.scaling import SCALING, Words, add_scaling
from launch.benchmarks import SECTIONS
from launch.benchmarks.peers import PEERS

EXAMPLES = """\
  python launch/benchmark.py loader                  JPEGs to batches, beside torchvision's
  python launch/benchmark.py loader --vs torchvision,dali,spdl,timm
  python launch/benchmark.py all --json numbers.json
  python launch/benchmark.py step metrics --rounds 9
  python launch/benchmark.py step --gpu              resnet50 and resnet18, and what bounds them
  python launch/benchmark.py all --smoke             does it run? the numbers mean nothing
  python launch/benchmark.py scaling --nodes 1,2,4 --model resnet50      on your cluster
  python launch/benchmark.py scaling --on-paper      what docs/scaling.md expects of one
"""


def benchmark_parser() -> Parser:
    command = parser(
        "Measure what clf promises about speed on this machine, beside the peers, in one run.",
        EXAMPLES,
    )
    choices = Words([*SECTIONS, "all", SCALING])
    command.add_argument("sections", nargs="+", choices=choices, help="what to measure")
    command.add_argument("--rounds", type=int, metavar="N", help="times that each is measured (5)")
    command.add_argument(
        "--vs",
        type=lambda names: tuple(names.split(",")),
        metavar="PEER,...",
        help=f"what the loader is measured beside: {', '.join(PEERS)} (those that are installed)",
    )
    command.add_argument(
        "--gpu", action="store_true", help="step: on a GPU, on noise and on JPEGs, in several ways"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    command.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")
    add_scaling(command)
    return command
