"""The device that a bundle predicts on: named, refused where this machine lacks it, and moved to by torch's own way."""

import pytest
import torch

from medclf.errors import DataError, MedclfError
from medclf.images.preprocessing import Preprocessing
from medclf.inference import bundle as module
from medclf.inference.bundle import save_bundle
from medclf.inference.runtimes import load_model
from medclf.models.backbones import build_network
from medclf.models.spec import ModelSpec, Normalization


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    class Learner:
        model = build_network("resnet18", 2, weights=None)
        spec = ModelSpec("resnet18", ["a", "b"], Preprocessing(32), Normalization([0.5] * 3, [0.5] * 3))

    return save_bundle(Learner(), tmp_path_factory.mktemp("bundles") / "a.bundle", calibration={})


@pytest.mark.parametrize("device", ["mps", "cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_refused(saved, device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(DataError, match=device):
        load_model(saved, device=device)


def test_the_network_goes_to_the_device_by_name(saved, monkeypatch):
    """The name "mps" is led to the processor: what is asked for reaches every tensor."""
    asked = []
    monkeypatch.setattr(module, "usable_device", lambda name: asked.append(name) or torch.device("cpu"))
    found = load_model(saved, device="mps")
    assert asked == ["mps"] and found.device == torch.device("cpu")


def test_onnx_runtime_knows_no_device(saved):
    with pytest.raises(MedclfError, match="on the processor"):
        load_model(saved, "onnx", device="cuda")
