"""Which of the tensors in a file of weights are the network's, and what is wrong with a file before
torch is there.

    entry_of(contents(path), is_shape).name  # "state_dict"
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config.schema import ModelConfig
from clf.config.weight_files import FILE_ENDINGS, SAVE, contents, is_shape

# Where a checkpoint has the network's tensors; the first that is there is taken. Both a network and
# its average may be there: a teacher is what self-distillation keeps, a student is not.
ENTRIES = (
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "network",
    "net",
    "module",
    "state",
    "weights",
    "params",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "teacher",
    "student",
)


@dataclass(frozen=True)
class Entry:
    """The network's tensors in a checkpoint.

    Attributes:
        name: the keys that lead to it, with dots between; "": the file is a plain state dict
        state: tensor by name, in the file's order
        others: names of further entries that hold tensors
        more: keys of values beside the tensors that are no tensors
    """

    name: str
    state: dict[str, Any]
    others: list[str]
    more: list[str]


def entry_of(tree: Any, is_tensor: Callable[[Any], bool], wanted: str | None = None) -> Entry:
    """The tensors of the network in what a file holds.

    Args:
        is_tensor: of a value with a `shape`
        wanted: name of the entry, with dots between keys (`model.weights_entry`); None: the first
            of `ENTRIES`, else the file itself, else the only entry that has tensors

    Raises:
        ValueError: there is none, or there are several and nothing says which
    """
    if not isinstance(tree, Mapping):
        raise ValueError(
            "expected the state dict of a network or a checkpoint, got a "
            f"{type(tree).__name__}; {SAVE} writes what is needed"
        )
    held = dict(_held(tree, is_tensor))
    names = list(held)
    if not held:
        others = [str(key) for key, value in tree.items() if not is_tensor(value)]
        raise ValueError(
            "expected tensors by their names, or a dictionary of them as "
            f"{' or '.join(ENTRIES[:3])}; {', '.join(others[:3]) or 'what is there'} is something "
            f"else. {SAVE} writes what is needed"
        )
    name = _usual(names) if wanted is None else wanted
    if name not in held:
        lacks = "it holds tensors as" if wanted is None else f"it has no entry {wanted}, but"
        raise ValueError(
            f"{lacks} {', '.join(names[:8])}; say which are the network's, such as "
            f"model.weights_entry={names[0]}"
        )
    state = {str(key): value for key, value in held[name].items() if is_tensor(value)}
    more = [str(key) for key, value in held[name].items() if not is_tensor(value)]
    return Entry(name, state, [one for one in names if one != name], more if name else [])


def _held(
    tree: Mapping[Any, Any], is_tensor: Callable[[Any], bool], name: str = "", depth: int = 0
) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Dictionaries of tensors by names, down to three keys deep, each with its own name."""
    tensors = {key: value for key, value in tree.items() if is_tensor(value)}
    has_texts = all(isinstance(key, str) for key in tensors)
    if has_texts and any(len(value.shape) for value in tensors.values()):
        # An optimizer's state and an image's mean have no names of parameters.
        is_whole_file = not name and len(tensors) == len(tree)
        if is_whole_file or any("." in key or key in ("weight", "bias") for key in tensors):
            yield name, tree
    for key, value in tree.items():
        if isinstance(key, str) and isinstance(value, Mapping) and depth < 3:
            yield from _held(value, is_tensor, f"{name}.{key}".lstrip("."), depth + 1)


def _usual(names: list[str]) -> str | None:
    """The entry that is meant where nobody says it."""
    for key in ENTRIES:
        inside = [name for name in names if name.split(".")[0] == key]
        likely = [key, *(f"{key}.{second}" for second in ENTRIES)]  # state.model is Composer's
        if found := [name for name in likely if name in inside] or (
            inside[:1] * (len(inside) == 1)
        ):
            return found[0]
    if "" in names:
        return ""
    return names[0] if len(names) == 1 else None


def classes_of(tree: Any) -> list[str] | None:
    """The class names in a checkpoint, in label order; None: it is not one of ours."""
    record = tree.get("clf") if isinstance(tree, Mapping) else None
    named = record.get("class_to_idx") if isinstance(record, Mapping) else None
    return sorted(named, key=named.get) if named else None


def rows_of(classes: Sequence[str], known: Sequence[str] | None) -> list[int]:
    """The output of a checkpoint that each class has, by its name.

    Args:
        classes: of the data
        known: of the checkpoint; None: it has no names

    Raises:
        ValueError: no names, or not all of these
    """
    new = "set model.weights_head=false for a new head"
    if known is None:
        raise ValueError(
            f"it does not say the names of its classes, by which the head is taken; {new}"
        )
    place = {name: row for row, name in enumerate(known)}
    if lacking := [name for name in classes if name not in place]:
        raise ValueError(
            f"its head has no output for {len(lacking)} of the data's {len(classes)} classes "
            f"({', '.join(lacking[:5])}); {new}"
        )
    return [place[name] for name in classes]


def file_fault(model: ModelConfig, classes: Sequence[str] | None = None) -> str | None:
    """What is wrong with the file `model.weights`, as far as it can be seen without torch.

    Args:
        classes: names of the data's classes, in label order; None: not known
    """
    path = Path(model.weights or "").expanduser()
    if not path.name.endswith(FILE_ENDINGS):
        return (
            f"model.weights={model.weights}: expected a file that ends in {', '.join(FILE_ENDINGS)}"
        )
    try:
        tree = contents(path)
        entry_of(tree, is_shape, model.weights_entry)
        if model.weights_head and classes is not None:
            rows_of(classes, classes_of(tree))
    except (ValueError, OSError) as error:
        return f"model.weights={model.weights}: {error}"
    return None
