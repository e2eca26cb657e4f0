"""Weights as other programs lay them out, against the network they were saved from."""

import pytest
import torch
from torch import nn

from medclf.errors import WeightsError
from medclf.models import weights
from medclf.models.backbones import build_body
from medclf.models.checkpoint_layouts import LAYOUTS, Layout


@pytest.fixture
def body():
    torch.manual_seed(1)
    return build_body("resnet18", weights=None)


def saved(tmp_path, state, nest=None):
    torch.save({nest: state, "epoch": 3} if nest else state, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    ("nest", "prefix"), [(nest, prefix) for row in LAYOUTS for nest in (None, *row.nests) for prefix in row.prefixes]
)
def test_each_row_is_read(body, tmp_path, nest, prefix):
    state = {f"{prefix}{key}": value for key, value in body.state_dict().items()} | {"other.bias": torch.zeros(3)}
    if not prefix:
        state.pop("other.bias")  # without a prefix nothing tells other parts from the body
    found = build_body("resnet18", weights=saved(tmp_path, state, nest))
    assert torch.equal(found.conv1.weight, body.conv1.weight)


def test_densenets_of_old(tmp_path):
    torch.manual_seed(2)
    network = build_body("densenet121", weights=None)
    state = {}
    for key, value in network.state_dict().items():
        for part in ("norm", "conv"):
            for number in "12":
                key = key.replace(f"{part}{number}.", f"{part}.{number}.") if "denselayer" in key else key
        state[key] = value
    assert any("norm.1" in key for key in state)
    found = build_body("densenet121", weights=saved(tmp_path, state))
    for (name, one), other in zip(found.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_one_more_row_is_one_more_layout(body, tmp_path, monkeypatch):
    state = {f"encoder_q.{key}".replace("conv1", "first"): value for key, value in body.state_dict().items()}
    path = saved(tmp_path, state, "moco")
    with pytest.raises(WeightsError):
        build_body("resnet18", weights=path)
    row = Layout("MoCo", nests=("moco",), prefixes=("encoder_q.",), renames=((r"first", "conv1"),))
    monkeypatch.setattr(weights, "LAYOUTS", [*LAYOUTS, row])
    assert torch.equal(build_body("resnet18", weights=path).conv1.weight, body.conv1.weight)


def test_what_fits_no_row_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="does not fit"):
        build_body("resnet18", weights=saved(tmp_path, nn.Conv2d(3, 6, 3).state_dict()))
