"""@register and the list of packages that a `_target_` may name."""

import copy
import functools
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from clf.config import ConfigError, ModelConfig, registry
from clf.config.about import About
from clf.config.compose import read
from clf.config.registry import GROUPS, node_schema, of_clf, register
from clf.config.registry import load as load_registered
from clf.config.saved import load, save
from clf.config.signatures import default_of, signature
from clf.config.targets import check_trusted, target_fault, trusted
from clf.config.values import limit_faults
from clf.plan import compose

MODEL = """
from clf.config.registry import node_schema, register


class Base:
    def __init__(self, num_classes, **settings):
        pass


@register(name="{name}")
class Net(Base):
    def __init__(self, width: int = 64, depth: list[int] = [2, 2], learning_rate: float = 1e-2,
    **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user's own that registers a model; its name is that of the model."""
    name = f"net_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(MODEL.format(name=name))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_users_own_model_is_chosen_by_name_with_its_own_defaults(package: str) -> None:
    cfg = compose([f"trusted_packages=[{package}]", f"model={package}", "model.width=32"])
    assert cfg.model._target_ == f"{package}.Net"
    assert vars(cfg.model)["width"] == 32
    assert vars(cfg.model)["depth"] == [2, 2]
    assert cfg.model.learning_rate == 1e-2


def test_parameters_of_a_users_own_model_are_typed_and_spell_checked(package: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(
            [
                f"trusted_packages=[{package}]",
                f"model={package}",
                "model.width=wide",
                "model.dept=[1]",
            ]
        )
    assert any(
        "model.width=wide: expected a whole number" in fault for fault in caught.value.faults
    )
    assert any("did you mean model.depth?" in fault for fault in caught.value.faults)


def test_a_users_own_model_survives_being_saved_and_loaded(package: str, tmp_path: Path) -> None:
    cfg = compose([f"trusted_packages=[{package}]", f"model={package}", "model.width=32"])
    save(cfg, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == cfg


def test_settings_of_a_class_that_another_choice_replaces_are_left_out_with_a_note(
    package: str, tmp_path: Path
) -> None:
    words = [f"trusted_packages=[{package}]", f"model={package}", "model.optimizer=sgd"]
    save(compose([*words, "model.width=32", "epochs=3"]), tmp_path / "config.yaml")
    composed = read([f"recipe={tmp_path}/config.yaml", "model=resnet18", "model.optimizer=adamw"])
    assert composed.faults == []
    assert composed.cfg is not None
    assert (composed.cfg.epochs, composed.cfg.model.optimizer) == (3, "adamw")
    assert composed.cfg.model._target_ == "clf.models.resnet.ResNet18Model"
    left_out = {note.split("=")[0] for note in composed.notes}
    assert left_out == {"model.width", "model.depth", "model.momentum", "model.nesterov"}


def test_a_package_that_cannot_be_imported_is_a_fault_among_the_others() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["trusted_packages=[no_such_package]", "nodes=0"])
    assert any("importing no_such_package failed" in fault for fault in caught.value.faults)
    assert any(fault.startswith("nodes=0") for fault in caught.value.faults)


def test_a_package_that_is_there_is_not_looked_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, line in (("wrong_name", "register(name='a b')(len)"), ("wrong_word", "a b")):
        (tmp_path / f"{name}.py").write_text(f"from clf.config import register\n{line}\n")
        (fault,) = read([f"trusted_packages=[{name}]"]).faults
        assert fault.endswith("; mend what it says")
    (fault,) = read(["trusted_packages=[no_such_package]"]).faults
    assert fault.endswith("or lie in this folder, the repository's root or a folder of PYTHONPATH")


def test_what_has_no_name_of_its_own_cannot_be_registered() -> None:
    with pytest.raises(ValueError, match="expected a class or a function, got a partial; put it"):
        register(name="partly")(functools.partial(print))


def test_two_models_of_one_name_are_refused() -> None:
    register(name="twice")(type("First", (), {"__init__": lambda self, **kwargs: None}))
    with pytest.raises(ValueError, match="'twice' is already .*First; give .*Second another name"):
        register(name="twice")(type("Second", (), {"__init__": lambda self, **kwargs: None}))


def test_registering_the_same_class_again_is_allowed() -> None:
    model = type("Again", (), {"__init__": lambda self, **kwargs: None})
    assert register(name="again")(model) is register(name="again")(model)


def test_a_model_that_cannot_take_every_setting_is_refused_when_it_is_registered() -> None:
    def init(self: Any, num_classes: int, width: int = 3) -> None: ...

    with pytest.raises(ValueError, match=r"does not take pretrained, .*Add \*\*kwargs"):
        register(name="short")(type("Short", (), {"__init__": init}))


def test_only_known_groups_can_be_registered_to() -> None:
    with pytest.raises(ValueError, match="expected one of model"):
        register(name="x", group="modle")


def test_a_signature_becomes_fields_with_types_defaults_and_choices() -> None:
    class Wide:
        def __init__(
            self,
            size: int,
            act: Literal["relu", "gelu"] = "relu",
            rate=0.5,
            scales: tuple[int, ...] = (1, 2),
            norm: Any = print,  # no YAML file can hold it
            **kwargs: Any,
        ) -> None: ...

    register(name="wide")(Wide)
    schema = node_schema("model", {"_target_": f"{Wide.__module__}.{Wide.__qualname__}"})
    assert issubclass(schema, ModelConfig)
    fields = schema.__dataclass_fields__
    assert (fields["size"].type, fields["rate"].type) == (int, float)
    assert fields["act"].metadata["about"].choices == ("relu", "gelu")
    assert fields["scales"].default_factory() == [1, 2]
    assert "norm" not in fields


def test_a_parameter_without_default_must_be_given() -> None:
    def init(self: Any, hidden: int, **kwargs: Any) -> None: ...

    register(name="needy")(type("Needy", (), {"__init__": init, "__module__": "clf.models.resnet"}))
    with pytest.raises(ConfigError, match=r"model\.hidden=\?\?\?: has no default; give it as"):
        compose(["model=needy"])


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "clf",
        "clf.models.resnet.NoSuchModel",
        "clf.models.pretrained.hashlib.sha256",  # hidden in a module of ours
        "clf.models.pretrained.hashlib",
        "clf.no_such_module.Model",
        "clfx.Model",
        "",
    ],
)
def test_a_target_outside_the_trusted_packages_is_refused(target: str) -> None:
    assert not trusted(target)
    with pytest.raises(ValueError, match="_target_="):
        check_trusted(target)


