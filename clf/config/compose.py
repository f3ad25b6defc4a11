"""YAML files and `key=value` overrides -> `RunConfig`, with every fault of spelling and type.

    composed = read(["model=resnet50", "data.batch_size=256"])  # composed.cfg, composed.faults
    save(cfg, run / "config.yaml"); cfg = load(run / "config.yaml")

Hydra composes the files and parses the overrides; the values are then laid one by one into the
typed schema, so that a second fault shows beside the first.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clf.config.assign import Setting, lay
from clf.config.faults import ConfigError, did_you_mean, show
from clf.config.files import CHOOSES, CONFIG_DIR, ConfigFiles, leaves, store, yaml_loader
from clf.config.overrides import parse
from clf.config.registry import entries
from clf.config.schema import RunConfig
from clf.run_folder import write_text

OWN_RECIPE = "own_recipe"  # the name under which Hydra gets a recipe that lies elsewhere


@dataclass
class Composed:
    """What files and overrides gave."""

    cfg: RunConfig | None  # without what does not fit; None if there can be none
    faults: list[str] = field(default_factory=list)  # of spelling and type
    notes: list[str] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)  # all that were laid, in order
    files_are_right: bool = True  # else what the data lacks would only mislead


def read(
    overrides: Sequence[str] = (), config_name: str = "train", config_dir: Path = CONFIG_DIR
) -> Composed:
    """The YAML files of `config_dir` with the overrides laid over them.

    Args:
        overrides: `key=value` in Hydra's grammar; `group=option` chooses a file of `config_dir`
        config_name: root file, "train" or "debug"
        config_dir: folder of YAML files
    """
    typed, files = parse(overrides), ConfigFiles(config_dir)
    settings, file_faults = _own_files(typed.settings, files)
    faults = typed.faults + import_packages(_packages(settings, config_name, files))
    choices, values, choice_faults = _split_choices(settings, files)
    _let_choices_win(choices, values, files)
    from_files, compose_faults = _compose(choices, config_name, files)
    file_faults += choice_faults + compose_faults
    laid = [*from_files, *values]
    cfg, value_faults = lay(laid)
    faults += file_faults + value_faults
    return Composed(cfg, faults, typed.notes, laid, not file_faults)


def to_yaml(cfg: RunConfig) -> str:
    """The configuration as YAML, keys in the order of the schema."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(_escaped(asdict(cfg))))


def _escaped(value: Any) -> Any:
    """Plain values in which a text's `${` is written `\\${`, so that it stays a text when read."""
    if isinstance(value, dict):
        return {key: _escaped(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(one) for one in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    return value


def save(cfg: RunConfig, path: Path) -> None:
    """Write the configuration whole or not at all."""
    write_text(path, f"# A run's configuration, resolved.\n{to_yaml(cfg)}")


def load(path: Path) -> RunConfig:
    """What `save` wrote, its keys and types checked again.

    Raises:
        ConfigError: not there, not YAML, or with keys and types that this version does not know
    """
    import yaml

    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), yaml_loader())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected keys and values, got {show(tree)[:80]}"])
    return _checked(tree, f" (in {path})", path.parent / "code")


def from_dict(tree: dict[str, Any], code: Path | None = None) -> RunConfig:
    """A configuration from nested plain values, such as a checkpoint holds; keys and types checked.

    Args:
        code: as for `import_packages`

    Raises:
        ConfigError: with every unknown key and wrong type
    """
    return _checked(_escaped(tree), code=code)


def _checked(tree: dict[str, Any], source: str = "", code: Path | None = None) -> RunConfig:
    if faults := import_packages(_package_names(tree.get("trusted_packages")), code):
        raise ConfigError(faults)  # without its class a model's own settings would be unknown
    cfg, faults = lay([Setting(str(key), value, source=source) for key, value in tree.items()])
    if faults or cfg is None:
        raise ConfigError(faults)
    return cfg


