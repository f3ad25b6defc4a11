"""Weights of a file into a network: names as the network has them, what fits, and a line about what
was taken, left out and stays new.

    found = matched(network, state)
    parts = fill(network, found, heads=["fc"], fitted=lambda state: state)
"""

import copy
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Size, Tensor, nn

from clf.models import hugging_face

State = dict[str, Tensor]
Fitted = Callable[[State], State]
OLD_DENSENET = re.compile(
    r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$"
)
# What torch.compile and wrappers of layers put anywhere in a name
ANYWHERE = re.compile(
    r"_(?:orig_mod|forward_module|fsdp_wrapped_module|checkpoint_wrapped_module)\."
)
# What a model around the network puts before each name: ours, DDP, many a LightningModule
WRAPPED_AS = ("network.", "module.", "model.", "net.", "backbone.", "encoder.")
NOT_COUNTED = "num_batches_tracked"  # old files and averages lack it
# Of ResNet, Swin and ConvNeXt a deeper one holds all tensors of a shallower one, which are 0.52 to
# 0.73 of its own; a projection head or a decoder beside the network is less than a quarter.
MOST = 0.75


@dataclass
class Matched:
    """Tensors of a file under the names of the network.

    Attributes:
        stripped, added: what was taken from the beginning of the names, and put there
        elsewhere: names in the file that do not begin so
    """

    state: State
    stripped: str = ""
    added: str = ""
    elsewhere: Sequence[str] = ()


def matched(network: nn.Module, state: State) -> Matched:
    """The file's tensors, renamed so that most of them are the network's.

    Raises:
        ValueError: they have the names of Hugging Face's transformers, and are of no ResNet
    """
    own = {key: value.shape for key, value in network.state_dict().items()}
    plain = hugging_face.renamed(_renamed(_without_words(state, own)))
    stripped, added = _prefixes(plain, own) or ("", "")
    if not stripped and not added and not plain.keys() & own.keys():
        stripped = _wrapper(plain, own)  # the names after it may still be another library's
        more, added = _prefixes(_after(plain, stripped), own) or ("", "")
        stripped += more
    inside = _after(plain, stripped) if stripped else plain
    found = {f"{added}{key}": value for key, value in inside.items()} if added else inside
    elsewhere = [key for key in plain if not key.startswith(stripped)]
    return Matched(found, stripped, added, elsewhere)


def fill(
    network: nn.Module, found: Matched, heads: Sequence[str], fitted: Fitted, least: float = MOST
) -> list[str]:
    """Load what fits into all of the network but its heads, and say what else there is.

    Args:
        fitted: changes the tensors before they are loaded, such as for another image size
        least: the share of the network's numbers that must be filled, and of the file's that must
            be used; 1: all of both; 0: whatever fits

    Returns:
        parts of a sentence about what was taken, left out and stays new

    Raises:
        ValueError: less fits, or a number is infinite or NaN
    """
    own = {key: value.shape for key, value in network.state_dict().items()}
    state = fitted(_with_versions(copy.copy(found.state), network))
    left_out = [key for key in state if _is_auxiliary(key, network)]
    for key in [key for key in state if key in left_out or _is_in(key, heads)]:
        del state[key]
    offered = sum(value.numel() for value in state.values())
    shapes = {key: value.shape for key, value in state.items()}
    reshaped = {key: shape for key, shape in shapes.items() if own.get(key, shape) != shape}
    for key in reshaped:
        del state[key]
    _check_finite(state)
    sizes = {key: value.numel() for key, value in state.items()}
    missing, unknown = network.load_state_dict(state, strict=False)
    counted = [key for key in own if not _is_in(key, heads) and not key.endswith(NOT_COUNTED)]
    new = [key for key in counted if key in {*missing, *reshaped}]
    taken, whole = (
        sum(own[key].numel() for key in keys) for keys in ({*counted} - {*new}, counted)
    )
    used = sum(sizes.values()) - sum(sizes.get(key, 0) for key in unknown)
    if (new or unknown) and (taken < max(least * whole, 1) or used < least * offered or least == 1):
        absent = [key for key in new if key not in reshaped]
        raise ValueError(_does_not_fit(network, absent, unknown, list(reshaped), least))
    parts = [f"took {len(counted) - len(new)} of the network's {len(counted)} tensors"]
    parts[0] += f", whose names begin with {found.stripped} there" if found.stripped else ""
    if found.added:
        parts[0] += f", whose names begin with {found.added} here alone"
    return [*parts, *_others([*found.elsewhere, *left_out, *unknown], new, reshaped, own)]


def fill_heads(
    network: nn.Module, found: Matched, heads: Sequence[str], rows: Sequence[int], classes: int
) -> None:
    """Load the heads: their outputs, in the order of the network's classes.

    Args:
        rows: of the file's outputs, that of each class of the network
        classes: how many outputs the file has

    Raises:
        ValueError: the file has no such head
    """
    new = "set model.weights_head=false for a new head"
    names = [key for key in network.state_dict() if _is_in(key, heads)]
    if not names:
        raise ValueError(f"{type(network).__name__} has no head; {new}")
    state = {}
    for key in names:
        own, given = network.state_dict()[key], found.state.get(key)
        if given is None or given.shape != (classes, *own.shape[1:]) or len(own) != len(rows):
            there = "is missing in the file" if given is None else f"has {tuple(given.shape)} there"
            raise ValueError(
                f"{key} of the head has shape {tuple(own.shape)} here and {there}, which has "
                f"{classes} classes; {new}"
            )
        state[key] = given[list(rows)]
    _check_finite(state)
    network.load_state_dict(state, strict=False)


