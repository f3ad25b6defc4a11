"""A person at the terminal of a login node of the testbed, for the tests of the commands."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.slurm.testbed import Testbed

SMALL = ("strategy.accelerator=cpu", "tracking.mode=disabled")


class User:
    """Types commands of `checkout` in the folder beside it."""

    def __init__(self, testbed: Testbed, checkout: Path) -> None:
        self.testbed, self.checkout, self.home = testbed, checkout, checkout.parent
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {**os.environ, **testbed.environment, "COLUMNS": "100", "PATH": path}

    def types(self, *words: str, code: int | None = 0, **more: str) -> str:
        """Output of `python launch/...`, or of one of SLURM's commands; `code`: exit code."""
        command = [str(word) for word in words]
        if words[0].endswith(".py"):
            command = [sys.executable, str(self.checkout / "launch" / words[0]), *words[1:]]
        done = subprocess.run(
            command,
            cwd=self.home,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        said = done.stdout + done.stderr
        assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{said}"
        return said

    def run(self, name: str) -> Path:
        return self.home / "runs" / name

    def job_id(self, name: str) -> str:
        return json.loads((self.run(name) / "job.json").read_text())["job_id"]

    def seen(self, name: str, rank: int = 0) -> dict[str, Any]:
        """What a rank of the stand-in training saw."""
        return json.loads((self.run(name) / f"seen{rank}.json").read_text())

    def status(self, name: str) -> dict[str, str]:
        """What `jobs.py status` prints, by the label at a line's start."""
        lines = self.types("jobs.py", "status", name).splitlines()
        return dict(re.split("  +", line, maxsplit=1) for line in lines if "  " in line)

    def state(self, name: str) -> str:
        """Of the job, in SLURM's words; "" when it has left the queue."""
        return self.testbed.command(
            "squeue", "-h", "-a", "-o", "%T", "-j", self.job_id(name)
        ).strip()

    def waits(self, what: str, true: Callable[[], Any], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            logs = "\n".join(path.read_text() for path in self.home.glob("runs/**/logs/*.out"))
            assert time.monotonic() < deadline, f"{what}: not after {seconds} s\n{logs}"
            time.sleep(0.1)

    def waits_until_finished(self, *names: str) -> None:
        for name in names:
            self.waits(f"{name} finished", (self.run(name) / "status.json").exists)
            self.waits(f"{name} gone from the queue", lambda name=name: self.state(name) == "")

    def edits(self, file: str, old: str, new: str) -> None:
        path = self.checkout / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
