"""One image breaks before the scan or behind its back: jobs go on, rows stay in step, and the file is named."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medclf.errors import MedclfWarning, ReadError
from medclf.learn.dataloaders import MedDataLoaders

ROOT = Path(__file__).parents[2]
QUICK = {
    ("train, between scan and store", "cut short"),
    ("train without a store, a training image", "deleted"),
    ("train without a store, a validation image", "cut short"),
    ("cross-validation, between scan and store", "deleted"),
    ("a learner with 2 workers, a validation image", "cut short"),
    ("evaluate", "deleted"),
    ("predict", "cut short"),
}


@pytest.fixture(scope="module")
def broken_files():
    spec = importlib.util.spec_from_file_location("broken_files", ROOT / "benchmarks" / "broken_files.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def room(broken_files, tmp_path_factory):
    return broken_files.Room.made(tmp_path_factory.mktemp("broken"), 50)


@pytest.fixture(autouse=True)
def own_cache(room, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(room.out / "cache"))


@pytest.mark.filterwarnings("ignore")
def test_one_in_fifty_breaks(broken_files, room):
    done = {(name, change): job() for name, change, job in broken_files.jobs(room) if (name, change) in QUICK}
    assert done == {job: [] for job in QUICK}


@pytest.fixture
def loaders(tmp_path):
    for place, label in enumerate(("a", "b")):
        (tmp_path / label).mkdir()
        for number in range(5):
            Image.new("RGB", (32, 32), (0, 0, 10 + 100 * place + number)).save(tmp_path / label / f"{number}.png")
    return MedDataLoaders.from_folder(tmp_path, size=32, bs=4, val_bs=2, split="all", seed=3, cache=False)


def test_what_stands_in_for_an_image(loaders):
    """Black and in its place where rows count; another image with its own label in training."""
    victim = loaders.valid.items[2]
    whole = torch.cat([x for x, _ in loaders.valid])
    victim.unlink()
    with pytest.warns(MedclfWarning, match=r"2\.png: .*left out from here on"):
        rows = [(x, y) for x, y in loaders.valid]
    x, y = torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])
    assert y.tolist() == [0] * 5 + [1] * 5
    assert x[2].max() == 0 and torch.equal(x[[0, 1, *range(3, 10)]], whole[[0, 1, *range(3, 10)]])
    assert list(loaders.problems) == [str(victim)]
    for x, y in loaders.train:
        blue = (x[:, 2, 0, 0] * 255).round().int().numpy()
        assert np.array_equal(blue >= 110, y.numpy() == 1)
        assert blue.min() >= 10
    for path in loaders.valid.items:
        path.unlink(missing_ok=True)
    with pytest.warns(MedclfWarning):
        empty = [(x, y) for x, y in loaders.valid]
    assert sum(len(y) for _, y in empty) == 10 and max(float(x.max()) for x, _ in empty) == 0
    assert len(loaders.problems) == 10


def test_a_file_that_nobody_scanned_is_an_error(loaders, tmp_path):
    (tmp_path / "other.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ReadError, match=r"other\.png"):
        loaders.test_dl([tmp_path / "other.png"]).one_batch()
    victim = loaders.valid.items[0]
    victim.unlink()
    with pytest.raises(ReadError):
        loaders.test_dl([victim]).one_batch()
