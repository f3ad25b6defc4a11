"""The YAML files that a run is composed of, each read once.

`configs/<group>/<name>.yaml` is the choice `name` of a group; the recipe, `recipe=NAME` or
`recipe=/path/to/mine.yaml`, holds settings of every group. In a recipe `model: resnet50` chooses a
file as it does on the command line.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config.registry import entries

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"
# Groups of which a registered name can be chosen without a file -> the key that the choice sets.
CHOOSES = {"model": "_target_", "data": "name"}
FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
GLOBAL = "@package _global_"  # Hydra's word for a file that holds settings of every group


@dataclass(frozen=True)
class ConfigFile:
    """A YAML file's content."""

    path: Path
    tree: dict[str, Any]
    is_global: bool
    fault: str | None = None  # why it cannot be read


class ConfigFiles:
    """The files of a folder, and those of the user's own that were added.

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

    def get(self, group: str, name: str) -> ConfigFile | None:
        return self._files.get((group, name))

    def options(self, group: str) -> list[str]:
        """What can be chosen in a group: its files and what is registered."""
        registered = set(entries(group)) if group in CHOOSES else set()
        return sorted({name for of, name in self._files if of == group} | registered)

    def __iter__(self) -> Iterator[tuple[str, str, ConfigFile]]:
        return ((group, name, file) for (group, name), file in self._files.items())

    def shown(self, path: Path) -> str:
        """A file's path as a message has it."""
        base = self.folder.parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)


def leaves(tree: dict[Any, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path of keys, value) of all that is no dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*prefix, str(key)))
        else:
            yield (*prefix, str(key)), value


def _read(path: Path, group: str) -> ConfigFile:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, yaml_loader()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        return ConfigFile(path, {}, False, " ".join(str(error).split()))
    if not isinstance(tree, dict):
        return ConfigFile(path, {}, False, "expected keys and values")
    return ConfigFile(path, {str(key): value for key, value in tree.items()}, GLOBAL in text)


@functools.cache
def yaml_loader() -> Any:
    """YAML 1.2's reading of plain words, which is a person's: 1e-4 is a number, 12:30:00 and `on`
    are texts. A key that stands twice is an error."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        yaml_implicit_resolvers: dict[str, list[Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            words = [key.value for key, _ in node.value]
            for key, _ in node.value:
                if words.count(key.value) > 1:
                    place = key.start_mark
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} stands twice", place
                    )
            return super().construct_mapping(node, deep)

    for kind, pattern, first in (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", list("-+0123456789")),
        ("float", FLOAT, list("-+.0123456789")),
    ):
        Loader.add_implicit_resolver(
            f"tag:yaml.org,2002:{kind}", re.compile(f"^({pattern})$"), first
        )
    Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)
    return Loader


def _whole_number(loader: Any, node: Any) -> int:
    return int(node.value, 16 if node.value.startswith("0x") else 10)


def _with_choices(file: ConfigFile, groups: set[str]) -> ConfigFile:
    """A recipe with `model: resnet50` written as Hydra has it, and settings of every group."""
    chosen = [key for key in file.tree if key in groups and isinstance(file.tree[key], str)]
    tree = {key: value for key, value in file.tree.items() if key not in chosen}
    defaults = list(tree.pop("defaults", None) or [])
    defaults += [{f"override /{key}": file.tree[key]} for key in chosen]
    return ConfigFile(
        file.path, ({"defaults": defaults} if defaults else {}) | tree, True, file.fault
    )
