"""Features are the means over what the body gives, whatever the batches, and images that cannot be read are said."""

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from medclf.models.backbones import build_body, describe
from medclf.models.features import embed_table, extract, pooled_features, stage_widths
from medclf.models.pooling import GlobalPool
from medclf.models.stage_maps import last_stage


def test_extract_is_the_mean_of_what_the_body_gives():
    body = nn.Conv2d(1, 2, 1)
    body.weight.data, body.bias.data = torch.tensor([[[[2.0]]], [[[-1.0]]]]), torch.tensor([0.0, 10.0])
    images = torch.arange(12.0).view(3, 1, 2, 2)  # means 1.5, 5.5, 9.5
    expected = [[3.0, 8.5], [11.0, 4.5], [19.0, 0.5]]
    for step in (None, 1, 2):
        assert extract(body, GlobalPool(), [images[:2], images[2:]], step=step).tolist() == expected


def test_embed_table_is_the_backbone_on_normalised_pixels(tmp_path):
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    names = [f"{i}.png" for i in range(5)]
    for image, name in zip(pixels, names, strict=True):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes(b"no image")
    weights = tmp_path / "weights.pth"
    body = build_body("resnet18", weights=None).eval()
    torch.save(body.state_dict(), weights)
    table = pd.DataFrame({"path": names})
    table.attrs["root"] = str(tmp_path)
    found = embed_table(table, "resnet18", weights=weights, size=32, bs=2, progress=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in describe("resnet18").normalization())
    with torch.no_grad():
        x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
        expected = body(x).mean((2, 3)).numpy()
    assert np.isnan(found[3]).all() and not np.isnan(np.delete(found, 3, 0)).any()
    assert np.allclose(np.delete(found, 3, 0), np.delete(expected, 3, 0), atol=1e-4)
    wide = embed_table(table, "resnet18", weights=weights, size=32, bs=2, all_stages=True, progress=False)
    widths = stage_widths("resnet18")
    assert wide.shape == (5, sum(widths)) and np.isnan(wide[3]).all()
    assert np.allclose(last_stage(wide, widths), found, atol=1e-4, equal_nan=True)
    with torch.no_grad():
        first = body[:4](x).mean((2, 3)).numpy()  # the stem is the first stage
    assert np.allclose(np.delete(wide[:, : widths[0]], 3, 0), np.delete(first, 3, 0), atol=1e-4)


def test_a_network_that_is_no_chain_gives_its_last_features_alone(tmp_path):
    Image.new("L", (40, 40), 90).save(tmp_path / "a.png")
    table = pd.DataFrame({"path": ["a.png"]})
    table.attrs["root"] = str(tmp_path)
    given = {"weights": None, "progress": False}
    assert stage_widths("vit_b_16") == ()
    assert embed_table(table, "vit_b_16", all_stages=True, **given).shape == (1, 768)


def test_pooled_features_are_what_the_linear_layer_sees_and_no_hook_stays():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(GlobalPool(), nn.Dropout(0.5), nn.Linear(2, 1))).eval()
    x = torch.rand(3, 1, 4, 4)
    with pooled_features(network) as kept:
        network(x)
    network(x)
    assert len(kept) == 1 and torch.equal(kept[0], network[0](x).mean((2, 3)))
