"""Strided convolutions of single pixels, which torch's own backward pass cannot do everywhere."""

import pytest
import torch
from torch import nn

from medclf.models.backbones import build_network
from medclf.models.cut import SubsampledConv2d, subsample_first


@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_it_gives_what_torchs_own_gives(stride):
    own = nn.Conv2d(3, 5, 1, stride)
    wanted_x = torch.rand(2, 3, 9, 8, requires_grad=True)
    wanted = own(wanted_x)
    wanted.square().sum().backward()
    kept = {name: parameter.grad.clone() for name, parameter in own.named_parameters()}
    own.zero_grad()
    subsample_first(own.to(memory_format=torch.channels_last))
    assert type(own) is SubsampledConv2d
    x = wanted_x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = own(x)
    found.square().sum().backward()
    pairs = [(found, wanted), (x.grad, wanted_x.grad)]
    for ours, torchs in [*pairs, *((parameter.grad, kept[name]) for name, parameter in own.named_parameters())]:
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("other", [nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 4, 1), nn.Conv2d(16, 4, 1, 2)])
def test_other_convolutions_stay(other):
    subsample_first(other)
    assert type(other) is nn.Conv2d


def test_a_network_that_begins_with_one_is_trained_with_channels_last():
    network = build_network("timm/repvgg_a0", 2, weights=None).to(memory_format=torch.channels_last)
    assert sum(isinstance(module, SubsampledConv2d) for module in network.modules()) == 1
    for _ in range(2):
        network(torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
