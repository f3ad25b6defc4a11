"""YAML files and `key=value` overrides -> `RunConfig`, with every fault of spelling and type.

    composed = read(["model=resnet50", "data.batch_size=256"])  # composed.cfg, composed.faults

Hydra composes the files; the values are then laid one by one into the typed schema, so that a
second fault shows beside the first.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clf.config.assign import is_known, lay
from clf.config.faults import show
from clf.config.files import (
    CONFIG_DIR,
    ConfigFiles,
    folder_of_images,
    is_path,
    leaves,
    store,
    text_at,
)
from clf.config.given import Setting, empty_fault, several_fault
from clf.config.networks import find
from clf.config.overrides import parse
from clf.config.recipes import OWN_RECIPE, let_choices_win, own_recipes, recipe_faults
from clf.config.registry import entries, owner
from clf.config.schema import RunConfig
from clf.config.words import split

NOT_THERE = (
    "it must be installed, or lie in this folder, the repository's root or a folder of PYTHONPATH"
)


@dataclass
class Composed:
    """The result of reading files and overrides."""

    cfg: RunConfig | None  # without what does not fit; None if there can be none
    faults: list[str] = field(default_factory=list)  # of spelling and type
    notes: list[str] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)  # all of them, in order
    files_are_right: bool = True  # if not, faults of the data would only mislead


def read(
    overrides: Sequence[str] = (), config_name: str = "train", config_dir: Path = CONFIG_DIR
) -> Composed:
    """The YAML files of `config_dir` with the overrides laid over them.

    Args:
        overrides: `key=value`; `group=option` chooses a file of `config_dir`
        config_name: root file, "train" or "debug"
        config_dir: folder of YAML files
    """
    typed, files = parse(overrides), ConfigFiles(config_dir)
    settings, file_faults = own_recipes(typed.settings, files)
    faults = typed.faults + import_packages(_packages(settings, config_name, files))
    choices, values, choice_faults = _split_choices(settings, files)
    let_choices_win(choices, values, files)
    from_files, compose_faults = _compose(choices, config_name, files)
    file_faults += choice_faults + compose_faults
    laid = [*from_files, *values]
    for unused in _of_replaced_choices(laid, typed.settings, config_name, config_dir):
        laid.remove(unused)
        whose = owner(*unused.key.split(".", 1)) or "the model that the file chooses"
        typed.notes.append(
            f"{unused.key}={show(unused.value)}: is not used{unused.source}; it is a setting of "
            f"{whose}, and another one is chosen"
        )
    cfg, value_faults = lay(laid)
    faults += file_faults + value_faults
    return Composed(cfg, faults, typed.notes, laid, not file_faults)


def _of_replaced_choices(
    laid: list[Setting], typed: list[Setting], config_name: str, config_dir: Path
) -> list[Setting]:
    """Settings from files that belong to a choice which the command line replaces, such as the
    momentum of a recipe's `optimizer: sgd` under `model.optimizer=adamw`."""
    unknown = [one for one in laid if one.source and not is_known(one, laid)]
    if not unknown:
        return []
    files = ConfigFiles(config_dir)  # as they were before the choices took something out of them
    recipe, _ = own_recipes([one for one in typed if one.key == "recipe"], files)
    choices, _, _ = _split_choices(recipe, files)
    as_written, _ = _compose(choices, config_name, files)
    return [one for one in unknown if is_known(one, as_written)]


def import_packages(packages: Sequence[str], code: Path | None = None) -> list[str]:
    """Import the packages that register the user's own classes and functions; return the faults.

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
        # @register raises a ValueError, and a name that begins with a dot a TypeError.
        except (ImportError, SyntaxError, ValueError, TypeError) as error:
            is_there = getattr(error, "name", "") != package.split(".")[0]
            faults.append(
                f"trusted_packages={show(list(packages))}: importing {package} failed ({error}); "
                + ("mend what it says" if is_there and not package.startswith(".") else NOT_THERE)
            )
    return faults


# --- the files and choices that the settings name -------------------------------------------------


def _split_choices(
    settings: list[Setting], files: ConfigFiles
) -> tuple[dict[str, str], list[Setting], list[str]]:
    """Separate choices such as model=resnet50 from plain values; report unknown options."""
    choices: dict[str, str] = {}
    values: list[Setting] = []
    faults: list[str] = []
    for setting in settings:
        if setting.key == "recipe":
            files.name_network(str(setting.choice))
    for setting in settings:
        if setting.key not in files.groups or isinstance(setting.value, dict):
            values.append(setting)
            continue
        if setting.value is None and setting.key == "recipe":
            continue
        text = str(setting.choice)
        if text in files.options(setting.key):
            choices[setting.key] = text
        elif not text.strip():
            faults.append(empty_fault(setting))
        elif setting.key == "data" and (is_path(text) or Path(text).exists()):
            choices["data"] = "imagefolder"  # a file that changes nothing else
            values += [Setting(f"data.{name}", one) for name, one in folder_of_images(text).items()]
        elif setting.key == "model" and (network := find(text)) is not None:
            values.append(Setting("model._target_", network.target))
        elif len(split(text)) > 1:
            faults.append(several_fault(setting.key, text))
        else:
            faults.append(files.no_such(setting.key, setting.choice))
    return choices, values, faults


def _packages(settings: list[Setting], config_name: str, files: ConfigFiles) -> list[str]:
    """`trusted_packages`, which are needed first: what they register can be chosen."""
    recipes = [("recipe", str(one.choice)) for one in settings if one.key == "recipe"]
    found: Any = None
    for group, name in [("", config_name), *recipes]:
        file = files.get(group, name)
        found = file.tree.get("trusted_packages", found) if file else found
    for setting in settings:
        if setting.key == "trusted_packages":
            found = setting.value
    return package_names(found)


def package_names(value: Any) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def _compose(
    choices: dict[str, str], config_name: str, files: ConfigFiles
) -> tuple[list[Setting], list[str]]:
    """The files as settings, each with the file that it comes from; and the faults."""
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if faults := list(recipe_faults(choices.get("recipe", ""), files)):
        return [], faults
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
    origins, faults = _origins({"": config_name, **chosen}, files)
    return [
        Setting(".".join(path), value, None, *origins.get(path, ("", None)))
        for path, value in leaves(tree)
    ], faults


def _origins(
    chosen: dict[str, str], files: ConfigFiles
) -> tuple[dict[tuple[str, ...], tuple[str, Any]], list[str]]:
    """Of each path of keys the last of the chosen files that sets it, and its text there; and the
    faults of these files."""
    faults: list[str] = []
    origins: dict[tuple[str, ...], tuple[str, Any]] = {}
    for group, option in chosen.items():
        file = files.get(group, option) if option else None
        if file is None:
            continue
        if file.fault:
            faults.append(f"{files.shown(file.path)}: cannot be read: {file.fault}")
        faults += _shadowed(group, option, file.tree.get("_target_"), file.path)
        package = () if file.is_global or not group else (group,)
        for path, _ in leaves(file.tree):
            source = f" (in {files.shown(file.path)})"
            origins[(*package, *path)] = (source, text_at(file, path))
    return origins, faults


def _shadowed(group: str, name: str, target: Any, path: Path) -> list[str]:
    """The fault of a registered class whose name is also that of a YAML file for another class."""
    entry = entries("model").get(name) if group == "model" else None
    if entry is None or target in (None, entry.target):
        return []
    return [
        f"model={name}: {entry.target} is registered under the name of {path.name} in "
        "configs/model, which builds another class; register it under another name"
    ]
