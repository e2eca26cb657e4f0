import numpy as np
import pytest


@pytest.fixture(scope="module")
def drawn():
    """A label of which the image knows half, and a column the other half."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    seen = 0.8 * rng.normal(size=400) + y
    rows = {"hint": (0.8 * rng.normal(size=400) + y).tolist(), "noise": rng.normal(size=400).tolist()}
    return y, np.stack([-seen / 2, seen / 2], axis=1), rows
