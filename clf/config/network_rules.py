"""Rules of the network: weights of that name, images that it can take, and their normalisation."""

from collections.abc import Iterator

from clf.config.faults import did_you_mean, show
from clf.config.networks import (
    ARGUMENTS,
    DECIDED,
    SIZES,
    Network,
    accepts,
    bound,
    of_target,
    parameters_in,
    settings,
)
from clf.config.registry import of_target as registered
from clf.config.schema import RunConfig
from clf.config.weights import is_file, needs_fixed_size, size_argument, weights

# Arguments of a network's function -> the setting that gives them
GIVEN = {
    "num_classes": "the data, or model.num_classes",
    "pretrained": "model.pretrained",
    "weights": "model.weights",
}


def _weights(cfg: RunConfig) -> Iterator[str]:
    model, network = cfg.model, of_target(cfg.model._target_)
    if is_file(model.weights) or not (model.pretrained or model.weights):
        return
    if network is None:
        yield from _weights_of_ones_own(cfg)
        return
    known, name = weights(network), model.weights
    if not known:
        yield from _unknown_weights(cfg, network)
    elif name is not None and name not in known:
        yield (
            f"model.weights={name}: {network.name} has {', '.join(known)}; or give a local file "
            "that ends in .pth, .pt, .ckpt; model.pretrained=true takes the first"
            + did_you_mean(name, known, "model.weights={}")
        )


def _weights_of_ones_own(cfg: RunConfig) -> Iterator[str]:
    """Of a model class nothing is known: it may load them itself."""
    entry, name = registered(cfg.model._target_), cfg.model.weights
    if entry is not None and entry.is_network:
        given = "model.pretrained=true" if name is None else f"model.weights={name}"
        yield (
            f"{given}: {entry.name} is your own network, whose weights are in no library; give a "
            "file as model.weights=/path/to/file.pth, or set model.pretrained=false and "
            "model.weights=null"
        )


def _unknown_weights(cfg: RunConfig, network: Network) -> Iterator[str]:
    """Weights of which timm's source does not say plainly which images they want."""
    keys = {
        "model.mean": cfg.model.mean,
        "model.std": cfg.model.std,
        "data.eval_resize": cfg.data.eval_resize,
        "data.interpolation": cfg.data.interpolation,
    }
    if missing := [key for key, value in keys.items() if value is None]:
        yield (
            f"model.pretrained={show(cfg.model.pretrained)}: which images the weights of "
            f"{network.choice} want cannot be read from timm; set {', '.join(missing)}, and "
            "data.image_size"
        )


def _arguments(cfg: RunConfig) -> Iterator[str]:
    """`model.network_arguments`, which win over what the run would give."""
    network, given = of_target(cfg.model._target_), vars(cfg.model).get(ARGUMENTS)
    if network is None or not given:
        return
    typed, own = f"model.{ARGUMENTS}={show(given)}", set(settings(network)) - {ARGUMENTS}
    is_torchvision = network.library == "torchvision"
    for name, value in given.items():
        if name in GIVEN or (is_torchvision and name in SIZES):
            yield f"{typed}: {name} follows from {GIVEN.get(name, 'data.image_size')}; take it out"
        elif name in own:
            own_setting = f"model.{name}={show(value)}"
            yield f"{typed}: {name} is a setting of its own; write {own_setting} instead"
        elif name == "in_chans" and value != 3:
            yield f"{typed}: images have 3 channels, grey ones too; take {name} out"
        elif bound(network, name) is not None:
            yield f"{typed}: {network.name} sets {name} itself; take it out"
        elif is_torchvision and name not in parameters_in(network):
            taken = [key for key, one in accepts(network).items() if not one.bound]
            others = sorted(set(taken) - own - DECIDED)
            yield (
                f"{typed}: {network.name} does not take {name}; beside its settings it takes "
                f"{', '.join(others) or 'nothing'}{did_you_mean(name, others)}"
            )


def _size(cfg: RunConfig) -> Iterator[str]:
    """Images that are too small for a network, or do not divide into its patches or windows."""
    network, size = of_target(cfg.model._target_), cfg.data.size
    if network is None or network.library != "torchvision":
        return
    name = cfg.model._target_.rpartition(".")[2]
    if size_argument(network) is None:
        smallest = next((one.smallest for one in weights(network).values()), None)
        data = cfg.data
        sizes = {"image": size, "start": data.start_size, "eval": data.eval_size}
        for key, pixels in sizes.items():
            if smallest is not None and pixels is not None and pixels < smallest:
                yield (
                    f"data.{key}_size={pixels}: {name} needs at least {smallest} pixels a side; "
                    f"set data.{key}_size={smallest} or more"
                )
        return
    patch = bound(network, "patch_size")
    window = bound(network, "partition_size")
    step = int(patch or 32 * (window or 1))  # MaxVit has windows on a 32nd of the image
    if size % step:
        near = max(step, round(size / step) * step)
        yield (
            f"data.image_size={size}: {name} divides images into parts of {step} pixels; set "
            f"data.image_size={near}"
        )


def _one_size(cfg: RunConfig) -> Iterator[str]:
    data = cfg.data
    others = {"start_size": data.start_size, "eval_size": data.eval_size}
    for name, size in others.items():
        if size not in (None, data.size) and needs_fixed_size(cfg.model._target_):
            yield (
                f"data.{name}={size}: {cfg.model._target_.rpartition('.')[2]} is built for one "
                f"size of images, data.image_size={data.size}; set data.{name}=null, or another "
                "network"
            )


def _small_images(cfg: RunConfig) -> Iterator[str]:
    model = cfg.model
    named = model.weights is not None and not is_file(model.weights)
    if vars(model).get("small_images") and (named or (model.pretrained and model.weights is None)):
        key = f"model.weights={model.weights}" if named else "model.pretrained=true"
        yield (
            f"{key}: ImageNet's weights have the first layer of large images; set "
            "model.small_images=false, or train from random weights"
        )


def _normalisation(cfg: RunConfig) -> Iterator[str]:
    for name, limits in (("mean", "from 0 to 1"), ("std", "above 0 and at most 1")):
        three = getattr(cfg.model, name)
        if three is None:
            continue
        too_low = min(three, default=0) < 0 or (name == "std" and 0 in three)
        if len(three) != 3 or too_low or max(three) > 1:
            yield (
                f"model.{name}={show(three)}: expected three numbers {limits}, of red, green and "
                f"blue, such as model.{name}=[0.5,0.5,0.5], or null; divide grey levels by 255"
            )


NETWORK_RULES = (_weights, _arguments, _size, _one_size, _small_images, _normalisation)
