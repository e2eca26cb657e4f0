"""Pictures whose pixels may show a patient's name are in no report unless they are asked for."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from medclf.images.phi import read_picture, withheld_among
from medclf.images.preprocessing import Preprocessing
from medclf.reporting.report import render, report

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
NAMED = {
    "ultrasound.dcm": {"Modality": "US"},
    "capture.dcm": {"SOPClassUID": SECONDARY_CAPTURE},
    "flagged.dcm": {"BurnedInAnnotation": "YES"},
}
REASONS = ["ultrasound", "a secondary capture", "its burned-in flag is YES"]
SHOWN = {"plain.dcm": {}, "unflagged.dcm": {"BurnedInAnnotation": "NO"}}


@pytest.fixture
def run(tmp_path):
    """A RUN folder of four kinds of DICOM files and a PNG."""
    images, run = tmp_path / "images", tmp_path / "RUN"
    images.mkdir()
    run.mkdir()
    for name, values in {**NAMED, **SHOWN}.items():
        dataset = dcmread(get_testdata_file("CT_small.dcm"))
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
        dataset.save_as(images / name)
    Image.fromarray(np.arange(900, dtype=np.uint8).reshape(30, 30)).save(images / "scope.png")
    paths = [*NAMED, *SHOWN, "scope.png"]
    rows = {"path": paths, "partition": "valid", "label": "a", "pred": "a", "loss": 0.1, "prob_a": 0.9, "prob_b": 0.1}
    pd.DataFrame(rows).to_csv(run / "predictions.csv", index=False)
    facts = {"task": "single-label", "partition": "valid", "n": 6, "vocab": ["a", "b"]}
    (run / "results.json").write_text(json.dumps(facts | {"confusion_matrix": [[6, 0], [0, 0]]}))
    (run / "run.json").write_text(json.dumps({"root": str(images)}))
    return run


def absences(page):
    """Why each row has no picture; "" where it has one."""
    data = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    facts = json.loads(data[1])
    return [facts["absence"][-1 - place] if place < 0 else "" for place in facts["place"]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("beside", [False, True])
def test_they_are_withheld_unless_asked_for(run, tmp_path, beside):
    assets = {"assets": tmp_path / "pictures"} if beside else {}
    page = report(run, progress=False, **assets)
    assert absences(page) == [f"Picture withheld: {reason}" for reason in REASONS] + [""] * 3
    assert not beside or len(list((tmp_path / "pictures").iterdir())) == 6  # three thumbnails, and three larger
    assert "3 pictures are withheld" in page.read_text()
    shown = report(run, progress=False, show_burned_in=True, **assets)
    assert absences(shown) == [""] * 6


@pytest.mark.filterwarnings("ignore")
def test_a_heat_map_does_not_hide_that_its_picture_is_withheld(run, tmp_path):
    rows = pd.read_csv(run / "predictions.csv").assign(saliency="data:image/png;base64,iVBORw0KGgo=", pred="b")
    rows["neighbours"] = "ultrasound.dcm"

    def read(row):
        return read_picture(tmp_path / "images", Preprocessing(), False, row)

    page = render(json.loads((run / "results.json").read_text()), rows, tmp_path / "page.html", read=read)
    assert absences(page)[:3] == [f"Picture withheld: {reason}" for reason in REASONS]
    data = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    assert json.loads(data[1])["saliency"] == 3  # as many maps can be switched on as there are pictures
    assert page.read_text().count("Picture withheld: ultrasound") >= 2  # among the errors, which need no script, too


def test_how_many_are_withheld(run, tmp_path):
    found = withheld_among(tmp_path / "images", ["scope.png", *NAMED, *SHOWN])
    assert found == dict(zip([1, 2, 3], REASONS, strict=True))


def test_a_shortcut_test_shows_no_picture_where_one_file_is_of_these(run, tmp_path):
    from medclf.run.shortcuts import _why_withheld

    table = pd.DataFrame({"path": [*SHOWN, "scope.png"], "problem": ""})
    table.attrs["root"] = str(tmp_path / "images")
    assert not _why_withheld(table)
    for named in NAMED:
        table.loc[0, "path"] = named
        assert _why_withheld(table)
