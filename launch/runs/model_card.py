"""What stands beside exported files and in them: config.json, and README.md as a model card."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clf.config.networks import of_target
from clf.metrics.measures import reported, shown
from clf.run_folder import read_status
from launch.runs.snippets import snippet

if TYPE_CHECKING:
    from clf.scoring import Trained

CLASSES = 40  # named in the card; config.json has all of them


def config_of(trained: "Trained", weights_digest: str) -> dict[str, Any]:
    """The content of config.json but for the files: labels, preprocessing, where it comes from.
    Names of folders on this machine are left out, since the file is made to be given away."""
    cfg, labels = trained.cfg, trained.classes
    data, size = cfg.data, cfg.data.size_in_evaluation
    mean, std = (
        (tensor.flatten() / 255).tolist() for tensor in (trained.model.mean, trained.model.std)
    )
    return {
        "name": cfg.name or trained.run.name,
        "network": cfg.model._target_,
        **_architecture(trained),
        "num_classes": len(labels),
        "labels": labels,
        "id2label": {str(place): name for place, name in enumerate(labels)},
        "label2id": {name: place for place, name in enumerate(labels)},
        "preprocessing": {
            "size": size,
            "resize": trained.short_side,
            "resize_rule": "short side; the long side is floor(long * resize / short)",
            "crop": size,
            "crop_rule": "centre; offsets are rounded, halves to the even number",
            "interpolation": data.interpolation or "bilinear",
            "antialias": True,
            "resize_inside": False,
            "dtype": "uint8",
            "value_range": [0, 255],
            "colour_order": "RGB",
            "layout": "batch, channel, height, width",
            "background": data.background,
            "mean": cfg.model.mean or mean,
            "std": cfg.model.std or std,
            "normalisation": "(pixels - 255 * mean) / (255 * std)",
            "normalisation_inside": True,
        },
        "input": {"name": "images", "dtype": "uint8", "shape": ["batch", 3, size, size]},
        "output": {
            "name": "probabilities",
            "dtype": "float32",
            "shape": ["batch", len(labels)],
            "meaning": "softmax over the labels, in their order",
        },
        "training": _training(trained),
        "metrics": _metrics(trained),
        "checkpoint": {
            "file": trained.checkpoint.name,
            "epoch": trained.epoch,
            "step": trained.step,
            "averaged": trained.averaged,
            "weights_sha256": weights_digest,
        },
        "files": {},
    }


def _architecture(trained: "Trained") -> dict[str, Any]:
    """What builds a library's network again; timm.create_model("hf-hub:OWNER/NAME") reads it."""
    known, data = of_target(trained.cfg.model._target_), trained.cfg.data
    hparams = trained.model.hparams
    if known is None or hparams.get("small_images"):  # with a first layer of its own
        return {}
    arguments = hparams.get("arguments") or {}
    built: dict[str, Any] = {"architecture": known.name, "model_args": arguments}
    if known.library != "timm":
        return built
    size = data.size_in_evaluation
    return built | {
        "pretrained_cfg": {
            "num_classes": len(trained.classes),
            "input_size": [3, size, size],
            "crop_pct": size / trained.short_side,
            "interpolation": data.interpolation or "bilinear",
            "mean": (trained.model.mean.flatten() / 255).tolist(),
            "std": (trained.model.std.flatten() / 255).tolist(),
            "label_names": trained.classes,
        },
    }


def _training(trained: "Trained") -> dict[str, Any]:
    cfg = trained.cfg
    root = Path(cfg.data.origin or cfg.data.root or "").name
    generated = cfg.data.name in ("digits", "jersey")
    pretrained = cfg.model.weights or "the library's default" if cfg.model.pretrained else None
    named = cfg.model.weights and Path(cfg.model.weights).name
    return {
        "data": cfg.data.name if generated or not root else root,
        "epochs": cfg.epochs,
        "batch_size": cfg.data.batch_size,
        "image_size": cfg.data.size,
        "optimizer": cfg.model.optimizer,
        "learning_rate": cfg.model.learning_rate,
        "loss": cfg.model.loss,
        "weights_to_start_from": named or pretrained,
    }


def _metrics(trained: "Trained") -> dict[str, float]:
    """The final evaluation of a finished run; {} where it was of another checkpoint."""
    status = read_status(trained.run) or {}
    if status.get("state") != "finished" or trained.checkpoint.name != "best.ckpt":
        return {}
    scalars = status["metrics"]
    split = "test" if "test/loss" in scalars else "val"
    names = [f"{split}/{one.name}" for one in reported(num_classes=len(trained.classes))]
    return {name: scalars[name] for name in names if isinstance(scalars.get(name), float)}


def metadata(config: dict[str, Any], name: str, has_resize: bool) -> dict[str, str]:
    """The texts that a file carries with it, JSON but for the model card."""
    own = {key: value for key, value in config.items() if key != "files"}
    own["preprocessing"] = {**config["preprocessing"], "resize_inside": has_resize}
    texts = {
        "labels": own["labels"],
        "preprocessing": own["preprocessing"],
        "config": own,
    }
    as_json = {key: json.dumps(value, ensure_ascii=False) for key, value in texts.items()}
    return {**as_json, "model_card": model_card({**own, "files": {}}, name)}


