"""A page in a browser that must not ask anybody for anything, and a run to show."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clf.predictions import Predictions
from clf.run_folder import RunFolder

READY = "html[data-ready]"


@pytest.fixture(scope="module")
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """`open_page(file, **options of a context)`: playwright's Page. At the end, no page may have
    logged an error or asked for anything but its own file."""
    contexts, troubles = [], []

    def opened(file: Path, **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(f"{file.name}: {error}"))

        def said(message: Any) -> None:
            # Without a GPU the browser and its driver say how slow that is.
            driver = "WebGL" in message.text
            if message.type in ("error", "warning") and not driver:
                troubles.append(message.text)

        page.on("console", said)
        own = file.as_uri()

        def asked(request: Any) -> None:
            if not request.url.startswith((own, "data:", "blob:")):
                troubles.append(f"a request for {request.url}")

        page.on("request", asked)
        page.goto(own)
        page.wait_for_selector(READY)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []


def write_predictions(folder: Path, classes: list[str], images: int = 400, seed: int = 0) -> None:
    """Predictions of a network that is right in about four of five cases, as a run leaves them."""
    rng, C = np.random.default_rng(seed), len(classes)
    labels_N = rng.integers(C, size=images)
    logits_NC = rng.normal(size=(images, C)).astype(np.float32)
    logits_NC[np.arange(images), labels_N] += 3.0
    probabilities_NC = np.exp(logits_NC) / np.exp(logits_NC).sum(axis=1, keepdims=True)
    Predictions(
        "test",
        classes,
        [f"/data/test/{number}.jpg" for number in range(images)],
        np.arange(images),
        labels_N,
        logits_NC.argmax(axis=1),
        probabilities_NC,
    ).write(RunFolder(folder).predictions_of("test"))
