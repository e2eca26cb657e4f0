"""A detector behind the service: boxes in the file's own pixels, as the bundle itself gives them."""

import io

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from medclf.errors import BundleError, MedclfError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.detector_bundle import DetectorBundle, save_detector
from medclf.inference.detector_onnx import OnnxDetector
from medclf.inference.found_boxes import BoxPredictor
from medclf.inference.onnx import export_onnx
from medclf.inference.runtimes import load_model
from medclf.models.detector import build_detector
from medclf.models.detector_spec import DetectorSpec
from medclf.models.spec import Normalization
from medclf.serving.app import create_app, running, serve
from medclf.serving.limits import Limits


@pytest.fixture(scope="module")
def bundle() -> DetectorBundle:
    torch.manual_seed(0)
    half = Normalization([0.5] * 3, [0.5] * 3)
    detector = build_detector(
        DetectorSpec("resnet18", ("polyp", "ulcer"), Preprocessing(64, "pad"), half), weights=None
    )
    detector.net.head.classification_head.cls_logits.bias.data.fill_(0.0)  # so that it finds something
    return DetectorBundle(detector, threshold=0.1, name="polyps", hash="0" * 64)


def test_boxes_are_those_of_the_bundle(bundle: DetectorBundle) -> None:
    _answers_as(bundle, bundle)


@pytest.mark.slow
def test_an_exported_file_answers_as_the_bundle(bundle: DetectorBundle, tmp_path) -> None:
    _answers_as(OnnxDetector(export_onnx(bundle, tmp_path / "polyps.onnx")), bundle)


def _answers_as(served: BoxPredictor, bundle: DetectorBundle) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (50, 80, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    wanted = bundle.predict(file.getvalue())
    with running(create_app(served, limits=Limits(decode_seconds=60))) as url:
        sent = {"content": file.getvalue(), "headers": {"Content-Type": "image/png"}, "timeout": 60}
        answer = httpx.post(f"{url}/v1/predict", **sent).json()
        model = httpx.get(f"{url}/v1/model", timeout=60).json()
    assert (model["vocab"], model["threshold"]) == (["polyp", "ulcer"], 0.1)
    assert wanted.shown and len(answer["boxes"]) == len(wanted.shown)
    for box, one in zip(answer["boxes"], wanted.shown, strict=True):
        assert box["label"] == one.label
        found = [box[name] for name in ("prob", "x_min", "y_min", "x_max", "y_max")]
        assert found == pytest.approx([one.prob, one.x_min, one.y_min, one.x_max, one.y_max], abs=1e-3)
    assert set(answer["label"]) == set(wanted.label) and answer["probs"] == pytest.approx(wanted.probs, abs=1e-4)


def test_what_a_detector_does_not_do_is_refused_by_name(bundle: DetectorBundle, tmp_path) -> None:
    saved = save_detector(bundle.detector, tmp_path / "polyps.bundle")
    for runtime in ("torch", "onnx"):
        with pytest.raises(BundleError, match="holds a detector"):
            load_model(saved, runtime)
    with pytest.raises(MedclfError, match="must be torch or onnx"):
        serve(saved, runtime="tensorrt")
    with pytest.raises(MedclfError, match="a detector keeps no sketches"):
        create_app(bundle, watch=tmp_path / "watch")
