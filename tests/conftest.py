import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images; tests that need them skip, saying so, where they are absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDCLF_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the real images of {default.parts[-2]}/data or MEDCLF_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and keys of the test's own, so that no test reads or writes the user's folders."""
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("MEDCLF_PATIENT_KEY", str(tmp_path_factory.mktemp("key") / "patients.key"))


@pytest.fixture
def patient_key(own_places: None) -> Path:
    """Where the test's own key of pseudonyms lies."""
    return Path(os.environ["MEDCLF_PATIENT_KEY"])


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """Writes small images, each of its own content, at the paths given; returns their root."""

    def make(*names: str, root: Path = tmp_path) -> Path:
        for number, name in enumerate(names):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((6, 8 + number % 3), number + 1, np.uint8)
            Image.fromarray(pixels).save(file, "JPEG" if file.suffix == ".jpg" else "PNG")
        return root

    return make
