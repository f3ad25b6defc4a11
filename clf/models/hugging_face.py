"""The names that Hugging Face's transformers gives a ResNet, as torchvision and timm have them."""

import re

from torch import Tensor

# Written by transformers for any network of its own; only its ResNet is built alike elsewhere.
OF_RESNET = re.compile(r"^(resnet\.)?(embedder\.embedder|encoder\.stages\.\d+\.layers\.\d+)\.")
OF_OTHERS = re.compile(
    r"^(\w+\.)?(embeddings\.(patch_embeddings|cls_token|position)|encoder\.layers?\.\d+\.(attention|"
    r"layernorm|intermediate)|encoder\.stages\.\d+\.layers\.\d+\.(dwconv|pwconv))"
)
PARTS = {"convolution": "conv", "normalization": "bn"}


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a ResNet under the usual names; any others as they are.

    Raises:
        ValueError: another network of transformers, which names and cuts its layers otherwise
    """
    if any(OF_RESNET.match(key) for key in state) and not any(map(OF_OTHERS.match, state)):
        return {_usual(key): value for key, value in state.items()}
    if sum(OF_OTHERS.match(key) is not None for key in state) * 3 > len(state):
        raise ValueError(
            "its names are those of Hugging Face's transformers, which cuts layers otherwise; of "
            "that library only ResNet is read. timm has most of these networks with their weights: "
            "--model timm/NAME model.pretrained=true"
        )
    return state


def _usual(key: str) -> str:
    key = key.removeprefix("resnet.")
    key = re.sub(r"^classifier\.1\.", "fc.", key)
    key = re.sub(
        r"^embedder\.embedder\.(convolution|normalization)\.",
        lambda found: f"{PARTS[found[1]]}1.",
        key,
    )
    start = re.match(r"^encoder\.stages\.(\d+)\.layers\.(\d+)\.", key)
    if start is None:
        return key
    rest = key[start.end() :]
    rest = rest.replace("shortcut.convolution.", "downsample.0.")
    rest = rest.replace("shortcut.normalization.", "downsample.1.")
    rest = re.sub(
        r"^layer\.(\d+)\.(convolution|normalization)\.",
        lambda found: f"{PARTS[found[2]]}{int(found[1]) + 1}.",
        rest,
    )
    return f"layer{int(start[1]) + 1}.{start[2]}.{rest}"