def new_heads(network: nn.Module, found: Matched, heads: Sequence[str]) -> list[str]:
    """A part of a sentence for each head that stays new."""

    def outputs(state: State, head: str) -> int | None:
        inside = [value for key, value in state.items() if _is_in(key, [head])]
        return next((len(value) for value in inside if value.ndim > 1), None)

    parts = []
    for head in heads:
        before = outputs(found.state, head)
        had = "the file has none" if before is None else f"the file's is for {before}"
        now = outputs(network.state_dict(), head)
        parts.append(f"new: the head {head}, for {now} classes ({had})")
    return parts


def _others(
    left_out: Sequence[str], new: Sequence[str], reshaped: dict[str, Size], own: dict[str, Size]
) -> Iterator[str]:
    left_out = [key for key in left_out if not key.endswith(NOT_COUNTED)]
    if left_out:
        yield f"left out {some(left_out)}"
    if absent := [key for key in new if key not in reshaped]:
        yield f"new, since the file lacks them: {some(absent)}"
    if reshaped:
        shapes = [f"{key} {tuple(own[key])} for {tuple(was)}" for key, was in reshaped.items()]
        yield f"new, since their shapes differ: {some(shapes)}"


def some(names: Sequence[str], count: int = 3) -> str:
    """Some names, and how many there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return f"{', '.join(names[:count])}{more}"


def _does_not_fit(
    network: nn.Module, missing: list[str], unknown: list[str], wrong: list[str], least: float
) -> str:
    remedy = ""
    if least == MOST:
        remedy = (
            " Less than three quarters of the network or of the file would be used; "
            "model.strict_weights=false takes what fits all the same"
        )
    return (
        f"does not fit this {type(network).__name__}: {len(missing)} tensors are missing "
        f"{missing[:3]}, {len(unknown)} are unknown {unknown[:3]}, {len(wrong)} have another shape "
        f"{wrong[:3]}. Are they the weights of another architecture?{remedy}"
    )


def _check_finite(state: State) -> None:
    def is_finite(tensor: Tensor) -> bool:
        return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())

    if bad := [key for key, tensor in state.items() if not is_finite(tensor)]:
        raise ValueError(
            f"holds NaN or infinite numbers in {some(bad)}: the training that wrote it had failed; "
            "give an earlier checkpoint of it"
        )


# --- names ---


def _prefixes(state: State, own: dict[str, Size]) -> tuple[str, str] | None:
    """What to take from the beginning of the file's names, or to put there, so that most tensors
    have a name and a shape of the network; None where few do anyway."""
    votes: Counter[tuple[str, str]] = Counter()
    for key, value in state.items():
        for start, rest in _cuts(key):
            votes[start, ""] += own.get(rest) == value.shape
    for key, shape in own.items():
        for start, rest in _cuts(key):
            votes["", start] += bool(start) and rest in state and state[rest].shape == shape
    if not votes:
        return None
    # Of equally many the shorter, and then the first in the file.
    best = min(votes, key=lambda pair: (-votes[pair], len(pair[0] + pair[1])))
    return best if 4 * votes[best] >= min(len(own), len(state)) else None


def _cuts(key: str) -> Iterator[tuple[str, str]]:
    """("", "a.b.c"), ("a.", "b.c"), ("a.b.", "c")."""
    place = 0
    while place >= 0:
        start = key[: place + 1] if place else ""
        yield start, key[len(start) :]
        place = key.find(".", place + 1)


def _wrapper(state: State, own: dict[str, Size]) -> str:
    """The words before all names that only a model around the network has."""
    for word in WRAPPED_AS:
        if any(key.startswith(word) for key in state) and not any(
            key.startswith(word) for key in own
        ):
            return word + _wrapper(_after(state, word), own)
    return ""


def _after(state: State, start: str) -> State:
    return {key.removeprefix(start): one for key, one in state.items() if key.startswith(start)}


def _without_words(state: State, own: dict[str, Size]) -> State:
    if any(ANYWHERE.search(key) for key in own) or not any(map(ANYWHERE.search, state)):
        return state
    return {ANYWHERE.sub("", key): value for key, value in state.items()}


def _renamed(state: State) -> State:
    """torchvision's files of DenseNet have names of before a module's name could hold no dot."""
    for key in [key for key in state if OLD_DENSENET.match(key)]:
        state[OLD_DENSENET.sub(r"\1\2", key)] = state.pop(key)
    return state


def _with_versions(state: State, network: nn.Module) -> State:
    """A state dict that torch saved says of which version each module's part is; any other is
    taken for one of the network's own versions."""
    if isinstance(state, OrderedDict):
        return state
    own = network.state_dict()
    own.clear()
    own.update(state)
    return own


def _is_auxiliary(key: str, network: nn.Module) -> bool:
    """Whether a tensor belongs to an auxiliary head, which this network was built without."""
    part = key.split(".")[0]
    return part.lower().startswith("aux") and getattr(network, part, ...) is None


def _is_in(key: str, modules: Sequence[str]) -> bool:
    return key.startswith(tuple(f"{module}." for module in modules))
