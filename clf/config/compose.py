"""YAML files and `key=value` overrides -> `RunConfig`, with every fault in one message.

    composed = read(["model=resnet50", "data.batch_size=256"])  # composed.cfg, composed.faults
    save(cfg, run / "config.yaml"); cfg = load(run / "config.yaml")

Hydra composes `configs/` and parses the overrides; the values are then laid one by one into the
typed schema, so that a second fault shows beside the first. Imports no torch.
"""

import functools
import importlib
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config.assign import Setting, lay
from clf.config.faults import ConfigError, show
from clf.config.overrides import parse, split_choices
from clf.config.registry import registered
from clf.config.schema import RunConfig
from clf.run_folder import write_text

CONFIG_DIR = Path(__file__).resolve().parents[2] / "configs"


@dataclass
class Composed:
    """What files and overrides gave."""

    cfg: RunConfig | None  # without what does not fit; None if there can be none
    faults: list[str]  # of spelling and type
    files_are_right: bool  # else what the data lacks would only mislead


def read(
    overrides: Sequence[str] = (), config_name: str = "train", config_dir: Path = CONFIG_DIR
) -> Composed:
    """The YAML files of `config_dir` with the overrides laid over them.

    Args:
        overrides: `key=value` in Hydra's grammar; `group=option` chooses a file of `config_dir`
        config_name: root file, "train" or "debug"
        config_dir: folder of YAML files
    """
    settings, faults = parse(overrides)
    packages = _packages(settings, config_name, config_dir)
    faults += _import(packages)
    choices, values, choice_faults = split_choices(settings, config_dir)
    from_files, file_faults = _compose_files(choices, config_name, config_dir)
    cfg, value_faults = lay([*from_files, *values])
    faults += [*choice_faults, *file_faults, *value_faults]
    return Composed(cfg, faults, not choice_faults and not file_faults)


def to_yaml(cfg: RunConfig) -> str:
    """The configuration as YAML, keys in the order of the schema."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(cfg))


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
        tree = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected keys and values, got {show(tree)[:80]}"])
    return from_dict(tree, f" (in {path})")


def from_dict(tree: dict[str, Any], source: str = "") -> RunConfig:
    """A configuration from nested plain values, such as a checkpoint holds; keys and types checked.

    Raises:
        ConfigError: with every unknown key and wrong type
    """
    faults = _import(tree.get("trusted_packages") or [])
    cfg, value_faults = lay([Setting(key, value, source=source) for key, value in tree.items()])
    if faults + value_faults or cfg is None:
        raise ConfigError([*faults, *value_faults])
    return cfg


def _packages(settings: list[Setting], config_name: str, config_dir: Path) -> list[str]:
    """`trusted_packages`, known before the rest: their models are needed to compose it."""
    recipes = [s.value for s in settings if s.key == "recipe" and isinstance(s.value, str)]
    files = [
        config_dir / f"{config_name}.yaml",
        *(config_dir / "recipe" / f"{name}.yaml" for name in recipes),
    ]
    found: Any = None
    for path in files:
        found = _read_plain(path).get("trusted_packages", found)
    for setting in settings:
        if setting.key == "trusted_packages":
            found = setting.value
    return [str(name) for name in found] if isinstance(found, list) else []


def _import(packages: Sequence[str]) -> list[str]:
    faults = []
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, SyntaxError, ValueError) as error:  # @register's is a ValueError
            faults.append(
                f"trusted_packages={show(list(packages))}: importing {package} failed ({error}); "
                "it must be installed, or lie in the repository's root or a folder of PYTHONPATH"
            )
    return faults


# --- the YAML files -----------------------------------------------------------------------------


def _compose_files(
    choices: dict[str, str], config_name: str, config_dir: Path
) -> tuple[list[Setting], list[str]]:
    """The YAML files as one setting per key, each naming the file that it came from."""
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides = [f"{group}={option}" for group, option in choices.items()]
    try:
        with (
            warnings.catch_warnings(),
            initialize_config_dir(str(config_dir.absolute()), version_base="1.3", job_name="clf"),
        ):
            # A registered class and its YAML file share a name on purpose; `lay` checks the types.
            warnings.filterwarnings("ignore", "(?s).*ConfigStore schema with the same name.*")
            composed = hydra_compose(config_name, overrides, return_hydra_config=True)
        chosen = dict(composed.hydra.runtime.choices)
        tree = OmegaConf.to_container(composed)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        reason = " ".join(f"{error} {error.__cause__ or ''}".split())
        return [], [
            f"{config_dir.name}/{config_name}.yaml with {' '.join(overrides) or 'no choice'}: "
            f"{reason}"
        ]
    assert isinstance(tree, dict)
    del tree["hydra"]
    files = [(None, config_dir / f"{config_name}.yaml")]
    files += [(group, config_dir / group / f"{option}.yaml") for group, option in chosen.items()]
    origins: dict[tuple[str, ...], str] = {}  # path of a key -> the last file that sets it
    texts: dict[tuple[Any, Any], str] = {}  # (path, number) that Hydra made of a 12:00:00 -> text
    for group, file in files:
        package = () if group is None or _is_global(file) else (group,)
        for path, value in _leaves(_read_plain(file)):
            origins[(*package, *path)] = f" (in {file.relative_to(config_dir.parent)})"
            if isinstance(value, str) and re.fullmatch(r"\d[\d:]+", value):
                texts[(*package, *path), yaml.safe_load(value)] = value
    leaves = [
        Setting(
            ".".join(path),
            texts.get((path, value), value) if type(value) is int else value,
            source=origins.get(path, ""),
        )
        for path, value in _leaves(tree)
    ]
    return leaves, _shadowed(config_dir)


def _leaves(tree: dict[Any, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """(path of keys, value) of all that is no dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*prefix, str(key)))
        else:
            yield (*prefix, str(key)), value


def _is_global(file: Path) -> bool:
    return file.is_file() and "@package _global_" in file.read_text(encoding="utf-8")


def _shadowed(config_dir: Path) -> list[str]:
    """Registered classes that a YAML file of the same name for another class would hide."""
    faults = []
    for name, entry in registered("model").items():
        path = config_dir / "model" / f"{name}.yaml"
        if path.is_file() and _read_plain(path).get("_target_", entry.target) != entry.target:
            faults.append(
                f"model={name}: {entry.target} is registered under the name of {path.name} in "
                "configs/model, which builds another class; register it under another name"
            )
    return faults


def _read_plain(path: Path) -> dict[str, Any]:
    """A YAML file as a dictionary; empty where it is none (composing it tells why)."""
    import yaml

    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _loader())
    except (OSError, yaml.YAMLError):
        return {}
    return tree if isinstance(tree, dict) else {}


@functools.cache
def _loader() -> Any:
    """YAML's safe loader, except that 12:30:00 is a text and not a number to the base of 60."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def number(loader: Any, node: Any) -> Any:
        return node.value if ":" in node.value else yaml.SafeLoader.construct_yaml_int(loader, node)

    Loader.add_constructor("tag:yaml.org,2002:int", number)
    return Loader