@pytest.mark.parametrize(
    "target",
    ["clf.models.resnet.ResNet18Model", "torchvision.models.resnet18", "torchvision.models.ResNet"],
)
def test_targets_of_clf_and_torchvision_are_trusted(target: str) -> None:
    assert target_fault(target) is None


def test_a_users_own_package_is_trusted_once_it_is_listed(package: str) -> None:
    assert not trusted(f"{package}.Net")
    assert trusted(f"{package}.Net", [package])


def test_asking_whether_a_target_is_trusted_runs_none_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "trap" / "net.py").write_text("class Net: pass")
    monkeypatch.syspath_prepend(tmp_path)
    assert trusted("trap.net.Net", ["trap"])


def test_a_users_own_network_needs_no_init(tmp_path: Path) -> None:
    from clf.models.base import BaseClassificationModel

    class Short(BaseClassificationModel):
        """Its settings are those of every model."""

    assert register(name="without_init")(Short) is Short


def test_a_configuration_with_settings_of_a_choice_can_be_pickled(package: str) -> None:
    words = [f"trusted_packages=[{package}]", f"model={package}", "model.optimizer=sgd"]
    cfg = compose([*words, "model.width=32", "model.momentum=0.5"])
    assert copy.deepcopy(cfg) == cfg
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).model)"
    path = os.pathsep.join(sys.path)
    printed = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(cfg),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout.decode()
    assert printed.strip() == repr(cfg.model)


@pytest.mark.parametrize("name", [3, "", "my net", "a=b", "data/mine", "7"])
def test_a_name_that_cannot_be_typed_as_one_word_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="such as my_net"):
        register(name=name, group="optimizer")


def test_a_type_that_only_a_type_checker_knows_leaves_the_other_types_intact() -> None:
    def step(groups: "Unknown", *, rate: "Annotated[float, About('share', 0.0)]" = 0.5) -> None: ...  # type: ignore[name-defined]  # noqa: E501, F821

    ((kind, default),) = signature(step).parameters.values()
    assert (kind, default) == (Annotated[float, About("share", 0.0)], 0.5)


