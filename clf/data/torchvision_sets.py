"""data=torchvision data.dataset=CIFAR10 data.root=/my/cifar: data sets of torchvision.datasets that
are on disk, where and as torchvision puts them. Nothing is downloaded.

Data sets whose images are files give their paths; the arrays of the others become PNG files in
memory. torchvision is imported to read them, and torch with it.
"""

import io
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from clf.config import register
from clf.config.about import About
from clf.config.faults import nearest
from clf.data.folders import check_folder
from clf.data.lists import Listing
from clf.data.naming import SUFFIXES, suffix
from clf.data.reader import DataError, Noted, Row, first_and_count

BY_FLAG: dict[str, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
TWO: dict[str, dict[str, Any]] = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE: dict[str, dict[str, Any]] = {**TWO, "val": {"split": "val"}}


class Known(NamedTuple):
    """How torchvision's class is called for each split, and where it expects its files."""

    splits: dict[str, dict[str, Any]]
    files: str


KNOWN = {
    "CIFAR10": Known(BY_FLAG, "cifar-10-batches-py/"),
    "CIFAR100": Known(BY_FLAG, "cifar-100-python/"),
    "DTD": Known(THREE, "dtd/dtd/images/ and dtd/dtd/labels/"),
    "EuroSAT": Known({"all": {}}, "eurosat/2750/"),
    "FashionMNIST": Known(BY_FLAG, "FashionMNIST/raw/"),
    "FGVCAircraft": Known(THREE, "fgvc-aircraft-2013b/data/"),
    "Food101": Known(TWO, "food-101/images/ and food-101/meta/"),
    "KMNIST": Known(BY_FLAG, "KMNIST/raw/"),
    "MNIST": Known(BY_FLAG, "MNIST/raw/"),
    "OxfordIIITPet": Known(
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "oxford-iiit-pet/images/ and oxford-iiit-pet/annotations/",
    ),
}


@register(name="torchvision", group="data")
def read_torchvision(
    root: Path,
    *,
    dataset: Annotated[
        str | None, About("class of torchvision.datasets, such as CIFAR10; its files are on disk")
    ] = None,
) -> Noted:
    """Rows of the splits that torchvision has; a validation split that it lacks is drawn."""
    if dataset is None or dataset not in KNOWN:
        meant = nearest(dataset or "", KNOWN)
        question = f"; did you mean {meant[0]}?" if meant else "."
        raise DataError(
            f"data.dataset={'null' if dataset is None else dataset}: expected one of "
            f"{', '.join(KNOWN)}{question} Others of torchvision.datasets are read by a reader of "
            "your own: docs/extending.md"
        )
    check_folder(root, f"expected {KNOWN[dataset].files} in it")
    rows = {}
    for split, arguments in KNOWN[dataset].splits.items():
        try:
            rows[split] = _rows(_opened(dataset, root, arguments), f"{dataset}/{split}")
        except Exception as error:  # a dozen types for files that are missing, cut off or others
            raise DataError(_not_read(dataset, root, error)) from error
    notes = [f"{dataset} is read by torchvision, so torch is imported where the run is started"]
    images = [row.image for listed in rows.values() for row in listed]
    held = [len(image) for image in images if isinstance(image, bytes)]
    if held:
        notes.append(
            f"{len(held)} images are no files; each process holds their "
            f"{sum(held) / (1 << 20):.1f} MiB in memory"
        )
    return Noted(rows, notes)


def _opened(name: str, root: Path, arguments: dict[str, Any]) -> Any:
    import torchvision

    return getattr(torchvision.datasets, name)(str(root), download=False, **arguments)


def _not_read(name: str, root: Path, error: Exception) -> str:
    inside = first_and_count(sorted(entry.name for entry in root.iterdir()), 5)
    said = str(error).strip().partition("\n")[0].partition(" You can use")[0]
    return (
        f"data.root: torchvision.datasets.{name} cannot read its files in {root}, which holds "
        f"{inside} ({type(error).__name__}: {said}); expected {KNOWN[name].files} there, as "
        f"torchvision.datasets.{name}(root, download=True) writes them"
    )


def _rows(dataset: Any, where: str) -> list[Row]:
    """The rows of a split, labelled with the names of the classes if torchvision knows them."""
    pairs: list[tuple[str | bytes, int]] = _files(dataset) or [
        (_png(image), int(label)) for image, label in map(dataset.__getitem__, range(len(dataset)))
    ]
    names = list(getattr(dataset, "classes", []))
    if len(set(names)) <= max((label for _, label in pairs), default=0):
        names = []
    return [
        Row(
            image,
            str(names[label]) if names else label,
            f"{where}/{index}" if isinstance(image, bytes) else "",
        )
        for index, (image, label) in enumerate(pairs)
    ]


def _files(dataset: Any) -> list[tuple[str | bytes, int]]:
    """Path and label of each image; empty if the images are no files.

    torchvision keeps them under names of its own in each class, as pairs or as two lists, so they
    are known by what they hold. Where several lists may be meant, the data set itself is asked.

    Raises:
        FileNotFoundError: a file is not there
    """
    held = [
        one for one in vars(dataset).values() if isinstance(one, list) and len(one) == len(dataset)
    ]
    pairs = [one for one in held if one and isinstance(one[0], tuple) and _is_path(one[0][0])]
    if pairs:
        paths, labels = [path for path, _ in pairs[0]], [label for _, label in pairs[0]]
    else:
        paths = _paths(dataset, [one for one in held if one and _is_path(one[0])])
        labels = _labels(dataset, [one for one in held if one and isinstance(one[0], int)])
    there = Listing()
    if lost := [str(path) for path in paths if not there.has(str(path))]:
        raise FileNotFoundError(f"{len(lost)} images are not there: {first_and_count(lost, 3)}")
    return [(str(path), label) for path, label in zip(paths, labels, strict=True)] if paths else []


def _is_path(held: Any) -> bool:
    return isinstance(held, str | Path) and suffix(str(held)) in SUFFIXES


def _paths(dataset: Any, candidates: list[list[Any]]) -> list[Any]:
    """Those of the images, where there are also those of masks."""
    if len(candidates) < 2:
        return candidates[0] if candidates else []
    from PIL import Image

    first = dataset[0][0].tobytes()
    for one in candidates:
        with Image.open(one[0]) as image:
            if image.convert("RGB").tobytes() == first:
                return one
    return []


def _labels(dataset: Any, candidates: list[list[int]]) -> list[int]:
    """Those that the data set gives, where there are others too, such as cat or dog beside the
    breed."""
    while len(candidates) > 1:
        one, other, *_ = candidates
        differ = next((n for n in range(len(one)) if one[n] != other[n]), None)
        if differ is None:
            candidates = candidates[1:]
        else:
            right = dataset[differ][1]
            candidates = [labels for labels in candidates if labels[differ] == right]
    return candidates[0] if candidates else []


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
