"""The job behind medclf shortcuts: a box that only one label carries is found, told in the report and on its page."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from scipy import ndimage
from typer.testing import CliRunner

from medclf.cli import app
from medclf.errors import DataError, MedclfWarning
from medclf.images.preprocessing import Preprocessing
from medclf.models.spec import ModelSpec, Normalization
from medclf.results.predictions import Predictions
from medclf.run import shortcuts as job
from medclf.run.run import Run

SIZE, N = 64, 48


class ReadsTheBox:
    """A bundle that calls an image red if its lower left corner is green."""

    vocab = ("pale", "red")
    spec = ModelSpec("", vocab, Preprocessing(SIZE), Normalization((0.5,) * 3, (0.5,) * 3))

    def predict_pixels(self, prepared):
        corner = np.asarray(prepared, float)[:, 44:60, 4:20]
        scores = np.where((corner[..., 1] - corner[..., 0]).mean((1, 2)) > 30, 0.9, 0.1)
        return [SimpleNamespace(probs={"pale": 1 - score, "red": score}) for score in scores]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A RUN folder of images whose red ones carry a green box."""
    random, images, folder = np.random.default_rng(0), tmp_path / "images", tmp_path / "RUN"
    images.mkdir()
    folder.mkdir()
    rows = []
    for i in range(N):
        noise = ndimage.gaussian_filter(random.normal(size=(SIZE, SIZE, 3)), (4, 4, 0))
        pixels = (130 + 30 * noise / noise.std()).clip(30, 225).astype(np.uint8)
        if i % 2:
            pixels[42:62, 2:22] = (18, 112, 62)
        Image.fromarray(pixels).save(images / f"{i:02d}.png")
        part = "valid" if i < N // 2 else "train"
        rows.append({"path": f"{i:02d}.png", "label": ["pale", "red"][i % 2], "patient": "", "partition": part})
    table = pd.DataFrame(rows).assign(width=SIZE, height=SIZE, sha256="x", problem="")
    table.to_csv(folder / "table.csv", index=False)
    y = np.arange(N) % 2
    probs = np.eye(2)[y] * 0.8 + 0.1
    Predictions(["pale", "red"], False, y, probs, np.zeros(N), table).save(folder / "predictions.csv")
    facts = {"vocab": ["pale", "red"], "task": "single-label", "n": N, "card": {"intended use": "tests"}}
    (folder / "results.json").write_text(json.dumps(facts))
    (folder / "run.json").write_text(json.dumps({"root": str(images), "settings": {"hide_names": False}}))
    monkeypatch.setattr(job.Run, "bundle", ReadsTheBox())
    return folder


def test_the_box_is_told_on_its_page_and_in_the_report(run):
    test, page = job.shortcuts(run)
    assert page == run / "shortcuts.html" and page.is_file()
    assert test.n_images == N // 2  # the held-out ones are enough
    assert "of the predictions of 'red'" in test.sentences[0]
    facts = json.loads((run / "results.json").read_text())
    assert facts["shortcuts"]["sentences"][0]["finding"] == test.sentences[0]
    robustness = facts["checklist"]["items"][29]
    assert robustness["answer"].startswith("Shortcuts: Overlay 1")
    assert facts["checklist"]["items"][40]["answer"] == "tests"  # the card's answers stay
    report = (run / "report.html").read_text()
    assert "Shortcuts" in report and "of the predictions of" in report


def test_all_images_where_few_are_held_out(run):
    table = pd.read_csv(run / "table.csv")
    table["partition"] = ["valid" if i < 12 else "train" for i in range(N)]
    table.to_csv(run / "table.csv", index=False)
    test, page = job.shortcuts(run)
    assert test.n_images == N and "Some of these images were used for training" in page.read_text()


def test_no_picture_where_an_image_often_has_a_name_in_it(run, tmp_path):
    shutil.copy(get_testdata_file("examples_palette.dcm"), tmp_path / "images" / "00.png")  # an ultrasound
    text = job.shortcuts(run)[1].read_text()
    assert "Pictures are withheld: 1 of 24 images" in text and "data:image" not in text
    assert "data:image" in job.shortcuts(run, show_burned_in=True)[1].read_text()


def test_from_the_shell_with_a_box_of_ones_own(run, tmp_path):
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        app, ["shortcuts", str(run), "--out", str(page), "--box", "0.5,0,1,0.5", "--n-per-label", "12"]
    )
    assert done.exit_code == 0, done.output
    assert "Overlay 1 (box, bottom left)" in done.output and "top right" in page.read_text()
    done = CliRunner().invoke(app, ["shortcuts", str(run), "--box", "left"])
    assert "--box 0,0.7,0.3,1" in str(done.exception)


def test_columns_beside_the_image_that_count_as_unknown_are_told(run, monkeypatch):
    monkeypatch.setattr(ReadsTheBox, "fields", [{"name": "age", "kind": "number"}], raising=False)
    with pytest.warns(MedclfWarning, match="uses 'age' beside the image, and here all of that counts as unknown"):
        _, page = job.shortcuts(run)
    assert "The model uses &#39;age&#39; beside the image" in page.read_text()


def test_options_of_a_scan_need_data_to_scan(run):
    done = CliRunner().invoke(app, ["shortcuts", str(run), "--drop", "red"])
    assert isinstance(done.exception, DataError) and "drop" in str(done.exception) and "data" in str(done.exception)
    assert not (run / "shortcuts.html").exists()


def test_the_table_of_a_run_comes_back(run, tmp_path):
    opened = Run(run)
    table = opened.table
    assert table.attrs["root"] == str(tmp_path / "images") and not table.attrs["multi_label"]
    assert table["patient"].isna().all() and list(table["label"][:2]) == ["pale", "red"]
    assert opened.images == tmp_path / "images"
    (run / "run.json").write_text(json.dumps({"root": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match="images are not at"):
        Run(run).images  # noqa: B018
    with pytest.raises(DataError, match="not a RUN folder"):
        Run(tmp_path).results  # noqa: B018
