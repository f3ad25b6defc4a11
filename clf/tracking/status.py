"""Reading `status.json`, which a running job rewrites about once a second. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from clf.tracking.run_folder import RunFolder


def read_status(run_dir: Path) -> dict[str, Any] | None:
    """What the run last said of itself (fields: `clf.tracking.callbacks.StatusFile`).

    None if it has said nothing yet, or if a power cut left the file unreadable.
    """
    try:
        return json.loads(RunFolder(run_dir).status.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
