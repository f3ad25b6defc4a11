"""Lays settings one by one into the typed schema and reports each that does not fit."""

import types
import typing
from collections.abc import Iterable
from dataclasses import Field, fields, is_dataclass
from typing import Any

from clf.config.about import about
from clf.config.faults import SECRET_WORDS, nearest
from clf.config.given import Setting, in_brackets, inside, left_out, typed, unfit
from clf.config.networks import ARGUMENTS
from clf.config.registry import AUTO, NODES, node_schema, owner, reader_with
from clf.config.schema import RunConfig
from clf.config.values import expected, kind, texts

# What other tools call a setting, where its spelling alone would not lead there.
OTHER_WORDS = {
    "lr": "model.learning_rate",
    "wd": "model.weight_decay",
    "optim": "model.optimizer",
    "scheduler": "model.schedule",
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
    "wandb": "tracking.mode",
}
# What torchvision, timm and others call one argument of a network
SAME_ARGUMENTS = (
    {"stochastic_depth_prob", "drop_path_rate", "drop_path"},
    {"dropout", "drop_rate", "dropout_rate"},
)
LIKE = 0.75  # how similar a key must be to what was typed; less would be a guess


def lay(settings: list[Setting]) -> tuple[RunConfig | None, list[str]]:
    """The settings laid over the schema's defaults in order, and what did not fit.

    The configuration is None if it cannot be built at all, because a value is missing or an
    interpolation fails.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        schema = run_schema(settings)
    except ValueError as error:
        return None, [str(error)]
    known, nodes = keys(schema)
    cfg = OmegaConf.structured(schema)
    faults: list[str] = []
    for setting in settings:
        faults += _assign(cfg, known, nodes, setting)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg))
        result = None if missing else OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "interpolation"
        reason = str(error).strip().splitlines()[0]
        remedy = "${...} stands for another key's value; write \\${ where the text itself is meant"
        return None, [*faults, f"{key}: {reason}; {remedy}"]
    if missing:
        asked = [f"{key}=???: has no default; give it as {key}=VALUE" for key in missing]
        return None, faults + asked
    assert isinstance(result, RunConfig)
    return result, faults


def run_schema(settings: Iterable[Setting]) -> RunConfig:
    """The defaults of every setting. What the given settings choose adds its own:
    `model.optimizer=sgd` adds `model.momentum`."""
    values: dict[str, dict[str, Any]] = {node: {} for node in NODES}
    for setting in settings:
        node, _, name = setting.key.partition(".")
        if node in NODES and name:
            values[node][name] = setting.value
        elif node in NODES and isinstance(setting.value, dict):
            values[node] |= setting.value
    if values["data"].get("name") == AUTO:  # its reader has the settings that are given
        values["data"]["name"] = reader_with(values["data"])
    return RunConfig(**{node: node_schema(node, values[node])() for node in NODES})


def is_known(setting: Setting, settings: list[Setting]) -> bool:
    """Whether such a setting exists in `model` or `data`, given what the other settings choose."""
    node, _, name = setting.key.partition(".")
    if node not in NODES or not name:
        return True
    try:
        schema = getattr(run_schema(settings), node)
    except ValueError:  # two choices that do not go together; `lay` says which
        return True
    return name.split(".")[0] in vars(schema)


def keys(node: Any, prefix: str = "") -> tuple[dict[str, Field[Any]], set[str]]:
    """All dotted keys of a dataclass with their fields, and those that are dataclasses."""
    known: dict[str, Field[Any]] = {}
    nodes: set[str] = set()
    for entry in fields(node):
        key, value = f"{prefix}{entry.name}", getattr(node, entry.name)
        if is_dataclass(value):
            inner, inner_nodes = keys(value, f"{key}.")
            known |= inner
            nodes |= {key} | inner_nodes
        else:
            known[key] = entry
    return known, nodes


def _assign(cfg: Any, known: dict[str, Field[Any]], nodes: set[str], setting: Setting) -> list[str]:
    """Set one key, or each key of a dictionary given for a group of keys; return the faults."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    key, value = setting.key, setting.value
    given = setting.given
    if key in nodes:
        if isinstance(value, dict):
            return [fault for one in inside(setting) for fault in _assign(cfg, known, nodes, one)]
        if fault := left_out(setting):
            return [fault]
        inner = [name for name in known if name.startswith(f"{key}.")]
        return [
            f"{given}: {key} is a group of keys{setting.source}; set one of them: "
            f"{', '.join(inner[:6])}, ..."
        ]
    name, entry = next(
        (
            (name, one)
            for name, one in known.items()
            if key == name or (key.startswith(f"{name}.") and _has_parts(one.type))
        ),
        (key, None),
    )
    if entry is None:
        return [f"{given}: no such key{setting.source}; {_suggest(key, list(known))}"]
    is_whole = key == name
    if fault := unfit(entry, is_whole, setting):
        return [fault]
    value = typed(entry, is_whole, setting)
    if isinstance(value, str) and (read := about(entry).read):
        number = read(value)  # None if the text is not a number
        value = value if number is None else number
    if any(_names_a_secret(text) for text in texts(value)):
        return [
            f"{given}: a key or token must not stand in a configuration; leave it in the "
            "environment"
        ]
    try:
        OmegaConf.update(cfg, key, value)
    except (OmegaConfBaseException, ValueError, TypeError):
        takes = expected(entry, key) if is_whole else "a text"
        remedy = in_brackets(entry, is_whole, setting)
        return [f"{given}: expected {takes}; got {kind(value)}{setting.source}{remedy}"]
    return []


