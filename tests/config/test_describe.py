"""Every setting is stated once: the table, the page and the classes read the same statement."""

from pathlib import Path

import pytest

from clf.config import ConfigError
from clf.config.compose import CONFIG_DIR, read
from clf.config.describe import page, settings_table
from clf.config.signatures import signature, stubs

ROOT = Path(__file__).resolve().parents[2]
NET = '''
import torch
from torch import nn

from clf.config import register
from clf.models.base import BaseClassificationModel


@register(name="dropnet")
class DropNet(BaseClassificationModel):
    """A network with stochastic depth.

    Args:
        drop_path: probability that a block
            is left out
    """

    def __init__(
        self, drop_path: float = 0.1, widths: tuple[int, ...] = (8, 16),
        norm: type[nn.Module] = nn.BatchNorm2d, learning_rate: float = 1e-2, **settings
    ):
        super().__init__(learning_rate=learning_rate, **settings)
'''


def test_the_page_of_settings_is_what_the_code_says() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    assert text == page(), "print it again: python -m clf.config.describe > docs/settings.md"


def test_the_page_of_settings_shows_brackets_and_underscores() -> None:
    assert "null: &lt;data>-&lt;model>-&lt;date>" in page()  # else a browser shows nothing of it
    assert r"your own packages, which \_target\_ may name" in page()


def test_every_setting_has_a_meaning() -> None:
    assert [row.key for row in settings_table(read()) if not row.meaning] == []


def test_the_table_marks_what_the_chosen_files_and_the_command_line_change() -> None:
    rows = {row.key: row for row in settings_table(read(["model=resnet50", "data.threads=3"]))}
    assert rows["model._target_"].source == "configs/model/resnet50.yaml"
    assert (rows["data.threads"].value, rows["data.threads"].source) == ("3", "command line")
    assert (rows["data.threads"].default, rows["seed"].source) == ("null", "")
    assert rows["data.threads"].takes == "a whole number of at least 0 or null"


def test_a_group_of_the_table_has_the_settings_that_its_choices_bring() -> None:
    rows = settings_table(read(["model.optimizer=sgd"]), "model")
    assert {"model.momentum", "model.nesterov"} <= {row.key for row in rows}
    assert all(row.key.startswith("model.") for row in rows)
    with pytest.raises(ConfigError, match="no such group; .*did you mean model"):
        settings_table(read(), "modle")


def test_one_setting_can_be_asked_for() -> None:
    (row,) = settings_table(read(["model.optimizer=sgd"]), "model.momentum")
    assert row.key == "model.momentum"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("sgd", "--settings model model.optimizer=sgd lists its settings"),
        ("focal", "--settings model model.loss=focal lists its settings"),
        ("convnext_tiny", "--settings model --model convnext_tiny lists its settings"),
        ("model.momentum", "it is a setting of model.optimizer=lars, muon or sgd"),
    ],
)
def test_settings_of_what_is_not_chosen_are_pointed_to(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings_table(read(), word)


def test_no_file_of_configs_repeats_a_default() -> None:
    repeated = []
    for path in CONFIG_DIR.glob("*/*.yaml"):
        if path.parent.name == "recipe":
            continue
        composed = read([f"{path.parent.name}={path.stem}"])
        source = f"(in configs/{path.parent.name}/{path.name})"
        changed = {row.key for row in settings_table(composed) if row.source}
        set_here = {one.key for one in composed.settings if one.source.strip() == source}
        chooses = {f"{path.parent.name}.name", "model._target_"}
        repeated += [f"{path.name}: {key}" for key in set_here - changed - chooses]
    assert repeated == []


def test_a_networks_own_parameter_is_a_setting_without_importing_it(tmp_path: Path) -> None:
    (tmp_path / "dropnet.py").write_text(NET)
    ((stub, words, _),) = stubs([tmp_path / "dropnet.py"])
    read_from = signature(stub)
    assert words == {"name": "dropnet"}
    assert read_from.parameters["drop_path"] == (float, 0.1)
    assert read_from.parameters["widths"][1] == (8, 16)
    assert read_from.meanings["drop_path"] == "probability that a block is left out"
    assert read_from.takes_any
