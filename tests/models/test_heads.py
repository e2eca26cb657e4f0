"""A head told as layers: fastai's own and ours agree, and what a bundle cannot tell is refused by name."""

import pytest
import torch
from fastai.layers import AdaptiveConcatPool2d, Flatten, SigmoidRange
from fastai.vision.learner import create_head
from torch import nn

from medclf.errors import BundleError
from medclf.models.backbones import build_head
from medclf.models.head_layers import check_head
from medclf.models.heads import ConcatPool, describe_head, is_plain, make_head, pooling
from medclf.models.pooling import GlobalPool


def agree(head, x):
    again = make_head(describe_head(head))
    again.load_state_dict(head.state_dict())  # the names are the same
    with torch.no_grad():
        assert torch.allclose(again.eval()(x), head.eval()(x), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lin_ftrs": [16], "ps": 0.5},
        {"lin_ftrs": [16, 8], "ps": [0.1, 0.2, 0.3], "bn_final": True},
        {"concat_pool": False, "first_bn": False},
        {"lin_first": True, "lin_ftrs": [16]},
        {"y_range": (-1, 2)},
    ],
)
def test_fastais_heads_come_back_from_their_description(options):
    agree(create_head(12, 3, **options), torch.randn(4, 12, 5, 5))


def test_a_head_of_ones_own_comes_back():
    inner = nn.Sequential(nn.Linear(24, 10), nn.GELU(), nn.LayerNorm(10))
    head = nn.Sequential(AdaptiveConcatPool2d(), Flatten(), inner, nn.LeakyReLU(0.2), SigmoidRange(0, 1))
    agree(head, torch.randn(4, 12, 5, 5))


def test_concat_pool_is_fastais():
    x = torch.randn(4, 12, 5, 7)
    assert torch.equal(ConcatPool()(x), AdaptiveConcatPool2d()(x).flatten(1))
    tokens = torch.randn(2, 6, 4)
    assert torch.equal(ConcatPool(class_token=True)(tokens)[:, 4:], tokens[:, 0])


def test_only_our_own_head_is_plain():
    assert is_plain(build_head(8, 2))
    for head in (
        create_head(8, 2),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 2)),
    ):
        assert not is_plain(head)
        assert isinstance(pooling(head), GlobalPool)


class Mine(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


@pytest.mark.parametrize("head", [Mine(), nn.Sequential(Mine(), nn.Linear(8, 2)), nn.Sequential(nn.Flatten(2))])
def test_what_cannot_be_told_is_refused_by_name(head):
    with pytest.raises(BundleError, match=r"Mine|Flatten"):
        describe_head(head)


@pytest.mark.parametrize(
    "layers",
    [
        "Linear",
        [{"layer": "os.system"}],
        [{"layer": "Linear", "in_features": 8, "out_features": 2}],
        [{"layer": "Linear", "in_features": 2**40, "out_features": 2, "bias": True}],
        [{"layer": "AdaptiveAvgPool2d", "output_size": 10**6}],
        [{"layer": "Dropout", "p": float("nan")}],
        [{"layer": "Dropout", "p": 0.5, "inplace": True}],
        [{"layer": "ReLU"}] * 300,
    ],
)
def test_a_description_that_no_head_has_is_refused(layers):
    with pytest.raises(BundleError, match="head"):
        check_head(layers)


def test_nesting_has_an_end():
    layers = [{"layer": "ReLU"}]
    for _ in range(50):
        layers = [{"layer": "Sequential", "layers": layers}]
    with pytest.raises(BundleError, match="head"):
        check_head(layers)
