"""Types commands one after the other in one process, which imports torch once.

python worker.py COMMANDS.json ANSWERS.json: a list of [script, words], and of [exit code, output].
"""

import contextlib
import importlib
import io
import json
import os
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def answer(script: str, words: list[str]) -> tuple[int, str]:
    """Exit code and output of `python launch/<script>.py words`."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        sys.argv = [f"launch/{script}.py", *words]
        try:
            code = importlib.import_module(f"launch.{script}").main(words)
        except SystemExit as leaving:  # argparse
            code = leaving.code
        except BaseException:
            traceback.print_exc()
            code = 1
    return int(code or 0), said.getvalue()


def main(asked: Path, answers: Path) -> None:
    os.fsync = lambda file: None  # no test cuts the power, and a run syncs some fifty times
    found = []
    for script, words in json.loads(asked.read_text()):
        start = time.perf_counter()
        found.append(answer(script, words))
        print(f"{time.perf_counter() - start:6.1f} s  {script} {' '.join(words)}", flush=True)
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
