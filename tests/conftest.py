import itertools
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

if "PYTEST_XDIST_WORKER" in os.environ:  # as many workers as cores: a thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


_NUMBERS = itertools.count()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same numbers are drawn in a test whatever ran before it: a test that passes by luck fails by luck."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A busy machine now and then makes a browser miss a key: such a test may fail once, which the summary says."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.flaky(reruns=2))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real images; tests that need them skip, saying so, where they are absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MEDCLF_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"needs the real images of {default.parts[-2]}/data or MEDCLF_TEST_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def rooms_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tests' caches and keys lie, also those of what is made for a whole module."""
    room = tmp_path_factory.mktemp("rooms")
    with pytest.MonkeyPatch.context() as patch:
        _settle(patch, room / "modules")
        yield room


@pytest.fixture(autouse=True)
def own_places(rooms_of_tests: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches and keys of the test's own, so that no test reads or writes another's or the user's.

    They are not made by `mktemp`, which goes through all folders each time.
    """
    _settle(monkeypatch, rooms_of_tests / str(next(_NUMBERS)))


def _settle(patch: pytest.MonkeyPatch, place: Path) -> None:
    patch.setenv("MEDCLF_CACHE", str(place / "cache"))
    patch.setenv("MEDCLF_PATIENT_KEY", str(place / "patients.key"))


@pytest.fixture(scope="module")
def shallow_networks() -> Iterator[None]:
    """A block or two a stage, where a test is not about the network: half of it to train, export and hash."""
    from medclf.models.plain_nets import LITE_NETS, RESNETS

    with pytest.MonkeyPatch.context() as patch:
        for name, (bottleneck, _) in RESNETS.items():
            patch.setitem(RESNETS, name, (bottleneck, (1, 1, 1, 1)))
        for name, (width, _, size) in LITE_NETS.items():
            patch.setitem(LITE_NETS, name, (width, 0.3, size))
        yield


@pytest.fixture
def patient_key(own_places: None) -> Path:
    """Where the test's own key of pseudonyms lies."""
    key = Path(os.environ["MEDCLF_PATIENT_KEY"])
    key.parent.mkdir()
    return key


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()
