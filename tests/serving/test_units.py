"""POST /v1/predict_unit: a zip file of images is one unit."""

from __future__ import annotations

import functools
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from medclf.demo_dicom import draw_ct
from medclf.errors import ReadError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.predictor import Prediction, UnitPrediction
from medclf.serving.app import create_app, running
from medclf.serving.limits import Limits

from .conftest import Brightness

PNG = {"content-type": "image/png"}
ZIP = {"content-type": "application/zip"}


class Brightest(Brightness):
    """Its brightest image decides."""

    unit_rule = SimpleNamespace(unit="patient")

    def predict_unit_pixels(self, images: Sequence[np.ndarray | ReadError]) -> UnitPrediction:
        problems = {k: one.problem for k, one in enumerate(images) if isinstance(one, ReadError)}
        if len(problems) == len(images):
            raise ReadError("the unit", "none of its images can be read")
        counted = [None if isinstance(one, ReadError) else float(one.mean() / 255) for one in images]
        light = max(value for value in counted if value is not None)
        answer = Prediction("light" if light > 0.5 else "dark", {"dark": 1 - light, "light": light}, 0)
        return UnitPrediction(answer, counted, problems)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(Brightest(), limits=Limits(max_bytes=2**20, decode_seconds=60))) as found:
        yield found


def _zip(**files: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"{name}.png", content)
    return body.getvalue()


def test_the_model_says_what_it_answers_for(address: str, url: str) -> None:
    assert [httpx.get(f"{one}/v1/model", timeout=60).json()["unit"] for one in (address, url)] == ["patient", None]


def test_a_zip_file_gets_one_answer_with_the_image_that_decided(address: str, picture: Callable[..., bytes]) -> None:
    body = _zip(a=picture(51), b=picture(204), broken=b"no image", a_mask=picture(255))
    said = httpx.post(f"{address}/v1/predict_unit", content=body, headers=ZIP, timeout=60).json()
    assert (said["label"], said["decided_by"]) == ("light", "b.png")
    assert said["probs"]["light"] == pytest.approx(0.8, abs=0.01)
    assert said["images"] == pytest.approx({"a.png": 0.2, "b.png": 0.8}, abs=0.01)
    assert list(said["problems"]) == ["a_mask.png", "broken.png"]
    for kind in ("application/x-zip-compressed", "application/octet-stream"):
        again = httpx.post(f"{address}/v1/predict_unit", content=body, headers={"content-type": kind}, timeout=60)
        assert again.json() == said


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"no zip", ZIP, 422),
        (_zip(), ZIP, 422),
        (_zip(broken=b"no image"), ZIP, 422),
        (b"x", {"content-type": "image/png"}, 415),
        (b"x" * 2**21, ZIP, 413),
    ],
)
def test_what_is_no_unit_is_refused(address: str, body: bytes, headers: dict[str, str], status: int) -> None:
    answer = httpx.post(f"{address}/v1/predict_unit", content=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]


def test_parameters_of_a_single_image_are_refused(address: str, picture: Callable[..., bytes]) -> None:
    """They were passed over."""
    body = _zip(a=picture(51))
    answer = httpx.post(f"{address}/v1/predict_unit?saliency=true", content=body, headers=ZIP, timeout=60)
    assert answer.status_code == 422 and "'saliency' for a unit" in answer.json()["error"]


def test_a_model_without_units_says_so(url: str, picture: Callable[..., bytes]) -> None:
    answer = httpx.post(f"{url}/v1/predict_unit", content=_zip(a=picture(51)), headers=ZIP, timeout=60)
    assert answer.status_code == 422
    assert "each image alone" in answer.json()["error"]


def test_each_frame_of_a_file_in_the_zip_is_an_image(picture: Callable[..., bytes]) -> None:
    model, body = Brightest(), io.BytesIO()
    model.preprocessing = Preprocessing(32, frame="all")
    pages = [Image.new("L", (40, 40), grey) for grey in (51, 204, 51)]
    stack = io.BytesIO()
    pages[0].save(stack, "TIFF", save_all=True, append_images=pages[1:])
    with zipfile.ZipFile(body, "w") as archive:
        archive.writestr("stack.tif", stack.getvalue())
        archive.writestr("z.png", picture(102))
    with running(create_app(model, limits=Limits(max_bytes=2**20, decode_seconds=60))) as address:
        post = functools.partial(httpx.post, timeout=60)
        said = post(f"{address}/v1/predict_unit", content=body.getvalue(), headers=ZIP).json()
        alone = post(f"{address}/v1/predict", content=stack.getvalue(), headers={"content-type": "image/tiff"})
    assert said["decided_by"] == "stack.tif#1" and len(said["images"]) == 4
    assert alone.status_code == 422 and "holds 3 frames" in alone.text


def test_a_unit_that_is_long_in_unpacking_keeps_no_one_waiting(
    monkeypatch: pytest.MonkeyPatch, picture: Callable[..., bytes], quick_decoder: type
) -> None:
    released, unpacking = threading.Event(), []

    def slow(*given: object, **limits: int) -> Iterator[tuple[str, bytes]]:
        unpacking.append(1)
        assert released.wait(30)
        yield "a.png", b"x"

    monkeypatch.setattr("medclf.serving.service.read_members", slow)
    with running(create_app(Brightest())) as found, ThreadPoolExecutor(2) as pool:
        place = f"{found}/v1/predict_unit"
        answers = [pool.submit(httpx.post, place, content=_zip(a=b"x"), headers=ZIP, timeout=60) for _ in range(2)]
        while not unpacking:
            time.sleep(0.01)
        assert httpx.get(f"{found}/healthz", timeout=5).status_code == 200
        assert httpx.post(f"{found}/v1/predict", content=picture(), headers=PNG, timeout=5).status_code == 200
        assert len(unpacking) == 1  # one unit at a time, however much its file unpacks to
        released.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]


def test_files_of_several_patients_are_told(address: str, tmp_path: Path) -> None:
    draw_ct(tmp_path, n_patients=2, n_slices=2, size=32)
    files = sorted(tmp_path.rglob("*.dcm"))
    for chosen, told in (
        (files, True),
        ([file for file in files if file.is_relative_to(tmp_path / "patient-00")], False),
    ):
        body = _zip(**{f"slice-{k}": file.read_bytes() for k, file in enumerate(chosen)})
        said = httpx.post(f"{address}/v1/predict_unit", content=body, headers=ZIP, timeout=60).json()
        assert len(said["images"]) == len(chosen)
        assert ("name 2 patients" in said.get("note", "")) == told
