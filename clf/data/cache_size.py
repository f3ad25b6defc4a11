"""How large the decoded images of a cache are, and whether there is room (data.cache). Imports no
torch.

h x w stored pixels of an image of H x W.
"""

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from clf.config import DataConfig
from clf.cores import usable_cores
from clf.data.cache_place import free_bytes, known_folder
from clf.data.reader import DataError, Source, Span

SHARE_OF_FREE = {
    "ram": 0.5,
    "device": 0.5,
    "disk": 0.9,
}  # that is taken where data.cache_gb says nothing
LOOKED_AT = 2000  # images whose sizes the estimate is made from
FEW = 200  # before a run, where somebody waits
GB = 1e9


def size_text(count: float) -> str:
    """Such as "1.2 GB"."""
    return f"{count / GB:,.1f} GB" if count >= GB / 10 else f"{count / 1e6:,.1f} MB"


def train_short_side(cfg: DataConfig) -> int:
    """The short side of an image whose smallest crop still has S pixels a side."""
    low, (narrow, wide) = cfg.augment.crop_scale[0], cfg.augment.crop_ratio
    return math.ceil(cfg.size / math.sqrt(low * min(narrow, 1 / wide, 1.0)))


def stored_size(height: int, width: int, cfg: DataConfig, trains: bool) -> tuple[int, int]:
    """h and w. A training image keeps its shape and is never enlarged; one of an evaluation is as
    the model sees it, S x S, unless it has fewer pixels itself."""
    if not trains:
        side = cfg.size_in_evaluation
        return (side, side) if side * side < height * width else (height, width)
    scale = min(1.0, train_short_side(cfg) / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def needed_bytes(
    images: Sequence[Source], cfg: DataConfig, trains: bool, looked_at: int = LOOKED_AT
) -> int:
    """How much the pixels of images will take, by the sizes that evenly spaced ones state."""
    some = range(0, len(images), max(1, len(images) // looked_at))
    with ThreadPoolExecutor(usable_cores()) as pool:
        stated = pool.map(_stated_size, [images[place] for place in some])
        sizes = [size for size in stated if size]
    if not sizes:
        return 0
    total = sum(3 * h * w for size in sizes for h, w in [stored_size(*size, cfg, trains)])
    return total * len(images) // len(sizes)


def _stated_size(image: Source) -> tuple[int, int] | None:
    """Height and width, as far as the turn by EXIF goes; None where there is no telling."""
    from PIL import Image

    try:
        data = image.read() if isinstance(image, Span) else image
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            return opened.height, opened.width
    except Exception:  # whoever decodes it says what is wrong; PIL raises a dozen types
        return None


def check_room(needed: dict[str, int], there: int, cfg: DataConfig, folder: Path) -> int:
    """How many bytes may be written; DataError: it is less than what is needed.

    Args:
        needed: bytes of each split that is not there
        there: bytes of those that are
    """
    total, free = sum(needed.values()), free_bytes(folder, cfg.cache)
    share = SHARE_OF_FREE[cfg.cache]
    if cfg.cache_gb is None:
        most, why = int(free * share), f"{share:.0%} of the {size_text(free)} that are free"
        advice = "set data.cache_gb to take more of it, "
    else:
        most, why = int(cfg.cache_gb * GB) - there, f"data.cache_gb={cfg.cache_gb:g}"
        why += f", of which {size_text(there)} are taken" * (there > 0)
        advice = "set it higher, "
        if most > free:
            most, why, advice = free, "no more is free", "make room there, set "
    if total <= most:
        return most
    other = "data.cache_dir to a larger disk" if cfg.cache == "disk" else "data.cache=disk"
    raise DataError(
        f"data.cache={cfg.cache}: the decoded images need about {parts_text(needed)}, and "
        f"{size_text(max(0, most))} of {folder} may be taken ({why}); {advice}{other}, or "
        "data.cache=none"
    )


def parts_text(needed: dict[str, int]) -> str:
    """Such as "1.2 GB (train 1.1 GB, val 0.1 GB)"."""
    parts = ", ".join(f"{name} {size_text(count)}" for name, count in needed.items())
    return f"{size_text(sum(needed.values()))} ({parts})"


def size_note(train: Sequence[Source], val: Sequence[Source], cfg: DataConfig) -> str:
    """For a check before a run: what its cache will take."""
    needed = {
        "train": needed_bytes(train, cfg, trains=True, looked_at=FEW),
        "val": needed_bytes(val, cfg, trains=False, looked_at=FEW),
    }
    return (
        f"data.cache={cfg.cache}: about {parts_text(needed)} of decoded images on each node, in "
        f"{known_folder(cfg)}"
    )
