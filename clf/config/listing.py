"""What `--model` takes, as a table: `python launch/submit.py --list-models [PATTERN]`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from clf.config.compose import read
from clf.config.faults import ConfigError, did_you_mean
from clf.config.files import ConfigFiles
from clf.config.networks import all_choices, find, of_target
from clf.config.overrides import parse
from clf.config.registry import entries
from clf.config.weights import weights

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Model:
    """A choice, and what is known of its default weights."""

    name: str
    place: str  # where it comes from: a library, or a class or function of ours or the user's
    parameters: int | None = None
    accuracy: float | None = None  # top-1 on ImageNet, in per cent


def models(pattern: str = "", settings: Sequence[str] = ()) -> list[Model]:
    """The models whose names match: those of configs/model and what is registered first, then those
    of torchvision and timm.

    Args:
        pattern: with *, ? or [] the whole name is meant, else a part of it; case does not count
        settings: `trusted_packages=[...]` brings models of the user's own; values of the others do
            not matter

    Raises:
        ConfigError: no name matches, a package cannot be imported, or a word is no setting
    """
    faults = parse(settings).faults
    faults += [one for one in read(settings).faults if one.startswith("trusted_packages")]
    if faults:
        raise ConfigError(faults)
    word = pattern.lower()
    whole = word if set(word) & set("*?[") else f"*{word}*"
    found = [one for one in _all() if fnmatchcase(one.name.lower(), whole)]
    if not found:
        names = [one.name for one in _all()]
        raise ConfigError(
            [f"--list-models {pattern}: no name matches" + did_you_mean(pattern, names)]
        )
    return [_described(one) for one in found]


def _all() -> Iterator[Model]:
    files, registered = ConfigFiles(), entries("model")
    for name in files.options("model"):
        file = files.get("model", name)
        target = file.tree.get("_target_") if file is not None else registered[name].target
        yield Model(name, str(target or (files.shown(file.path) if file else "")))
    own = set(files.options("model"))
    for name in all_choices():
        if name not in own:
            yield Model(name, "timm" if name.startswith("timm/") else "torchvision")


def _described(model: Model) -> Model:
    # By what it builds: a network of the user's own may have the name of a library's.
    network = find(model.name) if model.place in LIBRARIES else of_target(model.place)
    if network is None or network.library == "timm":  # which does not say it in its source
        return model
    given = next(iter(weights(network).values()), None)
    if given is None:
        return model
    return Model(model.name, model.place, given.parameters, given.accuracy)
