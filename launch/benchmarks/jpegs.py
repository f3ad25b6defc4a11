"""JPEGs for benchmarks: 500x375 windows of the two photographs that come with scikit-learn, so that
a decoder works on them as it does on photographs."""

from pathlib import Path

HEIGHT, WIDTH = 375, 500  # ImageNet's usual size


def write_jpegs(folder: Path, count: int, quality: int) -> float:
    """An ImageFolder of four classes; the files' mean size in bytes."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images  # [427, 640, 3] uint8
    rng = np.random.default_rng(0)
    total = 0
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        whole_HWC = photographs[number % len(photographs)]
        top = rng.integers(whole_HWC.shape[0] - HEIGHT + 1)
        left = rng.integers(whole_HWC.shape[1] - WIDTH + 1)
        window_HWC = whole_HWC[top : top + HEIGHT, left : left + WIDTH]
        Image.fromarray(window_HWC).save(path, quality=quality)
        total += path.stat().st_size
    return total / count
