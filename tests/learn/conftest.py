"""Thirty images of three colours, their loaders, and a learner whose features know the colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner


@pytest.fixture(scope="module")
def draw_colours(tmp_path_factory):
    """(images a colour, how much it stands out) -> their folder."""

    def draw(n, strength):
        folder = tmp_path_factory.mktemp("data")
        rng = np.random.default_rng(0)
        for label, channel in {"blue": 2, "green": 1, "red": 0}.items():
            (folder / label).mkdir()
            for i in range(n):
                pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
                pixels[..., channel] += strength
                Image.fromarray(pixels).save(folder / label / f"{i}.png")
        return folder

    return draw


@pytest.fixture(scope="module")
def folder(draw_colours):
    return draw_colours(10, 100)


@pytest.fixture
def dls(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    return MedDataLoaders.from_folder(folder, size=48, split="stratified", seed=1, cache=True, bs=8)


@pytest.fixture
def learn(dls):
    torch.manual_seed(0)
    return med_learner(dls, "efficientnet_lite0")


@pytest.fixture
def small(folder):
    """A network that is quickly trained, with a probe."""
    dls = MedDataLoaders.from_folder(
        folder, size=32, split="stratified", seed=1, cache=False, bs=8, progress=False, device="cpu"
    )
    torch.manual_seed(0)
    return med_learner(dls, "resnet18", weights=None, linear_probe=True, mixed_precision=False)
