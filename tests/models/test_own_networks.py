"""Networks of one's own: cut as fastai cuts them, named, shipped, and refused where that cannot be."""

from types import SimpleNamespace

import pytest
import torch
from fastai.vision.learner import create_body
from torch import nn
from torchvision.models import resnet18

from medclf.errors import BundleError, MedclfError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.models import registry
from medclf.models.backbones import build_network, describe
from medclf.models.own_networks import body_of, is_own, register_network, weights_as_given
from medclf.models.spec import ModelSpec, Normalization


@pytest.fixture(autouse=True)
def own_registry():
    before = dict(registry.ARCHITECTURES)
    yield
    registry.ARCHITECTURES.clear()
    registry.ARCHITECTURES.update(before)


def small(pretrained=False):
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3), nn.ReLU())
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4)]
    made = nn.Sequential(*net, *end)
    if pretrained:
        nn.init.constant_(made[0].weight, 0.5)
    return made


def test_it_is_cut_where_fastai_cuts_it():
    whole = small()
    theirs = create_body(whole, pretrained=False)
    assert list(body_of(whole).state_dict()) == list(theirs.state_dict())
    assert [type(m) for m in body_of(small)] == [type(m) for m in theirs]


def test_it_is_an_architecture_with_the_weights_it_is_asked_for():
    name = register_network(small)
    assert (name, describe(name).n_features) == ("own/small", 9)
    assert (build_network(name, 2, weights="default")[0][0].weight == 0.5).all()
    assert not (build_network(name, 2, weights=None)[0][0].weight == 0.5).all()


def test_a_module_stays_as_it_is():
    whole = small()
    name = register_network(whole)
    network = build_network(name, 2, weights=None)
    assert torch.equal(network[0][0].weight, whole[0].weight) and network[0][0] is not whole[0]


def test_a_trained_module_is_taken_as_it_is():
    """Without `weights=None` it was refused, and with it called random."""
    whole = small()
    assert weights_as_given(whole, "default") is None and weights_as_given(whole, "a.pth") == "a.pth"
    whole(torch.rand(2, 3, 20, 20))  # its norm has seen a batch
    assert weights_as_given(whole, None) == weights_as_given(whole, "default") == "default"
    network = build_network(register_network(whole), 2, weights="default")
    assert torch.equal(network[0][0].weight, whole[0].weight)
    without_norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1))
    assert weights_as_given(without_norm, None) is None and weights_as_given(without_norm, "default") == "default"


def test_a_bundle_names_it_and_asks_for_it(tmp_path):
    network = build_network(register_network(small), 2, weights=None)
    half = Normalization([0.5] * 3, [0.5] * 3)
    learn = SimpleNamespace(model=network, spec=ModelSpec("own/small", ("a", "b"), Preprocessing(32), half))
    save_bundle(learn, tmp_path / "x.bundle", calibration={})
    assert load_bundle(tmp_path / "x.bundle").spec.arch == "own/small"
    del registry.ARCHITECTURES["own/small"]
    with pytest.raises(BundleError, match="own/small") as error:
        load_bundle(tmp_path / "x.bundle")
    assert "register_network(small)" in error.value.remedy


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.pool, self.fc = (
            nn.Conv2d(3, 4, 1),
            nn.Conv2d(3, 4, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(8, 2),
        )

    def forward(self, x):
        return self.fc(self.pool(torch.cat([self.a(x), self.b(x)], 1)).flatten(1))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3, 2), nn.Conv2d(6, 8, 3, 2)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 2)

    def forward(self, x):
        return self.fc(self.pool(self.b(self.a(x))).flatten(1))


class Rectified(Plain):
    def forward(self, x):
        return self.fc(self.pool(self.b(torch.relu(self.a(x)))).flatten(1))


class Scaled(Plain):
    def forward(self, x):
        return super().forward(x / 255 - 0.5)


class Reversed(Plain):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 6, 3), nn.Conv2d(3, 6, 3)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.pool(self.a(self.b(x))).flatten(1))


@pytest.mark.parametrize("network", [Rectified, Scaled, Rectified(), Reversed])
def test_what_stands_in_the_forward_alone_is_not_lost_in_silence(network):
    """The body was made of the layers alone: without its activations, its weights gave other features."""
    with pytest.raises(
        MedclfError, match=r"(does more in its forward than run its layers|does not run layer by layer)"
    ):
        register_network(network)
    if network is not Reversed:
        assert register_network(network, lambda net: nn.Sequential(net.a, nn.ReLU(), net.b)).startswith("own/")
    assert register_network(Plain) == "own/Plain"


def test_a_network_object_of_a_library_is_one_of_ones_own():
    """Its whole repr was called an unknown architecture."""
    made = resnet18()
    assert is_own(made) and not is_own(resnet18)
    network = build_network(register_network(made), 2, weights=None)
    assert torch.equal(network[0][0].weight, made.conv1.weight)


def test_what_cannot_be_cut_is_refused_and_can_be_told_how():
    with pytest.raises(MedclfError, match="layer by layer"):
        register_network(Forked)
    with pytest.raises(MedclfError, match="no layer that pools"):
        register_network(nn.Sequential(nn.Conv2d(3, 4, 1)))
    assert register_network(Forked, cut=lambda net: nn.Sequential(net.a, nn.ReLU())) == "own/Forked"


def test_what_makes_no_network_is_named():
    with pytest.raises(MedclfError, match="Linear cannot be called alone: missing a required argument: 'in_features'"):
        register_network(nn.Linear)

    def pair():
        return small(), "adam"

    with pytest.raises(MedclfError, match=r"pair\(\) makes a tuple, and no network"):
        register_network(pair)
