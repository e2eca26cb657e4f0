"""The resize without torch gives what torch gives, to the bit."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from medclf.images.resample import resample


def by_torch(array, height, width):
    planes = array if array.ndim == 3 else array[..., None]
    source = torch.from_numpy(planes.copy()).permute(2, 0, 1)[None]
    found = functional.interpolate(source, (height, width), mode="bilinear", antialias=True)
    result = found[0].permute(1, 2, 0).numpy()
    return result if array.ndim == 3 else result[..., 0]


@pytest.mark.parametrize("seed", range(4))
def test_as_torch_to_the_bit(seed):
    random = np.random.default_rng(seed)
    for number in range(60):
        shape = (*random.integers(1, 260, 2), *([], [1], [3])[number % 3])
        low, high = ((0, 256), (0, 2), (250, 256))[number % 2 * number % 3]
        array = random.integers(low, high, shape, np.uint8)
        height, width = map(int, random.integers(1, 260, 2))
        assert np.array_equal(resample(array, height, width), by_torch(array, height, width)), (shape, height, width)


@pytest.mark.parametrize("shape", [(530, 620, 3), (1, 1), (1, 500), (700, 1, 3), (224, 100, 3), (2000, 1600)])
def test_sides_as_they_come(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(resample(array, 224, 224), by_torch(array, 224, 224))
    assert np.array_equal(resample(array[:, ::-1], 64, 48), by_torch(array[:, ::-1].copy(), 64, 48))
