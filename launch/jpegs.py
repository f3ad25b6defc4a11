"""JPEGs for benchmarks: seeded noise with the statistics of photographs, so that a decoder works as
hard on them as on photographs."""

from pathlib import Path
from typing import Any

HEIGHT, WIDTH, QUALITY = 375, 500, 91  # ImageNet's usual size; files of about 100 kB


def write_jpegs(folder: Path, count: int) -> float:
    """An ImageFolder of four classes; the files' mean size in bytes."""
    import numpy as np
    from PIL import Image

    total = 0
    for number in range(count):
        path = folder / f"class{number % 4}" / f"{number:04d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(natural_image(np.random.default_rng(number))).save(path, quality=QUALITY)
        total += path.stat().st_size
    return total / count


def natural_image(rng: Any) -> Any:
    """[H, W, 3] uint8 with the statistics of photographs: amplitude falls with 1/frequency^1.2
    (Field 1987), brightness varies more than colour."""
    import numpy as np

    down, across = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.maximum(np.hypot(down, across), 1 / WIDTH)
    noise_CHW = rng.standard_normal((3, HEIGHT, WIDTH))
    waves_CHW = np.fft.irfft2(np.fft.rfft2(noise_CHW) / frequency**1.2, (HEIGHT, WIDTH))
    waves_CHW -= waves_CHW.mean((1, 2), keepdims=True)
    grey, red, blue = waves_CHW / waves_CHW.std((1, 2), keepdims=True)
    rgb = (50 * grey + 15 * red, 50 * grey - 5 * red - 8 * blue, 50 * grey + 18 * blue)
    return np.clip(128 + np.stack(rgb, axis=-1), 0, 255).astype(np.uint8)
