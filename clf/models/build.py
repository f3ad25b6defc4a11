"""The model of a config."""

import importlib
from dataclasses import asdict, fields
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from clf.config import RunConfig
from clf.config.faults import show
from clf.config.registry import node_schema, of_target
from clf.config.targets import check_trusted
from clf.models.base import BaseClassificationModel
from clf.models.network import arguments_of, builds_network, check_takes_classes, network_class
from clf.models.recompute import recompute_in_backward
from clf.parallel.lightning_internals import allow_recompiling


def build_model(cfg: RunConfig, num_classes: int, pretrained: bool) -> BaseClassificationModel:
    """The model that `cfg.model._target_` names, in the memory format of the config.

    Args:
        num_classes: of the data; must be the config's own, if that gives one
        pretrained: False if a checkpoint fills the weights anyway, so that nothing is downloaded

    Raises:
        ValueError: a class outside the trusted packages, or arguments that it does not take
    """
    check_trusted(cfg.model._target_, cfg.trusted_packages)
    if cfg.model.num_classes not in (None, num_classes):
        raise ValueError(
            f"model.num_classes={cfg.model.num_classes}: the data has {num_classes} classes. "
            "Leave it out (null) to take the data's"
        )
    arguments = {**asdict(cfg.model), "num_classes": num_classes}
    if not pretrained:
        arguments |= {"pretrained": False, "weights": None}
    model = _built(cfg, arguments)
    _check_settings(model, arguments)
    if cfg.strategy.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if cfg.strategy.compile:
        allow_recompiling()
        model.compile_network(cfg.strategy.compile_mode)
    if cfg.strategy.gradient_checkpointing:
        blocks = model.recomputed_blocks()
        if not blocks:
            raise ValueError(
                f"strategy.gradient_checkpointing=true: {cfg.model._target_} does not say which "
                "blocks to compute again. Give it recomputed_blocks(), or set false"
            )
        recompute_in_backward(blocks)
    return model


def fetch_weights(cfg: RunConfig) -> None:
    """Download weights that a library names into its cache: nodes often have no internet.

    Raises:
        ValueError: unknown name, download failed, or a damaged file
    """
    made = _located(cfg.model._target_)
    if builds_network(made, of_target(cfg.model._target_) is not None):
        made = network_class(made)
    if (fetch := getattr(made, "fetch_weights", None)) is not None:
        fetch(cfg.model.weights)  # a model without it finds its weights itself


def _built(cfg: RunConfig, arguments: dict[str, Any]) -> BaseClassificationModel:
    target = cfg.model._target_
    made, entry = _located(target), of_target(target)
    if not builds_network(made, entry is not None):
        return _instantiate(arguments)
    check_takes_classes(made)
    own = {name: arguments[name] for name in (entry.settings if entry else ())}
    shared = {name: one for name, one in arguments.items() if name not in {*own, "_target_"}}
    return network_class(made)(arguments_of(target, own, cfg.data.size), **shared)


def _located(target: str) -> Any:
    """What a trusted `_target_` names. torchvision.models.alexnet is a module and a function: the
    module is meant by what stands before the last dot."""
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def check_size(model: BaseClassificationModel, size: int) -> None:
    """ValueError if the network does not take images of `size` pixels a side, the size of the first
    epoch: a transformer may have been built for one size alone."""
    try:
        look_at_one_image(model, size)
    except (RuntimeError, AssertionError, ValueError) as error:
        name = f"{type(model).__module__}.{type(model).__qualname__}"
        raise ValueError(
            f"data.start_size={size}: {name} does not take images of this size "
            f"({str(error).splitlines()[0]}); set data.start_size=null, or another network"
        ) from error


def look_at_one_image(model: BaseClassificationModel, size: int) -> None:
    """A forward pass that changes nothing."""
    was_training = model.training
    images_BCHW = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=model.device)
    try:
        with torch.no_grad(), torch.random.fork_rng(), torch.compiler.set_stance("force_eager"):
            model.eval()(images_BCHW)
    finally:
        model.train(was_training)


def _instantiate(arguments: dict[str, Any]) -> BaseClassificationModel:
    target = arguments["_target_"]
    try:
        model = instantiate(arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError):  # the model's own message, without Hydra's around it
            raise cause from cause.__cause__
        raise
    if not isinstance(model, BaseClassificationModel):
        raise ValueError(
            f"model._target_={target}: builds a {type(model).__name__}, expected a "
            "BaseClassificationModel; a network of another kind goes into the build_network() of a "
            "subclass"
        )
    return model


def _check_settings(model: BaseClassificationModel, arguments: dict[str, Any]) -> None:
    """ValueError if a class did not pass a setting on, which would silently keep its default."""
    target = arguments["_target_"]
    shared = node_schema("model", arguments | {"_target_": ""})  # without the class's own
    names = {one.name for one in fields(shared)} - {"_target_"}
    for name in sorted(names & arguments.keys()):
        if model.hparams[name] != arguments[name]:
            raise ValueError(
                f"model.{name}={show(arguments[name])}: {target} was built with "
                f"{show(model.hparams[name])}; its __init__ must take **settings and hand all of "
                "them to super().__init__(**settings)"
            )
