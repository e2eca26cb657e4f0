"""What a page takes from a RUN folder beyond predictions: neighbours, twins, and which pixels it must not show."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from medclf.errors import DataError
from medclf.reporting.report import Reported, report
from medclf.results.run_folder import RunFolder


@pytest.fixture
def run(factory: Any, tmp_path: Path) -> Path:
    """A run of twelve images, and three more in train; image 0 is an ultrasound file, image 1 a CT."""
    paths = [f"{i:02}.dcm" if i < 2 else f"{i:02}.png" for i in range(12)]
    data = factory(labels=["x", "y"] * 6, paths=paths)
    images = tmp_path / "images"
    images.mkdir()
    for path, file in zip(paths, ("examples_palette.dcm", "CT_small.dcm"), strict=False):
        shutil.copy(get_testdata_file(file), images / path)
    for path in [*paths[2:], "t0.png", "t1.png", "t2.png"]:
        Image.fromarray(np.full((12, 12), 99, np.uint8)).save(images / path)
    folder = tmp_path / "RUN"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(data.facts))
    (folder / "run.json").write_text(json.dumps({"root": str(images)}))
    data.rows.to_csv(folder / "predictions.csv", index=False)
    table = pd.concat([data.rows[["path", "label"]], pd.DataFrame({"path": ["t0.png", "t1.png"], "label": ["x", "y"]})])
    table.to_csv(folder / "table.csv", index=False)
    return folder


def page_data(made: Path) -> dict[str, Any]:
    text = made.read_text(encoding="utf-8")
    return json.loads(text.partition('id="data">')[2].partition("</script>")[0])


def test_the_page_of_a_run_needs_no_torch(run: Path) -> None:
    code = "import sys, medclf; medclf.report(sys.argv[1], progress=False); print({'torch', 'fastai'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_what_is_no_interpretation_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="not of a Linear"):
        report(torch.nn.Linear(1, 1))


def test_neighbours_of_the_run_are_shown_with_their_labels(run: Path) -> None:
    rows = [("02.png", 1, "t1.png", 0.9), ("02.png", 2, "t0.png", 0.8), ("03.png", 1, "02.png", 0.7)]
    pd.DataFrame(rows, columns=["path", "rank", "neighbour", "similarity"]).to_csv(run / "neighbours.csv", index=False)
    data = page_data(report(run, progress=False))
    named = [data["outside"][-1 - link][0] for link in data["near"]["2"]]
    assert named == ["t1.png", "t0.png"] and data["near"]["3"] == [2]
    assert dict(data["outside"]) == {"t0.png": "x", "t1.png": "y"}
    assert all(source.startswith("data:image/jpeg") for source in data["beside"])


@pytest.mark.parametrize("place", ["audit.csv", "audit/audit.csv"])
def test_twins_are_all_of_their_cluster(run: Path, place: str) -> None:
    findings = [
        ("same-pixels", "02.png", "03.png", 1.0, ""),
        ("near-duplicate", "02.png", "t2.png", 0.9, ""),
        ("twin-across-split", "02.png", "t2.png", 0.9, ""),
        ("patient-across-split", "04.png", "05.png", None, ""),
    ]
    columns = ["kind", "path_a", "path_b", "similarity", "detail"]
    (run / "audit").mkdir()
    pd.DataFrame(findings, columns=columns).to_csv(run / place, index=False)
    rows = Reported.of_run(RunFolder(run)).rows.set_index("path")["twins"]
    assert rows["03.png"] == ["02.png", "t2.png"] and rows["02.png"] == ["03.png", "t2.png"]
    assert rows["04.png"] == [] and rows["05.png"] == []


def test_a_neighbours_file_of_something_else_is_named(run: Path) -> None:
    (run / "neighbours.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"neighbours\.csv has no column 'path'"):
        report(run)


def test_pixels_that_often_hold_a_name_stay_out_unless_asked_for(run: Path) -> None:
    made = report(run, progress=False)
    data = page_data(made)
    assert data["absence"] == ["Picture withheld: ultrasound"]
    assert data["place"][0] == -1 and min(data["place"][1:]) >= 0
    assert "1 picture is withheld (ultrasound)" in made.read_text(encoding="utf-8")
    shown = report(run, run / "all.html", show_burned_in=True, progress=False)
    assert min(page_data(shown)["place"]) >= 0 and "withheld (" not in shown.read_text(encoding="utf-8")


def test_a_neighbour_that_often_holds_a_name_stays_out_too(run: Path) -> None:
    shutil.copy(get_testdata_file("examples_palette.dcm"), run.parent / "images" / "t0.png")
    rows = [("02.png", 1, "t0.png", 0.9), ("02.png", 2, "t1.png", 0.8)]
    pd.DataFrame(rows, columns=["path", "rank", "neighbour", "similarity"]).to_csv(run / "neighbours.csv", index=False)
    data = page_data(report(run, progress=False))
    assert [source[:15] for source in data["beside"]] == ["", "data:image/jpeg"]
    assert data["missing"] == ["Picture withheld: ultrasound", ""]
