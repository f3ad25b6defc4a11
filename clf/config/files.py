"""The YAML files that a run is composed of, each read once.

`configs/<group>/<name>.yaml` is the choice `name` of a group; the recipe, `recipe=NAME` or
`recipe=/path/to/mine.yaml`, holds settings of every group. In a recipe `model: resnet50` chooses a
file as it does on the command line.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clf.config.faults import did_you_mean, show
from clf.config.networks import all_choices, fault, find
from clf.config.registry import AUTO, entries
from clf.config.words import load_yaml

ROOT = Path(__file__).resolve().parents[2]  # holds clf, slurm and launch
# An installed package has the files inside of clf, where pyproject.toml puts them: a folder
# `configs` among everybody's packages would be anybody's.
IS_INSTALLED = (ROOT / "clf" / "configs").is_dir()
CONFIG_DIR = ROOT / "clf" / "configs" if IS_INSTALLED else ROOT / "configs"
# Groups in which a registered name can be chosen without a file -> the key that the choice sets
CHOOSES = {"model": "_target_", "data": "name"}
PROVIDER = "clf"  # marks what we put into Hydra's store
OVERRIDE = "override /"  # Hydra's word, before a group, for a recipe's choice in that group
GLOBAL = "@package _global_"  # Hydra's word for a file that holds settings of every group


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file's content."""

    path: Path
    tree: dict[str, Any]
    is_global: bool
    fault: str | None = None  # why it cannot be read
    choices: dict[str, Any] = field(default_factory=dict)  # a recipe's `model: resnet50`
    texts: Any = None  # the tree with each number and truth value as the text that stands there


class ConfigFiles:
    """The files of a folder, and files of the user's own that are added to them.

    Args:
        folder: of `train.yaml` and the groups
    """

    def __init__(self, folder: Path = CONFIG_DIR) -> None:
        self.folder = folder
        self.groups = {path.name for path in folder.iterdir() if path.is_dir()}
        self._files: dict[tuple[str, str], ConfigFile] = {}  # (group or "", name) -> file
        for path in sorted(folder.glob("*.yaml")):
            self.add("", path.stem, path)
        for path in sorted(folder.glob("*/*.yaml")):
            self.add(path.parent.name, path.stem, path)

    def add(self, group: str, name: str, path: Path) -> ConfigFile:
        """Read a file as the choice `name` of a group."""
        file = _read(path, group)
        if group == "recipe":
            file = _with_choices(file, self.groups)
        self._files[group, name] = file
        return file

    def refuse(self, group: str, name: str, fault: str) -> None:
        """Leave out the content of a file; the fault is reported if the file is chosen."""
        self._files[group, name] = replace(self._files[group, name], tree={}, fault=fault)

    def get(self, group: str, name: str) -> ConfigFile | None:
        return self._files.get((group, name))

    def options(self, group: str) -> list[str]:
        """What can be chosen in a group: its files and what is registered."""
        registered = set(entries(group)) if group in CHOOSES else set()
        return sorted({name for of, name in self._files if of == group} | registered)

    def knows(self, group: str, name: Any) -> bool:
        """Whether a name can be chosen: one of the options, or a library's network."""
        if name in self.options(group):
            return True
        return group == "model" and find(str(name)) is not None

    def no_such(self, group: str, value: Any, source: str = "") -> str:
        """The fault of a choice that `knows` does not know; `source` is the file that makes it."""
        valid, text, word = self.options(group), f"{group}={show(value)}", str(value)
        if group != "model":
            return (
                f"{text}: no such {group}{source}; expected one of {', '.join(valid)}"
                + did_you_mean(word, valid, f"{group}={{}}")
            )
        if (special := fault(word, valid)) is not None:
            return f"{text}: {special}{source}"
        known = valid + all_choices()
        hint = did_you_mean(word, known, "model={}")
        if word and sum(name.startswith(word.lower()) for name in known) > 1:
            hint = f"; --list-models {word} shows those of that name"
        elif word.endswith(".py"):
            hint = "; of a file, trusted_packages=[MODULE] brings the names that it registers"
        elif re.fullmatch(r"\w+(\.\w+)+", word):
            by_path = f"; a class or function by its path is model._target_={word}"
            hint = did_you_mean(word, valid, "model={}") or by_path
        return (
            f"{text}: no such model{source}; expected one of {', '.join(valid)}, or a network that "
            f"--list-models shows{hint}"
        )

    def name_network(self, recipe: str) -> None:
        """Where a recipe chooses a library's network, which is no file of ours, let it set its
        `_target_`. After the user's packages are imported, which may register the same name."""
        file = self.get("recipe", recipe)
        name = file.choices.get("model") if file is not None else None
        if file is None or name is None or name in self.options("model"):
            return
        network, held = find(str(name)), file.tree.get("model")
        if network is None or not isinstance(held, dict | None):
            return
        tree = file.tree | {"model": {"_target_": network.target} | (held or {})}
        tree["defaults"] = [one for one in tree["defaults"] if one != {f"{OVERRIDE}model": name}]
        self._files["recipe", recipe] = replace(file, tree=tree)

    def __iter__(self) -> Iterator[tuple[str, str, ConfigFile]]:
        return ((group, name, file) for (group, name), file in self._files.items())

    def shown(self, path: Path) -> str:
        """A file's path as it is written in messages."""
        base = self.folder.parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)


