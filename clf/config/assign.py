"""Lays `key=value` settings one by one into the typed schema and reports each that does not fit.

A setting comes from the command line or from a YAML file; `clf.config.compose` gathers them.
"""

from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any

from clf.config.faults import SECRET_WORDS, nearest, show
from clf.config.registry import schema_of
from clf.config.rules import limits
from clf.config.schema import ModelConfig, RunConfig

# What other tools call it, where the spelling alone would not lead there.
OTHER_WORDS = {
    "lr": "model.learning_rate",
    "wd": "model.weight_decay",
    "optim": "model.learning_rate",
    "batch": "data.batch_size",
    "bs": "data.batch_size",
    "workers": "data.threads",
    "num_workers": "data.threads",
    "img_size": "data.image_size",
    "max_epochs": "epochs",
    "devices": "gpus",
    "num_nodes": "nodes",
    "path": "data.root",
    "output_dir": "runs_dir",
    "precision": "strategy.precision",
    "wandb": "tracking.mode",
}


@dataclass
class Setting:
    """One `key=value`, and where it stands."""

    key: str
    value: Any
    text: str | None = None  # what was typed after "="; None: it came from a file
    source: str = ""  # " (in configs/recipe/mine.yaml)"


def lay(settings: list[Setting]) -> tuple[RunConfig | None, list[str]]:
    """The settings laid over the schema's defaults in order, and what did not fit.

    None in place of a configuration where it cannot be made at all: a value is missing or an
    interpolation fails.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema = RunConfig(model=schema_of(_target(settings))())
    known, nodes = _keys(schema)
    cfg = OmegaConf.structured(schema)
    faults: list[str] = []
    for setting in settings:
        faults += _assign(cfg, known, nodes, setting)
    for key in sorted(OmegaConf.missing_keys(cfg)):
        faults.append(f"{key}=???: has no default; give it as {key}=VALUE")
    if OmegaConf.missing_keys(cfg):
        return None, faults
    try:
        result = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "interpolation"
        return None, [*faults, f"{key}: {str(error).strip().splitlines()[0]}"]
    assert isinstance(result, RunConfig)
    return result, faults


def _target(settings: list[Setting]) -> str:
    target = ModelConfig._target_
    for setting in settings:
        if setting.key == "model._target_":
            target = str(setting.value)
        elif setting.key == "model" and isinstance(setting.value, dict):
            target = str(setting.value.get("_target_", target))
    return target


def _keys(node: Any, prefix: str = "") -> tuple[dict[str, Field[Any]], set[str]]:
    """All dotted keys of a dataclass with their fields, and those that are dataclasses."""
    known: dict[str, Field[Any]] = {}
    nodes: set[str] = set()
    for entry in fields(node):
        key, value = f"{prefix}{entry.name}", getattr(node, entry.name)
        if is_dataclass(value):
            inner, inner_nodes = _keys(value, f"{key}.")
            known |= inner
            nodes |= {key} | inner_nodes
        else:
            known[key] = entry
    return known, nodes


def _assign(cfg: Any, known: dict[str, Field[Any]], nodes: set[str], setting: Setting) -> list[str]:
    """Set one key, or each key of a dictionary given for a group of keys. Faults, if any."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key, value = setting.key, setting.value
    given = f"{key}={show(value) if setting.text is None else setting.text}"
    if key in nodes:
        if not isinstance(value, dict):
            inner = [name for name in known if name.startswith(f"{key}.")]
            return [
                f"{given}: {key} is a group of keys{setting.source}; set one of them: "
                f"{', '.join(inner[:6])}, ..."
            ]
        faults = []
        for name, item in value.items():
            inside = Setting(f"{key}.{name}", item, source=setting.source)
            faults += _assign(cfg, known, nodes, inside)
        return faults
    owner = next((name for name in known if key == name or key.startswith(f"{name}.")), None)
    if owner is None:
        return [f"{given}: no such key{setting.source}; {_suggest(key, list(known))}"]
    is_text = known[owner].type in (str, str | None)
    if is_text and setting.text and isinstance(value, bool | int | float):
        value = setting.text  # name=007 and data.root=1e3 are text as typed
    if isinstance(value, str) and _names_a_secret(value):
        return [
            f"{given}: a key or token must not stand in a configuration; leave it in the "
            "environment"
        ]
    try:
        OmegaConf.update(cfg, key, value)
    except (OmegaConfBaseException, ValueError, TypeError):
        entry = known[owner]
        default = entry.default if isinstance(entry.default, bool | int | float | str) else None
        example = f", such as {key}={show(default)}" if default not in (None, "") else ""
        return [
            f"{given}: expected {_expected(entry)}{example}; got {_kind(value)}{setting.source}"
        ]
    return []


def _names_a_secret(value: str) -> bool:
    return "oc.env" in value and any(word in value.upper() for word in SECRET_WORDS)


def guesses(word: str) -> list[str]:
    """The keys, two at most, that were probably meant by a word that is no key."""
    return _guesses(word, list(_keys(RunConfig())[0]))


def _suggest(key: str, known: list[str]) -> str:
    if guessed := _guesses(key, known):
        return f"did you mean {' or '.join(guessed)}?"
    return f"keys begin with one of {', '.join(sorted({name.split('.')[0] for name in known}))}"


def _guesses(key: str, known: list[str]) -> list[str]:
    last = key.split(".")[-1]
    same = [name for name in known if name.split(".")[-1] == last]
    near = same or nearest(key, known, 1, cutoff=0.9) or nearest(key, known, 2)
    if not near:
        by_last = {name.split(".")[-1]: name for name in reversed(known)}
        near = [by_last[name] for name in nearest(last, by_last, 2)]
    if not same and (word := OTHER_WORDS.get(last) or OTHER_WORDS.get(key.split(".")[0])):
        near = [word]
    return near[:2]


def _expected(entry: Field[Any]) -> str:
    names: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list[int]: "a list of whole numbers",
        list[float]: "a list of numbers",
        list[str]: "a list of texts",
        dict[str, str]: "names and values, {NAME: value}",
    }
    hint: Any = entry.type
    parts = [part for part in getattr(hint, "__args__", ()) if part is not type(None)]
    optional = type(None) in getattr(hint, "__args__", ())
    if optional and len(parts) == 1:
        hint = parts[0]
    text = names.get(hint, str(hint)) + limits(entry)
    return text + (" or null" if optional else "")


def _kind(value: Any) -> str:
    kinds = {str: "the text", bool: "the truth value", int: "the whole number", float: "the number"}
    if value is None:
        return "null"
    if value == "":
        return "nothing"
    other = "the list" if isinstance(value, list) else "the dictionary"
    return f"{kinds.get(type(value), other)} {show(value)}"