def import_packages(packages: Sequence[str], code: Path | None = None) -> list[str]:
    """Import what registers classes and functions of the user's own; the faults.

    Args:
        code: the copy of them that a run keeps, for where they are found nowhere else
    """
    faults = []
    # A command starts with the repository's root alone.
    folders = [os.getcwd(), *([str(code)] if code is not None and code.is_dir() else [])]
    sys.path += [folder for folder in folders if packages and folder not in sys.path]
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, SyntaxError, ValueError) as error:  # @register's is a ValueError
            faults.append(
                f"trusted_packages={show(list(packages))}: importing {package} failed ({error}); "
                "it must be installed, or lie in this folder, the repository's root or a folder of "
                "PYTHONPATH"
            )
    return faults


# --- the files and choices that the settings name -------------------------------------------------


def _own_files(settings: list[Setting], files: ConfigFiles) -> tuple[list[Setting], list[str]]:
    """`recipe=/path/mine.yaml` becomes a choice of that file, added to the others."""
    faults: list[str] = []
    kept = []
    for setting in settings:
        text = str(setting.value)
        if setting.key == "recipe" and (text.endswith((".yaml", ".yml")) or os.sep in text):
            path = Path(text).expanduser().absolute()
            if not path.is_file():
                faults.append(
                    f"recipe={text}: no such file; looked for {path}. Give a YAML file, or one of "
                    f"{', '.join(files.options('recipe'))}"
                )
                continue
            _drop_place_of_run(files.add("recipe", OWN_RECIPE, path).tree, path)
            setting = Setting("recipe", OWN_RECIPE, text)
        kept.append(setting)
    return kept, faults


def _drop_place_of_run(tree: dict[str, Any], path: Path) -> None:
    """A run's own config.yaml names its folder, which a new run must not write into."""
    name, runs_dir = tree.get("name"), tree.get("runs_dir")
    if name and runs_dir and path.parent == Path(runs_dir, name):
        del tree["name"], tree["runs_dir"]


def _split_choices(
    settings: list[Setting], files: ConfigFiles
) -> tuple[dict[str, str], list[Setting], list[str]]:
    """Choices of an option (model=resnet50) apart from plain values, and unknown options."""
    choices: dict[str, str] = {}
    values: list[Setting] = []
    faults: list[str] = []
    for setting in settings:
        if setting.key not in files.groups or isinstance(setting.value, dict):
            values.append(setting)
            continue
        valid = files.options(setting.key)
        if setting.value is None and setting.key == "recipe":
            continue
        if setting.value in valid:
            choices[setting.key] = str(setting.value)
            continue
        if setting.key == "data" and _is_path(str(setting.value)):
            choices["data"] = "imagefolder"  # a file that changes nothing else
            values += [Setting("data.name", "auto"), Setting("data.root", str(setting.value))]
            continue
        faults.append(_no_such(setting.key, setting.value, valid))
    return choices, values, faults


def _no_such(group: str, value: Any, valid: list[str], source: str = "") -> str:
    return (
        f"{group}={show(value)}: no such {group}{source}; expected one of {', '.join(valid)}"
        + did_you_mean(str(value), valid, f"{group}={{}}")
    )


def _recipe_faults(name: str, files: ConfigFiles) -> Iterator[str]:
    """What is wrong with the choices of a recipe, which Hydra would report without its file."""
    file = files.get("recipe", name)
    if file is None:
        return
    source = f" (in {files.shown(file.path)})"
    for group, value in file.choices.items():
        if group == "recipe":
            yield f"recipe={value}: a recipe cannot choose another one{source}; take the line out"
        elif value not in (valid := files.options(group)):
            yield _no_such(group, value, valid, source)
    for group in sorted(files.groups & file.tree.keys()):
        value = file.tree[group]
        if not isinstance(value, dict | None):
            yield (
                f"{group}={show(value)}: expected keys and values{source}, or one of "
                f"{', '.join(files.options(group))}"
            )


