"""A network of one's own is registered by a name, and then is one like any other."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

from medclf.errors import MedclfError, WeightsError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.models.backbones import build_body, build_network, describe
from medclf.models.registry import ARCHITECTURES, ClassTokenBody, register_arch, resolve


def small():
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


@pytest.fixture
def registered():
    register_arch("own_small", small, mean=(0.1, 0.2, 0.3), std=(0.5,) * 3, size=32)
    yield "own_small"
    ARCHITECTURES.pop("own_small", None)
    ARCHITECTURES.pop("own_weights", None)


def test_it_is_described_and_built(registered):
    found = describe(registered)
    assert (found.name, found.source, found.n_features, found.size) == ("own_small", "own", 6, 32)
    assert found.normalization() == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert build_network(registered, 4, weights=None, n_in=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 4)


def test_registering_again_replaces_it(registered):
    register_arch(registered, lambda: nn.Conv2d(3, 9, 3), size=32)
    assert describe(registered).n_features == 9


@pytest.mark.parametrize("name", ["resnet34", "efficientnet_lite0", "densenet121", "resnet26d"])
def test_a_published_name_is_not_taken(name):
    with pytest.raises(MedclfError, match="already"):
        register_arch(name, small)
    assert resolve(name)[0] != "own"


def test_its_weights_come_from_where_it_says(registered):
    with pytest.raises(WeightsError, match="no weights were registered for own_small"):
        build_body(registered)
    trained = small()
    classifier = {f"module.{key}": value for key, value in trained.state_dict().items()}
    classifier["module.fc.bias"] = torch.ones(2)
    register_arch("own_weights", small, heads=("fc",), weights=lambda: classifier)
    assert torch.equal(build_body("own_weights")[0].weight, trained[0].weight)


def test_what_is_not_registered_is_told_how(registered):
    with pytest.raises(MedclfError) as told:
        resolve("own_smal")
    assert "own_small" in str(told.value) and "register_arch" in str(told.value)
    with pytest.raises(MedclfError, match="register_arch"):
        resolve(small)


def test_a_bundle_of_it_predicts_as_the_learner(registered, tmp_path):
    rng = np.random.default_rng(0)
    for index in range(12):
        folder = tmp_path / "images" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(folder / f"{index}.png")
    dls = MedDataLoaders.from_folder(tmp_path / "images", size=32, bs=4, progress=False)
    learn = med_learner(dls, registered, weights=None)
    bundle = load_bundle(save_bundle(learn, tmp_path / "bundle"))
    wanted = learn.predict(folder / "1.png")[2]
    assert bundle.predict_probs([folder / "1.png"])[0] == pytest.approx(wanted.numpy(), abs=1e-4)
    ARCHITECTURES.pop(registered)
    with pytest.raises(MedclfError, match="register_arch"):
        load_bundle(tmp_path / "bundle")


def test_the_graph_of_a_vision_transformer_of_torchvision_takes_any_number_of_images():
    vit = VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(ClassTokenBody(vit).eval(), (torch.rand(2, 3, 48, 32),), dynamic_shapes=batch)
    assert program.module()(torch.rand(5, 3, 48, 32)).shape == (5, 7, 8)


def test_a_network_that_is_made_already_cannot_be_registered():
    with pytest.raises(MedclfError, match="body is called to make a network, and a Conv2d is one"):
        register_arch("made", torch.nn.Conv2d(3, 8, 3))
    assert "made" not in ARCHITECTURES
