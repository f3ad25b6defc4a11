"""The resolved configuration of a run, `config.yaml` in its folder: write it, read and check it.

save(cfg, run / "config.yaml"); cfg = load(run / "config.yaml")
"""

import re
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from clf.atomic import write_text
from clf.config.assign import lay
from clf.config.compose import import_packages, package_names
from clf.config.faults import ConfigError, show
from clf.config.given import Setting
from clf.config.schema import RunConfig
from clf.config.weights import keep
from clf.config.words import load_yaml

# Settings of earlier versions, under data.jersey -> what they are called now, under data
JERSEY = {"size": "pixels", "seed": "render_seed"}


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
        tree, texts = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path}: cannot be read: {error}"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path}: expected keys and values, got {show(tree)[:80]}"])
    return _checked(tree, f" (in {path})", path.parent / "code", texts)


def from_dict(tree: dict[str, Any], code: Path | None = None) -> RunConfig:
    """A configuration from nested plain values, such as a checkpoint holds; keys and types checked.

    Args:
        code: as for `import_packages`

    Raises:
        ConfigError: with every unknown key and wrong type
    """
    return _checked(_escaped(tree), code=code)


def _checked(
    tree: dict[str, Any],
    source: str = "",
    code: Path | None = None,
    texts: dict[str, Any] | None = None,
) -> RunConfig:
    if faults := import_packages(package_names(tree.get("trusted_packages")), code):
        raise ConfigError(faults)  # without its class a model's own settings would be unknown
    settings, texts = _of_this_version(tree).items(), texts or {}
    cfg, faults = lay(
        [Setting(str(key), value, source=source, texts=texts.get(key)) for key, value in settings]
    )
    if faults or cfg is None:
        raise ConfigError(faults)
    if "mean" not in (tree.get("model") or {}):
        keep(cfg)  # of a version that took no sizes from its weights
    return cfg


def _of_this_version(tree: dict[str, Any]) -> dict[str, Any]:
    """Earlier versions wrote `data.jersey` into the file of every run, whatever its data."""
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("jersey"), dict):
        return tree
    now = {key: value for key, value in data.items() if key != "jersey"}
    if data.get("name") == "jersey":
        now |= {JERSEY.get(key, key): value for key, value in data["jersey"].items()}
    return {**tree, "data": now}


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything in a configuration."""
    if is_dataclass(node):
        items = [(entry.name, getattr(node, entry.name)) for entry in fields(node)]
    elif isinstance(node, dict):
        items = list(node.items())
    else:
        return {prefix.rstrip("."): node}
    return {
        key: value for name, item in items for key, value in flat(item, f"{prefix}{name}.").items()
    }