def _is_path(text: str) -> bool:
    return text.startswith("~") or os.sep in text or Path(text).exists()


def _let_choices_win(choices: dict[str, str], values: list[Setting], files: ConfigFiles) -> None:
    """Take out of the recipe what a typed choice such as model=resnet50 decides. A run's config
    holds its class and its data as plain values, which would otherwise win over the choice."""
    recipe = files.get("recipe", choices.get("recipe", ""))
    for group, option in choices.items():
        held = recipe.tree.get(group) if recipe else None
        key = {**CHOOSES, "strategy": "name"}.get(group, "")
        if not isinstance(held, dict) or key not in held:
            continue
        file = files.get(group, option)
        other_root = any(one.key == "data.root" for one in values)
        if recipe and group == "data" and (other_root or held[key] != option):
            # These belong to the data that the recipe was for.
            _take_out({"root": None, "stage": None}, held)
            _take_out({"model": {"num_classes": None}}, recipe.tree)
        _take_out({key: option} | (file.tree if file else {}), held)


def _take_out(keys: dict[str, Any], tree: dict[str, Any]) -> None:
    for key, value in keys.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _take_out(value, tree[key])
        else:
            tree.pop(key, None)


def _packages(settings: list[Setting], config_name: str, files: ConfigFiles) -> list[str]:
    """`trusted_packages`, known before the rest: what they register is needed to compose it."""
    recipes = [("recipe", str(one.value)) for one in settings if one.key == "recipe"]
    found: Any = None
    for group, name in [("", config_name), *recipes]:
        file = files.get(group, name)
        found = file.tree.get("trusted_packages", found) if file else found
    for setting in settings:
        if setting.key == "trusted_packages":
            found = setting.value
    return _package_names(found)


def _package_names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _compose(
    choices: dict[str, str], config_name: str, files: ConfigFiles
) -> tuple[list[Setting], list[str]]:
    """The files as one setting a key, each naming the file that it came from; and the faults."""
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if recipe_faults := list(_recipe_faults(choices.get("recipe", ""), files)):
        return [], recipe_faults
    store(files)
    overrides = [f"{group}={option}" for group, option in choices.items()]
    try:
        with initialize(None, job_name="clf", version_base="1.3"):
            composed = hydra_compose(config_name, overrides, return_hydra_config=True)
        chosen = dict(composed.hydra.runtime.choices)
        tree = OmegaConf.to_container(composed)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        named = " ".join(overrides) or "no choice"
        fault = f"{files.folder.name}/{config_name}.yaml with {named}: {reason}"
        own = files.get("recipe", OWN_RECIPE)
        return [], [fault.replace(OWN_RECIPE, files.shown(own.path)) if own else fault]
    assert isinstance(tree, dict)
    del tree["hydra"]
    faults: list[str] = []
    origins: dict[tuple[str, ...], str] = {}  # path of a key -> the last file that sets it
    for group, option in [("", config_name), *chosen.items()]:
        file = files.get(group, option) if option else None
        if file is None:
            continue
        if file.fault:
            faults.append(f"{files.shown(file.path)}: cannot be read: {file.fault}")
        faults += _shadowed(group, option, file.tree.get("_target_"), file.path)
        package = () if file.is_global or not group else (group,)
        for path, _ in leaves(file.tree):
            origins[(*package, *path)] = f" (in {files.shown(file.path)})"
    return [
        Setting(".".join(path), value, source=origins.get(path, "")) for path, value in leaves(tree)
    ], faults


def _shadowed(group: str, name: str, target: Any, path: Path) -> list[str]:
    """A registered class that a YAML file of the same name for another class hides."""
    entry = entries("model").get(name) if group == "model" else None
    if entry is None or target in (None, entry.target):
        return []
    return [
        f"model={name}: {entry.target} is registered under the name of {path.name} in "
        "configs/model, which builds another class; register it under another name"
    ]
