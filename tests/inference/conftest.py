"""Small trained-looking learners, made by hand: the bundle needs no fastai."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medclf.images.preprocessing import Preprocessing
from medclf.models.backbones import build_network, describe
from medclf.models.spec import LoaderSettings, ModelSpec, Normalization


def fake_learn(
    arch="efficientnet_lite0", vocab=("abdomen", "chest", "hand"), *, n_in=3, multi_label=False, size=(64, 72), **more
):
    """What `med_learner` would return after training, with norms that have seen images."""
    torch.manual_seed(0)
    facts = describe(arch)
    network = build_network(arch, len(vocab), weights=None, n_in=n_in)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
    network[1][-1].weight.data.mul_(10)  # so that the answers differ from image to image
    spec = ModelSpec(
        facts.name,
        tuple(vocab),
        Preprocessing(size, channels=n_in, **more),
        Normalization(*facts.normalization(n_in)),
        multi_label,
        settings=LoaderSettings("radiograph", seed=42),
    )
    return SimpleNamespace(model=network.train(), spec=spec)


@pytest.fixture(scope="session")
def learn():
    return fake_learn()


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Ten files of odd sizes, modes and formats."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    paths = []
    for number in range(10):
        shape = (50 + 13 * number, 90 - 5 * number, 3)
        small = Image.fromarray(random.integers(0, 256, (9, 7, 3), np.uint8))
        image = small.resize(shape[1::-1], Image.Resampling.BICUBIC)
        path = folder / f"{number}.{('png', 'jpg', 'tif')[number % 3]}"
        (image.convert("L") if number % 4 == 0 else image).save(path)
        paths.append(path)
    return paths
