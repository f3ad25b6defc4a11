"""The folder in which the commands of the pages are typed: what they name is there."""

import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.docs.pages import ROOT, blocks

CLASSES = ("cat", "dog", "owl")
EACH = 60  # images a class: with less a page's 128 images a step would be more than there are
RUNS = ("RUN", "NAME")


def furnish(home: Path) -> None:
    """Images in /my/images and /my/digits.tar, the recipe of docs/extending.md as mine.yaml, and
    RUN, which the runner trains."""
    images = home / "my" / "images"
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (images / name).mkdir(parents=True)
        for number in range(EACH):
            pixels = rng.integers(256, size=(24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / name / f"{number:02d}.png")
    with tarfile.open(home / "my" / "digits.tar", "w") as tar:
        tar.add(images, ".")
    (home / "mine.yaml").write_text(written_as("docs/extending.md", "model.optimizer: sgd"))
    for name in RUNS:
        (home / name).symlink_to(home / "runs" / name)


def written_as(page: str, part: str) -> str:
    """The text of the one block of a page that holds `part`."""
    (block,) = (one for one in blocks() if one.page == page and part in "\n".join(one.lines))
    return "\n".join(block.lines) + "\n"


def filled(text: str, home: Path) -> str:
    """A command or setting whose paths lie in `home`."""
    text = re.sub(r"(?<![\w.])/my/", f"{home}/my/", text)
    text = re.sub(r"\bROOT\b", f"{home}/my/images", text)
    return text.replace("/path/to/clf", str(ROOT))
