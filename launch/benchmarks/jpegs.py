"""JPEGs for benchmarks: windows of the two photographs that come with scikit-learn, so that a
decoder works on them as it does on photographs."""

from pathlib import Path

TILE = (375, 500)  # height and width; ImageNet's usual size


def write_jpegs(folder: Path, count: int, copies: int, tiles: int, quality: int) -> float:
    """An ImageFolder of four classes; the mean size of its files in bytes.

    Args:
        count: different files
        copies: further names of each, as hard links, so that an epoch reads each so many times
        tiles: windows beside and below each other, each of TILE: an enlarged photograph would have
            less detail a pixel, and be less work
        quality: of the JPEGs
    """
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images  # [427, 640, 3] uint8
    rng = np.random.default_rng(0)
    total = 0
    for number in range(count):
        whole = np.empty((TILE[0] * tiles, TILE[1] * tiles, 3), np.uint8)
        for place in range(tiles**2):
            photograph = photographs[(number + place) % len(photographs)]
            down, right = (TILE[0] * (place // tiles), TILE[1] * (place % tiles))
            top, left = (rng.integers(photograph.shape[axis] - TILE[axis] + 1) for axis in (0, 1))
            window = photograph[top : top + TILE[0], left : left + TILE[1]]
            whole[down : down + TILE[0], right : right + TILE[1]] = window
        path = folder / f"class{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(whole).save(path, quality=quality)
        for copy in range(1, copies):
            path.with_stem(f"{path.stem}_{copy}").hardlink_to(path)
        total += path.stat().st_size
    return total / count
