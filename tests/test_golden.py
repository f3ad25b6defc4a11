"""The first 20 losses of the default config, which change if the mathematics does.

python -m tests.test_golden      rewrites tests/golden/losses.json after an intended change

Computed in float64: another CPU, or another layout of the same images, rounds otherwise, and in
float32 twenty steps of a ResNet18 amplify that to 10 %.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from clf.plan import compose
from tests import tiny

FILE = Path(__file__).parent / "golden" / "losses.json"
STEPS = 20


def losses(folder: Path, *overrides: str) -> list[float]:
    fixed = ["strategy.accelerator=cpu", "tracking.mode=disabled", f"data.root={folder / 'digits'}"]
    cfg = compose([*fixed, *overrides])
    cfg.gpus = 1
    return tiny.fit(cfg, str(folder / "run"), stop_after_step=STEPS, double=True)["losses"]


def test_the_default_run_has_the_losses_that_it_had(tmp_path):
    expected: dict[str, Any] = json.loads(FILE.read_text())
    np.testing.assert_allclose(losses(tmp_path), expected["losses"], rtol=expected["rtol"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        now = losses(Path(made), *sys.argv[1:])
    content = {"command": "python -m tests.test_golden", "rtol": 1e-4, "losses": now}
    if sys.argv[1:]:
        print(json.dumps(now))
    else:
        FILE.write_text(json.dumps(content, indent=1) + "\n")
