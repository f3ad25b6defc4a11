"""Numbers that a model class declares as logged by itself are known where a run is submitted."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clf.config import ConfigError, registry
from clf.config.signatures import stubs
from clf.plan import compose

MODULE = """
from typing import Any, ClassVar

from clf.config import register


@register(name="declares")
class Declares:
    logs: ClassVar[dict[str, str]] = {"val/auc": "max", "val/cost": "min"}

    def __init__(self, width: int = 8, **settings: Any) -> None: ...


class Plain:
    logs: ClassVar[dict[str, str]] = {"train/energy": "min"}
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(registry, "_entries", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_declaring.py").write_text(MODULE)
    yield tmp_path / "my_declaring.py"
    sys.modules.pop("my_declaring", None)


def chosen(*words: str, model: str = "model=declares") -> list[str]:
    return ["trusted_packages=[my_declaring]", model, *words]


@pytest.mark.usefixtures("module")
def test_a_declared_number_can_be_monitored_and_its_direction_is_known() -> None:
    assert compose(chosen("checkpoint.monitor=val/auc")).checkpoint.monitor == "val/auc"
    with pytest.raises(ConfigError, match="checkpoint.mode=max: val/cost is best at its minimum"):
        compose(chosen("checkpoint.monitor=val/cost", "checkpoint.mode=max"))
    with pytest.raises(ConfigError, match="expected one of val/auc, .*; did you mean val/auc?"):
        compose(chosen("checkpoint.monitor=val/auk"))
    unregistered = "model._target_=my_declaring.Plain"
    compose(chosen("checkpoint.monitor=train/energy", model=unregistered))


@pytest.mark.usefixtures("module")
def test_another_models_number_cannot_be_monitored() -> None:
    with pytest.raises(ConfigError, match="checkpoint.monitor=val/auc: no such name is logged"):
        compose(chosen("checkpoint.monitor=val/auc", model="model=resnet18"))


@pytest.mark.parametrize(
    ("logs", "message"),
    [
        ('{"val/auc": "high"}', "'val/auc': 'high' cannot be monitored"),
        ('{"auc": "max"}', "begins with val/ or train/"),
        ('{"val/loss": "min"}', "'val/loss' is logged for every model already"),
        ('["val/auc"]', "expected a dictionary such as"),
    ],
)
def test_a_declaration_that_cannot_be_followed_is_a_fault(
    module: Path, logs: str, message: str
) -> None:
    module.write_text(MODULE.replace('{"val/auc": "max", "val/cost": "min"}', logs))
    with pytest.raises(ConfigError, match=rf"my_declaring.Declares: its `logs`: .*{message}"):
        compose(chosen())


def test_what_a_class_of_clf_declares_is_read_without_importing_it(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text("import torch_is_not_needed\n" + MODULE)
    ((stub, words, _),) = stubs([path])
    assert words == {"name": "declares"}
    assert stub.logs == {"val/auc": "max", "val/cost": "min"}