def _has_parts(hint: Any) -> bool:
    """Whether a value of this type may be a list or a dictionary, of which a key names a part."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return any(one is Any or typing.get_origin(one) in (list, dict) for one in parts)


def _names_a_secret(value: str) -> bool:
    return "oc.env" in value and any(word in value.upper() for word in SECRET_WORDS)


def guesses(word: str) -> list[str]:
    """At most two keys that the user probably meant by a word that is not a key."""
    return _guesses(word, list(keys(RunConfig())[0]))


def _suggest(key: str, known: list[str]) -> str:
    node, _, name = key.rpartition(".")
    group = key.split(".")[0]
    if choice := owner(node, name):
        return f"it is a setting of {choice}"
    own = _of_network(known) if node == "model" else []
    same = {one for names in SAME_ARGUMENTS if name in names for one in names}
    if twin := same.intersection(own):
        return f"the chosen network calls it model.{twin.pop()}"
    if guessed := _guesses(key, known):
        return f"did you mean {' or '.join(guessed)}?"
    if node == "model":
        names = ", ".join(one for one in own if one != ARGUMENTS)
        more = f"; any other argument of its own goes into model.{ARGUMENTS}={{{name}: VALUE}}"
        return (
            f"the chosen network's own settings: {names or 'none'}"
            f"{more if ARGUMENTS in own else ''}; --settings model lists all"
        )
    if group != key and any(one.startswith(f"{group}.") for one in known):
        return f"--settings {group} lists those of {group}"
    top = sorted({one.split(".")[0] for one in known})
    return f"keys begin with one of {', '.join(top)}; --settings lists them all"


def _of_network(known: list[str]) -> list[str]:
    """The settings of `model` that the network brings."""
    shared = {one.name for one in fields(NODES["model"])}
    names = [key.removeprefix("model.") for key in known if key.startswith("model.")]
    others = [name for name in names if name not in shared]
    return [name for name in others if (owner("model", name) or "model=").startswith("model=")]


def _guesses(key: str, known: list[str]) -> list[str]:
    node, _, name = key.rpartition(".")
    last = {known_key: known_key.rpartition(".")[2] for known_key in known}
    longer = [one for one in known if node and one.startswith(key)]
    if same := longer or [one for one in known if last[one] == name]:
        return same[:2]
    if word := OTHER_WORDS.get(name) or OTHER_WORDS.get(key.split(".")[0]):
        return [word]
    top = sorted({one.split(".")[0] for one in known})
    if not node and (near := nearest(key, top, 1, LIKE)):
        return near
    if near := nearest(key, known, 1, LIKE + 0.1):
        return near
    names = nearest(name, dict.fromkeys(last.values()), 2, LIKE)
    return [one for one in known if last[one] in names][:2]
