import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medclf.errors import BundleError, OutputError, ReadError
from medclf.images.box_places import to_file, to_prepared
from medclf.images.preprocessing import Preprocessing
from medclf.inference.detector_bundle import DetectorBundle, load_detector, save_detector
from medclf.inference.detector_format import content_hash
from medclf.inference.found_boxes import BoxPredictor
from medclf.models.detector import build_detector
from medclf.models.detector_spec import DetectorSpec
from medclf.models.spec import Normalization


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    half = Normalization([0.5] * 3, [0.5] * 3)
    made = build_detector(DetectorSpec("resnet18", ("polyp", "ulcer"), Preprocessing(64), half), weights=None)
    made.net.head.classification_head.cls_logits.bias.data.fill_(0.0)  # so that it finds something
    return made


@pytest.fixture
def saved(detector, tmp_path) -> Path:
    return save_detector(detector, tmp_path / "polyps.bundle", threshold=0.25, card={"note": "drawn"})


def test_round_trip(detector, saved) -> None:
    image = np.random.default_rng(0).integers(0, 255, (50, 80, 3)).astype(np.uint8)
    wanted, found = DetectorBundle(detector, threshold=0.25).predict(image), load_detector(saved).predict(image)
    assert found.boxes and found.threshold == 0.25
    for one, other in zip(wanted.boxes, found.boxes, strict=True):
        assert one.label == other.label
        assert [one.prob, one.x_min, one.y_max] == pytest.approx([other.prob, other.x_min, other.y_max], abs=1e-4)


def test_many_images_and_a_broken_one(saved, tmp_path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    first, second, third = load_detector(saved).predict_stream(
        [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"]
    )
    assert isinstance(second, ReadError) and first == third and (first.width, first.height) == (30, 20)


def test_a_box_that_lies_in_the_padding_alone_is_in_no_file() -> None:
    """A file of 40 x 80 in 80 x 80: twenty rows of padding above and below it."""
    spec = DetectorSpec("resnet18", ("polyp",), Preprocessing(80, "pad"), Normalization([0.5] * 3, [0.5] * 3))
    corners = np.array([[5, 2, 30, 18], [5, 30, 30, 50], [5, 10, 30, 40]], float)
    rows = (corners, np.array([0.9, 0.8, 0.7]), np.zeros(3, int))
    detector = BoxPredictor(spec, lambda prepared: [rows] * len(prepared))
    found = detector.predict(np.zeros((40, 80, 3), np.uint8))
    assert [(box.prob, box.y_min, box.y_max) for box in found.boxes] == [(0.8, 10, 30), (0.7, 0, 20)]
    (prepared,) = detector.predict_pixels(np.zeros((1, 80, 80, 3), np.uint8))
    assert len(prepared.boxes) == 3 and detector.on_file(prepared, (40, 80)) == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.5}, "was changed"),
        ({"format": 9}, "format 9"),
        ({"detector": 3}, "was changed"),
        ({"weights": None}, "was changed"),
    ],
)
def test_a_changed_bundle_is_refused(saved, change, message) -> None:
    file = saved / "detector.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BundleError, match=message):
        load_detector(saved)


@pytest.mark.parametrize(
    ("golden", "message"), [(None, "damaged"), ([[[0.0]]], "other outputs"), ([[1], []], "damaged")]
)
def test_saved_outputs_that_do_not_fit_are_refused(saved, golden, message) -> None:
    """Though somebody wrote a fitting hash."""
    file = saved / "detector.json"
    content = json.loads(file.read_text()) | {"golden": golden}
    if golden is None:
        del content["golden"]
    file.write_text(json.dumps(content | {"hash": content_hash(content)}))
    with pytest.raises(BundleError, match=message):
        load_detector(saved)


def test_damaged_files_are_refused(saved, tmp_path) -> None:
    weights = saved / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    with pytest.raises(BundleError, match="was changed"):
        load_detector(saved)
    (saved / "detector.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="damaged"):
        load_detector(saved)
    with pytest.raises(BundleError, match="not a detector's bundle"):
        load_detector(tmp_path)


def test_nothing_is_overwritten_unasked(detector, saved) -> None:
    with pytest.raises(OutputError, match="exists already"):
        save_detector(detector, saved)
    assert load_detector(save_detector(detector, saved, threshold=0.5, overwrite=True)).threshold == 0.5


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("normalization", {"mean": []}, "cannot run as described"),
        ("normalization", {"std": [0.5, 0.5]}, "cannot run as described"),
        ("preprocessing", {"size": [4096, 4096]}, "above .* pixels"),
    ],
)
def test_a_description_that_cannot_be_run_is_refused(saved, part, change, message) -> None:
    """Though somebody wrote a fitting hash."""
    file = saved / "detector.json"
    content = json.loads(file.read_text())
    content["detector"][part] |= change
    file.write_text(json.dumps(content | {"hash": content_hash(content)}))
    with pytest.raises(BundleError, match=message):
        load_detector(saved)


@pytest.mark.parametrize("resize", ["squish", "crop", "pad"])
def test_boxes_go_to_the_prepared_pixels_and_back(resize) -> None:
    """Where a white rectangle lies after preparation is where its box says."""
    image = np.zeros((90, 150, 3), np.uint8)
    image[30:60, 60:100] = 255
    how = Preprocessing((64, 64), resize)
    box = to_prepared(np.array([[60, 30, 100, 60]]), how, image.shape)
    rows, columns = np.nonzero(how.prepare(image)[..., 0] > 127)
    assert box[0] == pytest.approx([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], abs=1.2)
    assert to_file(box, how, image.shape)[0] == pytest.approx([60, 30, 100, 60], abs=1.5)
