"""Images for tests of loaders."""

import numpy as np
from PIL import Image


def make(folder, counts, size=(40, 30)):
    """Noise images in class folders; polyps are red, normals green."""
    rng = np.random.default_rng(0)
    for label, n in counts.items():
        (folder / label).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = rng.integers(0, 100, (*size[::-1], 3), dtype=np.uint8)
            pixels[..., 0 if "polyp" in label else 1] += 150
            Image.fromarray(pixels).save(folder / label / f"{i:02}.png")
    return folder