def leaves(tree: dict[Any, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path of keys, value) of every value that is not a dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, str(key)))
        else:
            yield (*prefix, str(key)), value


def text_at(file: ConfigFile, path: tuple[str, ...]) -> Any:
    """What stands at a path of keys in a file, as text; None where the file has no such path."""
    node = file.texts
    for key in path:
        node = node.get(key) if isinstance(node, dict) else None
    return node


def is_path(text: str) -> bool:
    """Whether a text must be a path, because it cannot be the name of a choice."""
    return text.startswith("~") or os.sep in text


def folder_of_images(path: str) -> dict[str, str]:
    """The settings that `data=/my/images` stands for. The content decides which reader is used."""
    return {"name": AUTO, "root": path}


def store(files: ConfigFiles) -> None:
    """Give Hydra the files that were read, and a file for each registered name. They replace those
    of the previous call."""
    from hydra.core.config_store import ConfigStore
    from omegaconf.errors import OmegaConfBaseException

    config_store = ConfigStore.instance()
    _take_out(config_store.repo)
    for group, key in CHOOSES.items():
        for name, entry in entries(group).items():
            value = entry.target if key == "_target_" else name
            config_store.store(name, {key: value}, group=group, provider=PROVIDER)
    for group, name, file in list(files):
        package = "_global_" if file.is_global else None
        where: dict[str, Any] = {"group": group or None, "package": package, "provider": PROVIDER}
        try:
            config_store.store(name, file.tree, **where)
        except OmegaConfBaseException as error:  # such as "${" without its end
            files.refuse(group, name, _one_line(error))
            config_store.store(name, {}, **where)


def _take_out(repo: dict[str, Any]) -> None:
    for name, node in list(repo.items()):
        if isinstance(node, dict):
            _take_out(node)
        elif node.provider == PROVIDER:
            del repo[name]


def _read(path: Path, group: str) -> ConfigFile:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tree, texts = load_yaml(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return ConfigFile(path, {}, False, _one_line(error))
    if tree is None:  # an empty file
        tree = {}
    if not isinstance(tree, dict):
        return ConfigFile(path, {}, False, "expected keys and values")
    if not isinstance(tree.get("defaults") or [], list):
        return ConfigFile(path, {}, False, "defaults: expected a list")
    return ConfigFile(path, tree, GLOBAL in text, texts=texts)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).replace('in "<unicode string>",', "at")


def _with_choices(file: ConfigFile, groups: set[str]) -> ConfigFile:
    """A recipe with its choices, which it may write as `model: resnet50` or, in Hydra's own form,
    as an entry `override /model: resnet50` of its defaults. They end up in that form."""
    short = {k: v for k, v in file.tree.items() if k in groups and isinstance(v, str)}
    tree = {key: value for key, value in file.tree.items() if key not in short}
    listed = list(tree.pop("defaults", None) or [])
    long, others, fault = _overridden(listed, groups)
    if both := sorted(long.keys() & short.keys()):
        fault = f"chooses {both[0]} twice: {both[0]}: {short[both[0]]}, and in its defaults"
    if file.fault or fault:
        return ConfigFile(file.path, {}, True, file.fault or fault)
    chosen = long | short
    if isinstance(path := chosen.get("data"), str) and is_path(path):
        tree["data"] = folder_of_images(path) | (tree.get("data") or {})
        chosen["data"] = "imagefolder"  # a file that changes nothing else
    defaults = others + [{f"{OVERRIDE}{group}": name} for group, name in chosen.items()]
    tree = ({"defaults": defaults} if defaults else {}) | tree
    return ConfigFile(file.path, tree, True, choices=chosen, texts=file.texts)


def _overridden(
    listed: list[Any], groups: set[str]
) -> tuple[dict[str, Any], list[Any], str | None]:
    """Of a recipe's defaults: the choices by group, the other entries, and what is wrong."""
    chosen: dict[str, Any] = {}
    others = []
    for one in listed:
        word = str(next(iter(one))) if isinstance(one, dict) and len(one) == 1 else ""
        group = word.removeprefix("override ").removeprefix("/")
        if group not in groups:
            others.append(one)
            continue
        name = one[word]
        right = f"write `- {OVERRIDE}{group}: {show(name)}`, or {group}: {show(name)} outside of it"
        if word != f"{OVERRIDE}{group}":
            return chosen, others, f"defaults: `{word}: {show(name)}` chooses nothing; {right}"
        if group in chosen:
            return chosen, others, f"defaults: chooses {group} twice; leave one of the lines"
        chosen[group] = name
    return chosen, others, None
