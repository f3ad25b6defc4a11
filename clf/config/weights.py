"""Weights that torchvision and timm name for a network, and the images that they want. All of it is
read from the source of the installed packages; nothing is imported.

weights(find("convnext_tiny"))["IMAGENET1K_V1"].size
"""

import ast
import copy
import functools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clf.config.networks import SIZES, Network, accepts, of_target, source_of
from clf.config.schema import RunConfig
from clf.config.source import Source, assignments, folder
from clf.config.weight_files import FILE_ENDINGS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1
CENTRE = 0.875  # the usual share of the short side that the centre crop keeps
INCEPTION = "transform_input"  # of torchvision's Inception and GoogLeNet


@dataclass(frozen=True)
class Weights:
    """Weights that a library names, and the images that they were trained for.

    Attributes:
        size, resize: pixels a side of the centre crop, and of the short side before it
        interpolation: "bilinear" or "bicubic"
        mean, std: of RGB in 0..1
        parameters, accuracy: of the network, and top-1 on ImageNet in per cent, where known
        smallest: least pixels a side of the network's input, where known
    """

    size: int
    resize: int
    interpolation: str
    mean: list[float]
    std: list[float]
    parameters: int | None = None
    accuracy: float | None = None
    smallest: int | None = None


@functools.cache
def weights(network: Network) -> dict[str, Weights]:
    """The weights that the library names for a network, the default first."""
    if network.library == "timm":
        found = _timm_cfgs(network).items()
        return {tag: _of_timm(cfg) for tag, cfg in found if cfg.get("has_weights")}
    read = source_of(network.path, network.library)
    name = re.search(r"\w+_Weights", accepts(network)["weights"].hint)
    held = read.classes.get(name[0]) if name else None
    given: dict[str, Any] = {}
    for statement in held.body if held is not None else []:
        made = dict(assignments(statement))
        given |= {key: read.value(node, given) for key, node in made.items()}
    default = given.pop("DEFAULT", None)
    ordered = sorted(given, key=lambda key: given[key] is not default)
    return {key: _of_torchvision(given[key]) for key in ordered if given[key]}


def _of_torchvision(given: dict[str, Any]) -> Weights:
    place = folder("torchvision")
    assert place is not None
    presets = _presets(place / "transforms" / "_presets.py") | given["transforms"]
    meta = given["meta"]
    accuracy = ((meta.get("_metrics") or {}).get("ImageNet-1K") or {}).get("acc@1")
    smallest = meta.get("min_size")
    return Weights(
        presets["crop_size"],
        presets["resize_size"],
        presets["interpolation"].lower(),
        presets["mean"],
        presets["std"],
        meta.get("num_params"),
        accuracy if isinstance(accuracy, float) else None,  # of features there is none
        # Of Swin it is the size that its weights want, and smaller images are right too.
        max(smallest) if smallest and max(smallest) < presets["crop_size"] else None,
    )


@functools.cache
def _presets(path: Path) -> dict[str, Any]:
    """The defaults of torchvision's transform for classification."""
    accepted = Source(path).accepts("ImageClassification")
    return {name: one.default for name, one in accepted.items()}


@functools.cache
def _timm_cfgs(network: Network) -> dict[str, dict[str, Any]]:
    """tag -> what timm's `default_cfgs` says, in the order of `generate_default_cfgs`: the default
    first."""
    ordered: list[tuple[str, dict[str, Any]]] = []
    is_set = any_weights = False
    for key, cfg in _default_cfgs(network.path).items():
        name, _, tag = key.partition(".")
        if name != network.name or not isinstance(cfg, dict):
            continue
        has = bool(cfg.get("url") or cfg.get("file") or cfg.get("hf_hub_id"))
        first = (has and not tag) or (tag.endswith("*") and not is_set)
        is_set |= first
        place = 0 if first or (has and not any_weights) else len(ordered)
        any_weights |= has
        ordered.insert(place, (tag.strip("*"), {**cfg, "has_weights": has}))
    return dict(ordered)


@functools.cache
def _default_cfgs(path: Path) -> dict[str, Any]:
    read = source_of(path, "timm")
    node = read.assigned.get("default_cfgs")
    given = read.value(node) if node is not None else None
    return given if isinstance(given, dict) else {}


def _of_timm(cfg: dict[str, Any]) -> Weights:
    size = (cfg.get("input_size") or [3, 224, 224])[-1]
    bicubic = cfg.get("interpolation", "bicubic") != "bilinear"
    smallest = cfg.get("min_input_size")
    return Weights(
        size,
        math.floor(size / (cfg.get("crop_pct") or CENTRE)),
        "bicubic" if bicubic else "bilinear",
        list(cfg.get("mean") or IMAGENET_MEAN),
        list(cfg.get("std") or IMAGENET_STD),
        smallest=max(smallest[1:]) if smallest else None,
    )


def size_argument(network: Network) -> str | None:
    """The argument that fixes the pixels a side of its input, such as a ViT's position embeddings
    need it; None where images of any size will do."""
    if network.library == "timm":
        usual = source_of(network.path, "timm").value(ast.parse("_cfg()", mode="eval").body) or {}
        first = next(iter(_timm_cfgs(network).values()), usual)
        return "img_size" if first.get("fixed_input_size") else None
    return next((name for name in SIZES if name in accepts(network)), None)


def needs_fixed_size(target: str) -> bool:
    """Whether a `_target_` builds a network whose images must keep one size during a run."""
    network = of_target(target)
    return network is not None and size_argument(network) is not None


# --- what a run takes from its weights ---


def of_run(cfg: RunConfig) -> Weights | None:
    """The named weights that a run begins with; None for a file, and for a model of the user's."""
    model = cfg.model
    network = of_target(model._target_)
    if network is None or is_file(model.weights) or not (model.pretrained or model.weights):
        return None
    known = weights(network)
    return known.get(model.weights) if model.weights else next(iter(known.values()), None)


def is_file(name: str | None) -> bool:
    """Whether `model.weights` means a file."""
    return name is not None and (name.endswith(FILE_ENDINGS) or "/" in name)


def fill(cfg: RunConfig) -> None:
    """Set (in place) the images' size, resizing and normalisation to those of the named weights,
    where the run does not say them; a value that is the usual one anyway stays null."""
    data, model, given = cfg.data, cfg.model, of_run(cfg)
    if given is None:
        data.image_size = data.size
        return
    data.image_size = data.image_size or given.size
    size = data.size_in_evaluation
    resize = max(size, round(size * given.resize / given.size))
    if data.eval_resize is None and resize != round(size / CENTRE):
        data.eval_resize = resize
    if data.interpolation is None and given.interpolation != "bilinear":
        data.interpolation = given.interpolation
    if model.mean is None and given.mean != list(IMAGENET_MEAN):
        model.mean = given.mean
    if model.std is None and given.std != list(IMAGENET_STD):
        model.std = given.std
    if vars(model).get(INCEPTION, False) is None:
        setattr(model, INCEPTION, True)


def keep(cfg: RunConfig) -> None:
    """Write out (in place) what a run of an earlier version did, which took nothing from its
    weights, where `fill` would now say something else."""
    now = copy.deepcopy(cfg)
    fill(now)
    data, model = cfg.data, cfg.model
    if now.data.eval_resize != data.eval_resize:
        data.eval_resize = round(data.size_in_evaluation / CENTRE)
    if now.data.interpolation != data.interpolation:
        data.interpolation = "bilinear"
    if (now.model.mean, now.model.std) != (model.mean, model.std):
        model.mean, model.std = list(IMAGENET_MEAN), list(IMAGENET_STD)
