"""`predict --unit`: files, folders, zip files and frames as one unit."""

from __future__ import annotations

import json
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import medclf.run.predict_unit as module
from medclf.cli import app
from medclf.demo_dicom import draw_ct
from medclf.errors import DataError, MedclfWarning, ReadError
from medclf.images.preprocessing import Preprocessing
from medclf.inference.predictor import Predictor
from medclf.models.spec import ModelSpec, Normalization
from medclf.run.predict_unit import predict_unit


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch) -> Predictor:
    """Answers by how bright an image is: its logit is the mean of its pixels over 64, less 2."""
    half = Normalization([0.5] * 3, [0.5] * 3)
    spec = ModelSpec("resnet18", ("normal", "polyp"), Preprocessing(32), half)
    content = {"hash": "x", "recipe": spec.as_dict(), "card": {}}
    content["calibration"] = {"unit": {"by": "patient", "answer": "max", "finding": 1}}

    def forward(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = pixels.reshape(len(pixels), -1).mean(axis=1)
        return np.stack([np.zeros(len(means)), means / 64 - 2], axis=1), means[:, None]

    found = Predictor(content, "drawn", forward)
    monkeypatch.setattr(module, "opened", lambda *_, **__: found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, grey in (("dark", 20), ("bright", 240), ("middle", 128)):
        Image.new("L", (40, 40), grey).save(tmp_path / f"{name}.png")
    return tmp_path


def test_a_folder_is_one_unit_and_its_brightest_image_decides(folder: Path) -> None:
    found = predict_unit("RUN", folder)
    assert found.label == "polyp"
    assert found.decided_by == str(folder / "bright.png")
    assert found.probs["polyp"] == pytest.approx(1 / (1 + np.exp(2 - 240 / 64)))
    assert len(found.images) == 3


def test_a_file_that_is_given_twice_counts_once(folder: Path) -> None:
    found = predict_unit("RUN", [folder / "bright.png", folder, folder / ".." / folder.name / "dark.png"])
    assert found.images == predict_unit("RUN", folder).images


def test_files_and_a_zip_file_give_the_folders_answer(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.glob("*.png"))
    packed = tmp_path / "unit.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
        archive.writestr("__MACOSX/._bright.png", b"x")
        archive.write(files[0], f"study/{files[0].stem}_mask.png")
    with pytest.warns(MedclfWarning, match="_mask.png: left out as a mask"):
        predict_unit("RUN", packed)
    assert predict_unit("RUN", files).probs == predict_unit("RUN", packed).probs
    assert predict_unit("RUN", packed).decided_by == f"{packed}/study/bright.png"


def test_each_frame_of_a_file_is_an_image_where_it_was_in_training(tmp_path: Path, model: Predictor) -> None:
    """The service looked at one frame, the shell at all of them."""
    pages = [Image.new("L", (40, 40), grey) for grey in (10, 30, 200)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(MedclfWarning, match=r"1 of 1 files holds several frames.*the middle one of each is used"):
        found = predict_unit("RUN", tmp_path / "stack.tif")
    assert list(found.images) == [str(tmp_path / "stack.tif")]
    assert found.probs["polyp"] == pytest.approx(1 / (1 + np.exp(2 - 30 / 64)))
    model.spec = replace(model.spec, preprocessing=replace(model.spec.preprocessing, frame="all"))
    found = predict_unit("RUN", tmp_path / "stack.tif")
    assert len(found.images) == 3 and found.decided_by.endswith("stack.tif#2")
    whole = model.predict_unit([tmp_path / "stack.tif"])
    assert whole.answer.probs == found.probs and whole.decided_by == 2
    assert model.predict_unit([(tmp_path / "stack.tif").read_bytes()]).contributions == whole.contributions


def test_broken_images_are_named_and_survived(folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    found = predict_unit("RUN", folder)
    assert list(found.problems) == [str(folder / "broken.png")]
    with pytest.raises(ReadError, match="none of its 1 images"):
        predict_unit("RUN", folder / "broken.png")


def test_a_zip_file_without_images_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.zip"
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(DataError, match="holds no file"):
        predict_unit("RUN", empty)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(2**20))
    monkeypatch.setattr("medclf.inference.zipped.MOST_BYTES_OF_ONE", 1000)
    with pytest.raises(DataError, match="too large"):
        predict_unit("RUN", bomb)


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_the_shell_prints_one_answer(form: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medclf.parallel.settle_threads", lambda: None)
    options = [] if form == "text" else [f"--{form}"]
    done = CliRunner().invoke(app, ["predict", str(folder), str(folder), "--unit", *options])
    assert done.exit_code == 0, done.output
    if form == "json":
        said = json.loads(done.stdout)
        assert (said["label"], said["n_images"]) == ("polyp", 3)
        assert said["decided_by"] == str(folder / "bright.png")
    else:
        assert "bright.png" in done.stdout
        assert len(done.stdout.splitlines()) == (2 if form == "csv" else 5)


def test_a_model_that_has_no_units_says_how_to_get_them(folder: Path, model: Predictor) -> None:
    model.unit_rule = None
    with pytest.raises(Exception, match="each image alone"):
        predict_unit("RUN", folder)


def test_headers_of_several_patients_are_told_and_one_answer_is_given(tmp_path: Path) -> None:
    draw_ct(tmp_path, n_patients=2, n_slices=1, size=32)
    said = (
        "headers of these images name 2 patients, and all of them get one answer: give those of one patient at a time"
    )
    with pytest.warns(MedclfWarning, match=said):
        assert len(predict_unit("RUN", tmp_path).images) == 2
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for file in sorted(tmp_path.rglob("*.dcm")):
            archive.write(file, file.relative_to(tmp_path))
    with pytest.warns(MedclfWarning, match=said):
        assert len(predict_unit("RUN", tmp_path / "both.zip").images) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        predict_unit("RUN", tmp_path / "patient-00")


def test_folders_of_several_patients_are_told(tmp_path: Path) -> None:
    for n in (1, 2):
        (tmp_path / f"patient{n}").mkdir()
        Image.new("L", (40, 40), 90 * n).save(tmp_path / f"patient{n}" / "1.png")
    with pytest.warns(MedclfWarning, match="the folders of these images name 2 patients, and all of them get one"):
        assert len(predict_unit("RUN", tmp_path).images) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        predict_unit("RUN", tmp_path / "patient1")


def test_a_value_after_unit_is_told_from_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medclf.parallel.settle_threads", lambda: None)
    done = CliRunner().invoke(app, ["predict", str(folder), str(folder), "--unit", "patient"])
    assert "--unit takes no value here, and 'patient' is one" in str(done.exception)
