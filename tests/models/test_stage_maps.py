"""The maps of all stages: what each stage gives by itself, under the body's own names, and back again."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

from medclf.errors import MedclfError
from medclf.models.backbones import build_body, build_network
from medclf.models.heads import is_plain, pool_by
from medclf.models.stage_maps import AllStages, of_last_stage, plain_body, widths_of


@pytest.mark.parametrize("side", [64, 75])
def test_it_gives_the_means_that_torchvisions_extractor_gives(side):
    own = build_body("resnet18", weights=None).eval()
    theirs = resnet18(weights=None).eval()
    theirs.load_state_dict(own.state_dict(), strict=False)
    nodes = ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = create_feature_extractor(theirs, nodes)(x)
        mine = AllStages(own)(x)
    means = torch.cat([maps[name].mean((2, 3)) for name in nodes], 1)
    torch.testing.assert_close(mine[:, -512:], maps["layer4"])
    if side == 64:  # a stage's map is a whole number of times as large as the last one
        torch.testing.assert_close(mine.mean((2, 3)), means)
    assert torch.corrcoef(torch.stack([mine.mean((2, 3)).flatten(), means.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    "arch", ["efficientnet_lite0", "resnet18", "convnext_tiny", "densenet121", "mobilenet_v3_small"]
)
def test_weights_keep_their_names_and_the_body_comes_back(arch):
    body = build_body(arch, weights=None).eval()
    wrapped = AllStages(body)
    assert list(wrapped.state_dict()) == list(body.state_dict())
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        given, last = wrapped(x), body(x)
        assert given.shape[1] == sum(wrapped.widths) and wrapped.widths[-1] == last.shape[1]
        torch.testing.assert_close(given[:, -last.shape[1] :], last)
        torch.testing.assert_close(wrapped.chain()(x), last)
        torch.testing.assert_close(copy.deepcopy(wrapped)(x), given)
    assert widths_of(wrapped) == wrapped.widths and widths_of(body) == ()
    assert plain_body(body) is body and type(plain_body(wrapped)) is nn.Sequential


def test_replaced_modules_are_the_ones_that_run():
    """Folding replaces norms; a stage that held on to the old ones would give other numbers."""
    body = AllStages(build_body("resnet18", weights=None)).eval()
    x = torch.rand(1, 3, 64, 64)
    before = body(x)
    name = next(name for name, module in body.named_modules() if isinstance(module, nn.BatchNorm2d))
    parent, _, last = name.rpartition(".")
    setattr(body.get_submodule(parent), last, nn.Identity())
    assert not torch.allclose(before, body(x))


def test_a_network_is_pooled_so_and_back_and_its_head_fits():
    network = build_network("resnet18", 3, weights=None).eval()
    names, n_before = list(network[0].state_dict()), network[1][-1].in_features
    pool_by(network, "stages")
    assert isinstance(network[0], AllStages) and is_plain(network[1]) and not network[1][-1].training
    assert network[1][-1].in_features == sum(network[0].widths) == 1024
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    linear = network[1][-1]
    pool_by(network, "stages")
    assert network[1][-1] is linear  # nothing to change, and a fitted layer stays
    pool_by(network, "gem")
    assert network[1][-1].in_features == n_before and list(network[0].state_dict()) == names
    assert network(torch.rand(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("arch", ["timm/vit_tiny_patch16_224?depth=1", "vit_b_16", "swin_t"])
def test_a_network_without_stage_maps_is_refused_and_stays(arch):
    network = build_network(arch, 2, weights=None)
    with pytest.raises(MedclfError, match=r"pooling"):
        pool_by(network, "stages")
    assert not isinstance(network[0], AllStages)


def test_images_are_alike_by_the_last_stage():
    body = AllStages(build_body("resnet18", weights=None))
    features = np.arange(2 * 1024).reshape(2, 1024)
    assert of_last_stage(body, features).tolist() == features[:, 512:].tolist()
    assert of_last_stage(body.chain(), features) is features
