"""The generalised mean: torch's own power mean, its slopes by autograd, and what heads may have it."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import lp_pool2d

from medclf.errors import BundleError, MedclfError
from medclf.models.backbones import build_head
from medclf.models.head_layers import check_head
from medclf.models.heads import ConcatPool, describe_head, is_plain, make_head, pool_by, pooling
from medclf.models.pooling import GeMPool, GlobalPool


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 8.0])
def test_it_is_torchs_power_mean(p):
    x = torch.rand(2, 4, 5, 3) * 6
    sums = lp_pool2d(x, p, kernel_size=(5, 3)).flatten(1)
    torch.testing.assert_close(GeMPool(p)(x), sums / 15 ** (1 / p), rtol=1e-4, atol=1e-5)


def test_the_higher_the_power_the_nearer_to_the_largest():
    x = torch.rand(3, 6, 4, 4)
    found = [GlobalPool()(x), *(GeMPool(p)(x) for p in (2.0, 5.0, 60.0)), x.amax(dim=(2, 3))]
    assert all((low <= high + 1e-6).all() for low, high in pairwise(found))
    torch.testing.assert_close(found[0], GeMPool(1.0)(x))


def test_tokens_and_vectors_are_taken_too_and_nothing_below_zero():
    tokens = torch.tensor([[[1.0], [7.0]]])
    assert GeMPool(2.0)(tokens).tolist() == [[5.0]] and GeMPool()(tokens[:, 0]).tolist() == [[1.0]]
    assert float(GeMPool()(torch.full((1, 1, 2, 2), -3.0))) == pytest.approx(0, abs=1e-5)


def test_half_precision_does_not_overflow():
    x = torch.full((1, 2, 3, 3), 60.0, dtype=torch.float16)  # whose cube float16 does not hold
    assert GeMPool()(x).dtype == torch.float16 and GeMPool()(x).tolist() == [[60.0, 60.0]]


def test_slopes_are_the_gradients_summed_over_the_map():
    x = (torch.rand(2, 3, 4, 5) - 0.2).requires_grad_()
    (gradients,) = torch.autograd.grad(GeMPool()(x).sum(), x)
    torch.testing.assert_close(GeMPool().slopes(x.detach())[..., 0, 0], gradients.sum(dim=(2, 3)), rtol=1e-4, atol=1e-6)


def test_a_head_that_has_it_stays_plain_and_comes_back_from_its_description():
    head = build_head(4, 2).eval()
    network = nn.Sequential(nn.Identity(), head)
    pool_by(network, "gem")
    assert is_plain(head) and isinstance(pooling(head), GeMPool)
    again = make_head(describe_head(head)).eval()
    again.load_state_dict(head.state_dict())
    x = torch.rand(2, 4, 3, 3)
    assert torch.equal(again(x), head(x)) and again[0].p == 3
    pool_by(network, "mean")
    assert type(head[0]) is GlobalPool


@pytest.mark.parametrize(
    "head",
    [
        build_head(4, 2, class_token=True),
        build_head(4, 2, pool=nn.Identity()),
        nn.Sequential(ConcatPool(), nn.Flatten(), nn.Dropout(), nn.Linear(8, 2)),
        nn.Sequential(GlobalPool(), nn.Linear(4, 2)),
    ],
)
def test_other_heads_refuse_it(head):
    before = str(head)
    with pytest.raises(MedclfError, match="ends otherwise"):
        pool_by(nn.Sequential(nn.Identity(), head), "gem")
    assert str(head) == before


@pytest.mark.parametrize("p", [0.5, -1, "3", float("inf"), None])
def test_a_bundle_with_another_power_is_refused(p):
    with pytest.raises(BundleError, match="GeMPool"):
        check_head([{"layer": "GeMPool", "p": p}])