def model_card(config: dict[str, Any], file: str | None = None) -> str:
    """README.md of the files in `config`, or of one file alone, which then carries it."""
    files = config["files"]
    parts = [_front(config), f"# {config['name']}", _what(config), _results(config)]
    if files:
        parts.append(_files(files))
    parts += [_use(config, file), _input(config), _classes(config), _origin(config)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front(config: dict[str, Any]) -> str:
    """The metadata that Hugging Face reads."""
    import yaml

    is_timm = "pretrained_cfg" in config
    front: dict[str, Any] = {
        "pipeline_tag": "image-classification",
        "library_name": "timm" if is_timm else "onnx",
        "tags": ["image-classification", "onnx", "clf"] + ["timm"] * is_timm,
    }
    names = {"acc_top1": "accuracy", "f1_macro": "f1"}
    found = [
        {"type": names[one], "name": name, "value": round(value, 6)}
        for name, value in config["metrics"].items()
        if (one := name.partition("/")[2]) in names
    ]
    if found:
        data = {"name": config["training"]["data"], "type": config["training"]["data"]}
        task = {"type": "image-classification"}
        result = {"task": task, "dataset": data, "metrics": found}
        front["model-index"] = [{"name": config["name"], "results": [result]}]
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---"


def _what(config: dict[str, Any]) -> str:
    network = config.get("architecture") or config["network"].rpartition(".")[2]
    size, training = config["preprocessing"]["size"], config["training"]
    return (
        f"An image classifier: `{network}` with {config['num_classes']} classes, for images of "
        f"{size} x {size} pixels, trained on `{training['data']}`."
    )


def _results(config: dict[str, Any]) -> str:
    if not config["metrics"]:
        return ""
    split = next(iter(config["metrics"])).partition("/")[0]
    measures = {one.name: one for one in reported(num_classes=config["num_classes"])}
    rows = [
        f"| {measures[one].label} | {shown(name, value)} |"
        for name, value in config["metrics"].items()
        if (one := name.partition("/")[2]) in measures
    ]
    chosen = ", by which the checkpoint was chosen" if split == "val" else ""
    head = f"## Results\n\nOn all images of the {split} split{chosen}:\n\n"
    return head + "\n".join(["| metric | value |", "|---|---|", *rows])


def _files(files: dict[str, Any]) -> str:
    rows = []
    for name, entry in files.items():
        top1 = entry["top1"]
        rows.append(
            f"| `{name}` | {entry['format']} | {entry['bytes'] / 1e6:.1f} MB "
            f"| {entry['largest_difference']:.2g} "
            f"| {entry['changed_predictions']} of {entry['images']} "
            f"| {'' if top1 is None else f'{top1:.2%}'} |"
        )
    head = "| file | format | size | largest difference | changed predictions | top-1 |"
    words = (
        "Each was read back and compared with the checkpoint: the largest difference of two "
        "probabilities, and the images whose predicted class changes."
    )
    return f"## Files\n\n{words}\n\n" + "\n".join([head, "|---|---|---|---|---|---|", *rows])


def _use(config: dict[str, Any], file: str | None) -> str:
    """How to run a file of each format."""
    if file is not None:
        inside = config["preprocessing"]["resize_inside"]
        ends = {"pt2": "torch_export", "torchscript": "torchscript", "safetensors": "safetensors"}
        uses = {ends.get(file.rpartition(".")[2], "onnx"): (file, inside)}
    else:
        uses = {}
        for name, entry in config["files"].items():
            uses.setdefault(entry["format"].split()[0], (name, entry["resize_inside"]))
        if "onnx" in uses:
            uses.pop("int8", None)
    blocks = [
        f"```python\n{snippet(kind, name, config, inside)}```"
        for kind, (name, inside) in uses.items()
    ]
    return "## Use\n\n" + "\n\n".join(blocks)


def _input(config: dict[str, Any]) -> str:
    how = config["preprocessing"]
    mean, std = (", ".join(f"{one:.6g}" for one in how[key]) for key in ("mean", "std"))
    return (
        "## Input and output\n\n"
        f"`images`: uint8 `[batch, 3, {how['size']}, {how['size']}]`, RGB in 0..255, upright; any "
        f"batch size. An image is resized to a short side of {how['resize']} pixels "
        f"({how['interpolation']}, antialiased), and the middle {how['crop']} x {how['crop']} is "
        "cut out; a file with `with_resize` in its name does both itself and takes any size.\n\n"
        f"The file normalises: (pixels / 255 - mean) / std, with mean {mean} and std {std}.\n\n"
        "`probabilities`: float32 `[batch, classes]`, softmax; their logarithm is the logits but "
        "for a constant an image."
    )


def _classes(config: dict[str, Any]) -> str:
    labels = config["labels"]
    named = ", ".join(f"`{name}`" for name in labels[:CLASSES])
    more = f" and {len(labels) - CLASSES} more, all in config.json" if labels[CLASSES:] else ""
    return f"## Classes\n\n{named}{more}"


def _origin(config: dict[str, Any]) -> str:
    checkpoint, training = config["checkpoint"], config["training"]
    start = training["weights_to_start_from"]
    average = ", a moving average of the weights" if checkpoint["averaged"] else ""
    begun = f"from {start}" if start else "from random weights"
    return (
        f"## Training\n\n{training['epochs']} epochs {begun}, batches of "
        f"{training['batch_size']}, {training['optimizer']} at {training['learning_rate']:g}, "
        f"{training['loss']}. This is `{checkpoint['file']}` of epoch {checkpoint['epoch']}"
        f"{average}; SHA-256 of the weights `{checkpoint['weights_sha256']}`."
    )