def test_a_run_is_read_with_its_own_copy_of_code_that_is_gone_elsewhere(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose([f"trusted_packages=[{package}]", f"model={package}", "model.width=32"])
    run = tmp_path / "run"
    (run / "code").mkdir(parents=True)
    save(cfg, run / "config.yaml")
    (tmp_path / package).rename(run / "code" / package)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_entries", {})
    sys.modules.pop(package)
    assert vars(load(run / "config.yaml").model)["width"] == 32


def cell(text: str) -> Any:
    """What a notebook's cell defines under the name `Own`."""
    space: dict[str, Any] = {"__name__": "notebook", "Any": Any, "Annotated": Annotated}
    exec(text, space | {"About": About}, space)
    space["Own"].__module__ = "notebook"
    return space["Own"]


def test_a_class_that_is_registered_again_has_its_present_parameters() -> None:
    for name in ("width", "depth"):
        own = cell(f"class Own:\n    def __init__(self, {name}: int = 1, **settings): ...")
        register(name="from_a_cell")(own)
        fields = node_schema("model", {"_target_": "notebook.Own"}).__dataclass_fields__
        assert {"width", "depth"} & set(fields) == {name}


def test_a_model_class_gives_a_setting_of_its_loss_another_default() -> None:
    class Smooth:
        def __init__(self, label_smoothing: float = 0.1, **settings: Any) -> None: ...

    register(name="smooth")(Smooth)
    target = {"_target_": f"{Smooth.__module__}.{Smooth.__qualname__}"}
    field = node_schema("model", target).__dataclass_fields__["label_smoothing"]
    assert (field.type, field.default) == (float, 0.1)
    assert field.metadata["about"].high == 1.0  # as the loss states it
    assert node_schema("model", {}).__dataclass_fields__["label_smoothing"].default == 0.0


def test_an_optimizer_and_a_loss_with_a_setting_of_one_name_do_not_go_together() -> None:
    def step(groups: Any, learning_rate: float, *, label_smoothing: float = 0.0) -> None: ...

    register(name="smoothing_step", group="optimizer")(step)
    with pytest.raises(ConfigError, match="label_smoothing: .* both have a setting of that name"):
        compose(["model.optimizer=smoothing_step"])


def test_a_network_and_an_optimizer_with_a_setting_of_one_name_do_not_go_together() -> None:
    def own(num_classes: int, momentum: float = 0.1) -> None: ...

    register(name="norm_momentum")(own)
    assert read(["model=norm_momentum", "model.momentum=0.2"]).faults == []
    (fault,) = read(["model=norm_momentum", "model.optimizer=sgd"]).faults
    assert re.match(
        r"model\.momentum: .*own and clf\.optim\.optimizers\.sgd both have a setting of that name, "
        r"so one value would set both; rename it in .*own, or choose another optimizer than sgd",
        fault,
    ), fault


@pytest.mark.parametrize(
    ("group", "parameters"), [("data", ""), ("optimizer", "groups"), ("loss", "*, x, y, z")]
)
def test_a_function_that_cannot_take_what_it_is_called_with_is_refused(
    group: str, parameters: str
) -> None:
    with pytest.raises(ValueError, match="takes too few positional arguments"):
        register(name="short", group=group)(cell(f"def Own({parameters}): ..."))


def test_a_setting_of_any_type_keeps_its_limits() -> None:
    own = "class Own:\n    def __init__(self, any: Annotated[Any, About('', 1)] = 3, **s): ..."
    class_ = cell(own)
    class_.__qualname__ = "Limited"
    register(name="limited")(class_)
    schema = node_schema("model", {"_target_": "notebook.Limited"})
    assert not list(limit_faults(schema(any=3)))
    for wrong in ("many", 0):
        (fault,) = limit_faults(schema(any=wrong))
        assert fault == f"any={wrong}: expected a number of at least 1"


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_read_from_the_source_of_clf_is_what_its_signatures_say(group: str) -> None:
    """A default that is the name of a constant would be lost without a word."""
    shared = set(ModelConfig.__dataclass_fields__) if group == "model" else set()
    for name, entry in of_clf(group).items():
        stated = signature(load_registered(group, name)).parameters
        assert set(entry.settings) == set(stated) - shared, name
        for key, (_, field) in entry.settings.items():
            assert default_of(field) == stated[key][1], (name, key)
