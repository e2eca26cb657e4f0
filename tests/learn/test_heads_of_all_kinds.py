"""Heads beyond one linear layer, all the way: trained, reported, saved, exported, served, and the same answers."""

import httpx
import numpy as np
import pytest
import torch
from fastai.layers import Flatten
from PIL import Image

from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.onnx import OnnxModel, export_onnx
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.interpretation import MedInterpretation
from medclf.learn.learner import med_learner
from medclf.reporting.report import report
from medclf.serving.app import create_app, running

LAYERS = [torch.nn.AdaptiveAvgPool2d(1), Flatten(), torch.nn.Linear(8, 6), torch.nn.GELU(), torch.nn.Linear(6, 2)]


def small(pretrained=False):
    stem = [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.ReLU()]
    return torch.nn.Sequential(*stem, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 10))


def hidden_after_a_probe(learn):
    """A learner whose probe was fitted gets a hidden layer in front of what the probe found."""
    pool, flat, _, linear = learn.model[1]
    learn.model[1] = torch.nn.Sequential(pool, flat, torch.nn.Linear(8, 8), torch.nn.ReLU(), linear)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lin_ftrs", "custom_head", "after a probe"])
def test_a_head_of_any_kind_is_trained_reported_exported_and_served(kind, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(16):
        file = tmp_path / "data" / ("polyp" if i % 2 else "normal") / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 150, (32, 36, 3), dtype=np.uint8)
        pixels[..., i % 2] += 100
        Image.fromarray(pixels).save(file)
    dls = MedDataLoaders.from_folder(tmp_path / "data", size=32, bs=8, progress=False)
    options = {"lin_ftrs": {"lin_ftrs": [6], "ps": 0.5}, "custom_head": {"custom_head": torch.nn.Sequential(*LAYERS)}}
    learn = med_learner(dls, small, pretrained=False, **options.get(kind, {"linear_probe": True}))
    if kind == "after a probe":
        learn.fine_tune(0)
        hidden_after_a_probe(learn)
        assert not learn.linear_probe
    with learn.no_logging():
        learn.fine_tune(1)
    interp = MedInterpretation.from_learner(learn)
    page = report(interp, tmp_path / "page" / "report.html", progress=False)
    assert "Confusion matrix" in page.read_text(encoding="utf-8")
    bundle = load_bundle(save_bundle(learn, tmp_path / "net.bundle"))
    file = dls.valid.items[0]
    wanted = learn.predict(file)[2].numpy()
    temperature = bundle.calibration.get("temperature") or 1.0
    logits = np.log(wanted) / temperature
    calibrated = np.exp(logits) / np.exp(logits).sum()
    of_bundle = list(bundle.predict(file).probs.values())
    assert np.allclose(of_bundle, calibrated, atol=1e-4)
    model = OnnxModel(export_onnx(bundle, tmp_path / "net.onnx"))
    assert np.allclose(list(model.predict(file).probs.values()), of_bundle, atol=1e-4)
    with running(create_app(bundle)) as address, httpx.Client(trust_env=False, timeout=60) as client:
        headers = {"Content-Type": "image/png"}
        answer = client.post(f"{address}/v1/predict", content=file.read_bytes(), headers=headers).json()
    assert np.allclose([answer["probs"][label] for label in bundle.vocab], of_bundle, atol=1e-4)
