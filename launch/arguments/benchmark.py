"""The words of benchmark.py."""

from pathlib import Path

from launch.arguments.parser import Parser, parser
from launch.arguments.run import FLAGS
from launch.benchmarks import SECTIONS

EXAMPLES = """\
  python launch/benchmark.py loader                  JPEGs to batches, beside torchvision's
  python launch/benchmark.py all --json numbers.json
  python launch/benchmark.py step metrics --rounds 9
  python launch/benchmark.py all --smoke             does it run? the numbers mean nothing
  python launch/benchmark.py scaling --nodes 1,2,4 --model resnet50     on your cluster
  python launch/benchmark.py scaling --on-paper      what docs/scaling.md expects
"""
SCALING = "scaling"
OF_A_RUN = (
    "--model",
    "--data",
    "--strategy",
    "--config",
    "--name",
    "--slurm",
    "--partition",
    "--time",
)


class Words(list[str]):
    """The sections; settings of `scaling` may stand among them."""

    def __contains__(self, word: object) -> bool:
        return "=" in str(word) or super().__contains__(word)


def benchmark_parser() -> Parser:
    command = parser(
        "Measure what clf promises about speed on this machine, beside the peers, in one run.",
        EXAMPLES,
    )
    choices = Words([*SECTIONS, "all", SCALING])
    command.add_argument("sections", nargs="+", choices=choices, help="what to measure")
    command.add_argument("--rounds", type=int, metavar="N", help="times that each is measured (7)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    command.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all?")
    _add_scaling(command)
    return command


def _add_scaling(command: Parser) -> None:
    """Flags of `scaling`, which also takes settings as submit.py does."""
    command.add_argument("--nodes", metavar="N,N", help="scaling: machines, such as 1,2,4")
    command.add_argument(
        "--gpus", metavar="G,G", help="scaling: devices a machine, such as 8 or 1,2"
    )
    command.add_argument(
        "--images-per-rank", type=int, default=64, metavar="N", help="weak scaling, the default: 64"
    )
    command.add_argument(
        "--images-per-step", type=int, metavar="N", help="strong scaling: of all ranks together"
    )
    command.add_argument(
        "--steps", type=int, default=100, metavar="N", help="scaling: of each run (100)"
    )
    command.add_argument(
        "--queue-minutes",
        type=float,
        default=60,
        metavar="M",
        help="scaling: a job that has not started by then is cancelled (60)",
    )
    command.add_argument(
        "--on-paper", action="store_true", help="scaling: print the model of docs/scaling.md"
    )
    for flag in OF_A_RUN:
        key, placeholder, text = FLAGS[flag]
        command.add_argument(flag, dest=f"flag_{key}", metavar=placeholder, help=f"scaling: {text}")
