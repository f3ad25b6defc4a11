"""Python that runs an exported file without this project, for its model card."""

from typing import Any

from clf.config.networks import of_target

# Runs an ONNX file without this project; docs/shipping.md has the same lines.
OPEN = """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{file}")
known = session.get_modelmeta().custom_metadata_map
labels, how = json.loads(known["labels"]), json.loads(known["preprocessing"])
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
"""
RESIZE = """\
width, height = (side * how["resize"] // min(image.size) for side in image.size)
left, top = round((width - how["crop"]) / 2), round((height - how["crop"]) / 2)
image = image.resize((width, height), Image.Resampling[how["interpolation"].upper()])
image = image.crop((left, top, left + how["crop"], top + how["crop"]))
"""
RUN = """\
probabilities = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})[0][0]
for label in probabilities.argsort()[::-1][:5]:
    print(f"{probabilities[label]:.4f}  {labels[label]}")
"""
OTHERS = {
    "torch_export": """\
import torch

extra = {{"labels": "", "preprocessing": ""}}
network = torch.export.load("{file}", extra_files=extra).module()
probabilities = network(images)  # uint8 [batch, 3, {sides}]
""",
    "torchscript": """\
import torch

extra = {{"labels": "", "preprocessing": ""}}
network = torch.jit.load("{file}", _extra_files=extra)
probabilities = network(images)  # uint8 [batch, 3, {sides}]
""",
}
FILLED = """\
from safetensors.torch import load_file
{imported}
network = {built}
network.load_state_dict(load_file("{file}"))  # takes normalised images, gives logits
"""


def snippet(kind: str, file: str, config: dict[str, Any], has_resize: bool) -> str:
    """Python that runs a file of that format without this project."""
    if kind == "safetensors":
        return _filled(file, config)
    if kind in OTHERS:
        size = config["preprocessing"]["size"]
        sides = "height, width" if has_resize else f"{size}, {size}"
        return OTHERS[kind].format(file=file, sides=sides)
    return OPEN.replace("{file}", file) + ("" if has_resize else RESIZE) + RUN


def _filled(file: str, config: dict[str, Any]) -> str:
    """Python that fills a network from a file of tensors."""
    if "pretrained_cfg" in config:
        return (
            "import timm\n\n# From a repository: hf-hub:OWNER/NAME\n"
            'network = timm.create_model("local-dir:.", pretrained=True)  # gives logits\n'
        )
    known = of_target(config["network"])
    if known is None or "architecture" not in config:
        module, _, name = config["network"].rpartition(".")
        imported, built = f"from {module} import {name}", f"...  # the network of {name}"
        return FILLED.format(imported=imported, built=built, file=file)
    arguments = {"num_classes": config["num_classes"], **config["model_args"]}
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return FILLED.format(
        imported=f"from torchvision.models import {known.name}\n",
        built=f"{known.name}({given})",
        file=file,
    )
