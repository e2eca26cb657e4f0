from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def patient_key(tmp_path_factory, monkeypatch) -> Path:
    """A key of the test's own, so that no test writes into the user's folders."""
    path = tmp_path_factory.mktemp("key") / "patients.key"
    monkeypatch.setenv("MEDCLF_PATIENT_KEY", str(path))
    return path


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes small images, each of its own content, at the paths given; returns their root."""

    def make(*names: str, root: Path = tmp_path) -> Path:
        for number, name in enumerate(names):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((6, 8 + number % 3), number, np.uint8)
            Image.fromarray(pixels).save(file, "JPEG" if file.suffix == ".jpg" else "PNG")
        return root

    return make
