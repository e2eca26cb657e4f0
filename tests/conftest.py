import os
from pathlib import Path

import pytest


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
