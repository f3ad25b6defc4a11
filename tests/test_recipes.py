"""Each file in configs/recipe trains a network, from a folder of a few images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from clf.config.compose import CONFIG_DIR
from clf.run_folder import RunFolder
from launch import train

RECIPES = sorted(path.stem for path in (CONFIG_DIR / "recipe").glob("*.yaml"))
# No weights can be downloaded, and no processor code made, where the tests run.
TRIED = {"model.pretrained": False, "strategy.compile": False, "data.batch_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    for place, split in enumerate(("train", "val", "test")):
        for label in ("7", "8"):
            (root / split / label).mkdir(parents=True)
            for number in range(3):
                rng = np.random.default_rng((place, int(label), number))
                pixels_HWC = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels_HWC).save(root / split / label / f"{number}.png")
    return root


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_tests_with_all_that_it_says(
    recipe: str, root: Path, tmp_path: Path
) -> None:
    said = flat(yaml.safe_load((CONFIG_DIR / "recipe" / f"{recipe}.yaml").read_text()))
    words = [f"{key}={str(value).lower()}" for key, value in TRIED.items()]
    words += [
        "--smoke",
        "limit_batches=null",
        "--name",
        recipe,
        f"runs_dir={tmp_path}",
        "tracking=disabled",
    ]
    where = ["--data", "imagefolder", f"data.root={root}"]
    assert train.main([f"recipe={recipe}", *where, *words]) == 0

    folder = RunFolder(tmp_path / recipe)
    ran = flat(yaml.safe_load(folder.config.read_text()))
    smoke = {key for key in train.SMOKE if key in said}
    assert {key: ran[key] for key in said.keys() - TRIED.keys() - smoke} == {
        key: said[key] for key in said.keys() - TRIED.keys() - smoke
    }
    assert folder.status.is_file()
    rows = (folder.per_class / "test.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["7", "3"], ["8", "3"]]


def flat(tree: dict[str, Any], above: str = "") -> dict[str, Any]:
    """The leaves of a tree by their dotted names, without Hydra's list of defaults."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        if name != "defaults":
            leaves |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return leaves
