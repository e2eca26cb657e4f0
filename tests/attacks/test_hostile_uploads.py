"""Whatever is uploaded, the service answers 4xx or rightly, and lives; benchmarks/hostile_uploads.py sends more."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from medclf.serving.app import create_app, running
from medclf.serving.limits import Limits


@pytest.fixture(scope="module")
def hostile() -> Iterator[ModuleType]:
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("hostile_uploads")
    sys.path.remove(folder)


@pytest.fixture(scope="module")
def url(hostile: ModuleType) -> Iterator[str]:
    with running(create_app(hostile.Brightness(), limits=Limits(decode_seconds=60, read_seconds=2))) as address:
        yield address


def test_mutated_uploads_and_malformed_requests_get_no_5xx_and_the_service_lives(hostile: ModuleType, url: str) -> None:
    counts = hostile.attack(url, number=80, clients=4)
    assert hostile.wrong(counts) == [], counts
    assert counts["422"] + counts["415"] + counts["413"] > 10  # the mutants are broken indeed
    assert counts["200"] > 10  # and some still hold an image
    assert sum(counts.values()) == 80 + len(hostile.NOT_HTTP)
    assert hostile.answers_rightly(url)


def test_what_would_be_wrong_is_told_apart(hostile: ModuleType) -> None:
    counts = hostile.Counter(
        ["200", "422", "back-pressure", "raw 400", "raw closed", "503", "500", "raw hangs", "raw 500"]
    )
    assert hostile.wrong(counts) == ["500", "503", "raw 500", "raw hangs"]
