"""The commands of README.md and docs/ that want a cluster are typed on a real SLURM, in the order
of the pages. Training is the stand-in of tests/conftest.py, so what a page shows of the trainings
themselves is not compared; all else is."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.docs.home import filled, furnish, written_as
from tests.docs.pages import Command, commands
from tests.docs.places import SLURM, place
from tests.docs.printed import differences
from tests.slurm.testbed import Testbed
from tests.slurm.user import User

# Each once, unless several pages show what it prints.
ALL = list({(one.text, one.shown): one for one in commands() if place(one) == SLURM}.values())
# Lines of other trainings, other jobs' numbers and other log files, by their beginning.
NOT_COMPARED = re.compile(
    r"(first|later|rates/\S+|1e-\d|epoch|best top-1|W&B|nodes|staging|clf|log of rank|logs"
    r"|Submitted batch job|(run +|folder +runs/)digits-resnet18-job\d+)\b"
)
# What exists before the first command of the pages.
BEFORE = (
    *("--gpus 1 --name NAME", "--gpus 1 --name RUN", "--nodes 2 --gpus 1 --name broken seed=13"),
    "--nodes 4 --name later 'slurm.options={begin: now+1hour}'",
)
BROKEN = 'KeyError("nothing of that name")\n    if cfg.seed == 13:\n        time.sleep(60)'
EXIT_CODES = {"python launch/jobs.py logs broken": 1}


@pytest.fixture
def user(testbed: Testbed, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """Who types in the repository, without a key of W&B."""
    made = User(testbed, checkout)
    made.home = checkout
    made.environment |= {"HOME": str(checkout), "TMPDIR": str(checkout)}
    furnish(checkout)
    profile = written_as("docs/slurm.md", "comment: jersey numbers")
    (checkout / "configs" / "slurm" / "vision.yaml").write_text(profile)
    # Rank 1 raises while the others wait for it, as in a collective.
    made.edits("clf/run.py", 'RuntimeError("no more luck")', BROKEN)
    for words in BEFORE:
        types(made, f"python launch/submit.py {words}")
    return made


def types(user: User, text: str, code: int = 0) -> str:
    """What a command prints; if it looks at jobs, then when all have ended but the one that
    waits."""
    if not re.search(r"submit\.py|sbatch", text):
        user.waits("jobs have ended", lambda: queued(user) in ("later", ""))
    words = shlex.split(filled(text, user.home))
    return user.types(*[sys.executable if word == "python" else word for word in words], code=code)


def queued(user: User) -> str:
    return user.testbed.command("squeue", "-h", "-a", "-o", "%j").strip()


def test_what_a_page_types_on_a_cluster_works_and_prints_what_it_shows(user: User) -> None:
    faults, job_id = [], ""
    for command in ALL:
        text = re.sub(r"(?<=cat slurm-)\d+", job_id, command.text)
        code = 2 if "in the configuration:" in str(command.shown) else EXIT_CODES.get(text, 0)
        said = types(user, text, code)
        job_id = (re.findall(r"Submitted batch job (\d+)", said) or [job_id])[0]
        faults += [f"{command.where}: {line}" for line in not_printed(command, said)]
    assert not faults, "\n".join(faults)


def not_printed(command: Command, said: str) -> list[str]:
    """The lines that the page shows and the command does not print. Of a table its heading is
    compared, which lacks the columns that are empty here."""
    heading, first = (command.shown or ("",))[0].split(), said.split("\n")[0].split()
    shown = command.shown
    if {"state", "epoch"} <= set(heading):
        shown = () if set(first) <= set(heading) else shown[:1]
    return differences([line for line in shown if not NOT_COMPARED.match(line)], said)
