"""How SLURM writes times and GPUs, both in its answers and in requests to it.

minutes("4:00:00") == 240    minutes("1-12") == 2160    gpus("gpu:a100:2") == 2
"""

import re

UNLIMITED = ("UNLIMITED", "INFINITE")
TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
TIME_FORMS = "minutes, or a time as SLURM writes it ([days-]hours:minutes:seconds, days-hours)"


def seconds(text: str) -> float | None:
    """A time in one of sbatch's forms; infinity for UNLIMITED, None for any other text.

    The forms are minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes
    and days-hours:minutes:seconds.
    """
    if text.upper() in UNLIMITED:
        return float("inf")
    match = TIME.fullmatch(text)
    if match is None:
        return None
    days, first, second, third = (int(part or 0) for part in match.groups())
    if match["days"] is not None:
        return ((days * 24 + first) * 60 + second) * 60 + third
    if match["third"] is not None:
        return (first * 60 + second) * 60 + third
    return first * 60 + second


def minutes(text: str) -> int | None:
    """As `seconds`, in minutes and rounded up; None for UNLIMITED too."""
    found = seconds(text)
    return None if found is None or found == float("inf") else -int(-found // 60)


def gpus(resources: str) -> int:
    """The number of GPUs in generic resources such as `gpu:a100:4(S:0-1),shard:8`."""
    found = re.findall(r"(?:^|[,/])gpu(?::[^:,()\d][^:,()]*)?(?::(\d+))?(?=$|[,(])", resources)
    return sum(int(count or 1) for count in found)
