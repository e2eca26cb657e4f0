"""Sketches that the service keeps: one an answer where it is asked to, and neither pixels nor names in them."""

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pydicom.data
import pytest

from medclf.errors import OutputError
from medclf.inference.sketches import FILE, read_sketches
from medclf.serving.app import create_app, running
from medclf.serving.decoder_worker import facts_of

PNG = {"Content-Type": "image/png"}
CLIENT = httpx.Client(timeout=60)


@pytest.fixture
def watched(bundle: Any) -> Any:
    """The bundle by hand, with features."""

    def predict_with_features(pixels: np.ndarray) -> tuple[list[Any], np.ndarray]:
        return bundle.predict_pixels(pixels), pixels.mean((1, 2))

    bundle.predict_with_features = predict_with_features
    return bundle


def test_each_answer_leaves_a_sketch_under_the_id_that_it_carries(
    watched: Any, quick_decoder: type, picture: Any, tmp_path: Path
) -> None:
    with running(create_app(watched, watch=tmp_path)) as address:
        answers = [CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG).json() for _ in range(3)]
    rows = read_sketches(tmp_path)
    assert [row["id"] for row in rows] == [answer["sketch"] for answer in answers]
    assert len({row["id"] for row in rows}) == 3 and len({row["image"] for row in rows}) == 1
    assert rows[0]["probs"] == pytest.approx(answers[0]["probs"], abs=1e-4)
    assert len((tmp_path / FILE).read_bytes()) < 3 * 2**10


def test_an_image_to_try_the_service_with_leaves_no_sketch(
    watched: Any, quick_decoder: type, picture: Any, tmp_path: Path
) -> None:
    with running(create_app(watched, watch=tmp_path)) as address:
        answer = CLIENT.post(f"{address}/v1/predict?sketch=false", content=picture(), headers=PNG).json()
    assert "sketch" not in answer and answer["label"] and read_sketches(tmp_path) == []


def test_without_a_folder_nothing_is_kept_or_said(watched: Any, quick_decoder: type, picture: Any) -> None:
    with running(create_app(watched)) as address:
        assert "sketch" not in CLIENT.post(f"{address}/v1/predict", content=picture(), headers=PNG).json()


def test_a_folder_that_cannot_be_written_is_refused_at_the_start(watched: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        create_app(watched, watch=tmp_path / "file")


def test_of_dicom_the_decoder_tells_size_kind_and_device_and_no_name() -> None:
    facts = facts_of(Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes())
    assert (facts["width"], facts["height"]) == (128, 128)
    assert facts["tags"]["modality"] == "CT" and "GE MEDICAL" in facts["tags"]["scanner"]
    assert "CompressedSamples" not in str(facts)  # the file's patient
