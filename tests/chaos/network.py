"""A small network that takes its time, so that there are instants to strike at."""

import time
from typing import Any

from tests.tiny import TinyModel

PAUSE_S = 0.03  # a micro-batch


class Slow(TinyModel):
    def training_step(self, *args: Any) -> Any:
        time.sleep(PAUSE_S)
        return super().training_step(*args)
