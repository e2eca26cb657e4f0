"""Frames of a file as images: named, told apart by their hashes, kept together, and found again by a CSV."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medclf.config import TrainConfig
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.dataset.units import with_units
from medclf.errors import DataError, MedclfWarning, ReadError, SplitError
from medclf.images.reading import read_pixels
from medclf.run.evaluate import evaluate
from medclf.run.predict import predict
from medclf.run.predict_unit import predict_unit
from medclf.run.train import train


def stack(path, greys, size=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))
    pages = [Image.fromarray(rng.normal(grey, 8, (size, size)).clip(0, 255).astype(np.uint8)) for grey in greys]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return path


@pytest.fixture
def folder(tmp_path):
    for label, grey in (("dark", 40), ("light", 180)):
        for k in range(3):
            stack(tmp_path / label / f"{k}.tif", [grey] * (11 + k))
    Image.new("L", (40, 40), 90).save(tmp_path / "dark" / "one.png")
    return tmp_path


def test_each_frame_is_a_row_and_a_file_of_one_stays_a_file(folder):
    assert len(scan(folder)) == 7
    table = scan(folder, frame="all")
    assert len(table) == 1 + 2 * (11 + 12 + 13)
    assert table["sha256"].is_unique and set(table["problem"]) == {""}
    first = table[table["path"].str.startswith("dark/0.tif")]
    assert list(first["path"]) == [f"dark/0.tif#{k:02}" for k in range(11)] and list(first["frame_number"]) == list(
        range(11)
    )
    pixels = read_pixels(folder / "dark/0.tif#04")
    np.testing.assert_array_equal(pixels, read_pixels(folder / "dark/0.tif", frame=4))
    with pytest.raises(ReadError, match="holds 11 frames"):
        read_pixels(folder / "dark/0.tif", frame="all")
    with pytest.raises(ReadError, match="has no frame 99"):
        read_pixels(folder / "dark/0.tif#99")


def test_frames_that_are_not_used_are_counted(folder):
    """The other frames of a cine loop or a volume were left out without a word."""
    with pytest.warns(MedclfWarning) as told:
        table = scan(folder, check_pixels=False, progress=False)
    (said,) = (str(one.message) for one in told if "frames" in str(one.message))
    assert said.startswith("6 of 7 files hold several frames") and "dark/0.tif" in said and "one.png" not in said
    assert "the middle one of each is used, the other 66 are not" in said and said in table.attrs["notes"]
    for how in ({"frame": "all"}, {"labels": pd.DataFrame({"path": ["dark/0.tif#3"], "label": ["dark"]})}):
        notes = scan(folder, progress=False, **how).attrs.get("notes", [])
        assert not any("several frames" in note for note in notes)


def test_frames_of_a_file_stay_on_one_side(folder):
    table = scan(folder, frame="all")
    with pytest.raises(SplitError, match=r"frames of .* files are in more than one"):
        split_table(table, "random")
    units = with_units(table, "file")
    assert units["unit_id"].nunique() == 7 and "dark/one.png" in set(units["unit_id"])
    split_table(units, "grouped", valid_pct=0.4)
    with pytest.raises(DataError, match="those of one file belong together"):
        TrainConfig("data", "RUN", frame="all")


def test_a_csv_may_name_files_or_frames(folder):
    rows = pd.DataFrame({"path": ["dark/0.tif", "light/1.tif#3"], "label": ["a", "b"]})
    rows.to_csv(folder / "rows.csv", index=False)
    table = scan(folder / "rows.csv", frame="all")
    assert len(table) == 12 and table["path"].iloc[-1] == "light/1.tif#3" and set(table["problem"]) == {""}
    rows.assign(path=["dark/7.tif#1", "light/1.tif#3"]).to_csv(folder / "rows.csv", index=False)
    with pytest.warns(UserWarning, match="dark/7.tif#1 .file is missing"):
        scan(folder / "rows.csv")


def test_frames_that_a_table_names_are_known_to_be_of_one_file(folder):
    """They were on both sides of a split, and each was a unit of its own."""
    rows = [(f"{label}/{k}.tif#{n}", label) for label in ("dark", "light") for k in range(3) for n in range(6)]
    table = scan(pd.DataFrame(rows, columns=["path", "label"]), root=folder)
    assert table["frame_number"].tolist() == list(range(6)) * 6
    with pytest.raises(SplitError, match=r"frames of \d files are in more than one"):
        split_table(table, "random")
    assert with_units(table, "file")["unit_id"].nunique() == 6


def test_a_tables_own_column_of_frame_numbers_is_no_frame(folder):
    """As Kvasir-Capsule's: pictures that were cut from a video, which no split could take."""
    rows = {"path": [f"dark/{k}.tif" for k in range(3)] + [f"light/{k}.tif" for k in range(3)]}
    rows |= {"label": list("aaabbb"), "frame_number": [7, 8, 9, 7, 8, 9]}
    table = scan(pd.DataFrame(rows), root=folder)
    assert table["frame_number_given"].tolist() == rows["frame_number"] and "frame_number" not in table
    assert set(split_table(table, "random", valid_pct=0.5)) == {"train", "valid"}
    assert with_units(table, "file")["unit_id"].tolist() == rows["path"]


def test_files_are_counted_as_files_and_those_whose_frames_are_named_are_not_missing(folder):
    """A sheet of frames was said to lack all the files that its frames are of."""
    (folder / "sheet.csv").write_text("path,label\ndark/0.tif#03,dark\ndark/0.tif#04,dark\nlight/1.tif#02,light\n")
    with pytest.warns(MedclfWarning) as told:
        table = scan(folder, labels="sheet.csv", frame="all", progress=False)
    assert len(table) == 3 and not table["problem"].any()
    said = [str(one.message) for one in told]
    assert "5 image files are not in sheet.csv and are left out, first 'dark/1.tif'" in said
    assert "sheet.csv names frames of 2 files: only these frames are used" in said
    with pytest.warns(MedclfWarning) as told:
        scan(folder, frame="all", merge="grey=dark", drop="light", limit=2, progress=False)
    said = " ".join(str(one.message) for one in told)
    assert "'dark' became 'grey': 4 files" in said and "'light' is dropped: its 3 files are left out" in said
    assert "2 of 4 files are used" in said


def test_a_file_whose_own_name_ends_like_a_frames_is_a_file(tmp_path):
    for k in range(2):
        stack(tmp_path / "a" / "scan.tif", [90 * k] * 3).rename(tmp_path / "a" / f"scan#{k}")
    table = with_units(scan(tmp_path, frame="all"), "file")
    assert list(table["unit_id"]) == [f"a/scan#{k}" for k in range(2) for _ in range(3)]
    assert table["path"].iloc[0] == "a/scan#0#0"


def test_frames_of_a_dicom_file_keep_its_study(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        shutil.copy(get_testdata_file("emri_small.dcm"), tmp_path / label / f"{label}.dcm")
    table = with_units(scan(tmp_path, frame="all"), "study")
    assert len(table) == 20 and table["unit_id"].nunique() == 1 and table["modality"].eq("MR").all()


@pytest.mark.slow
def test_a_training_by_file_answers_for_all_frames(tmp_path):
    """A light frame in one of five: the label is that of the stack."""
    rng = np.random.default_rng(0)
    for k in range(32):
        greys = [60] * 5
        greys[rng.integers(5)] = (60, 220)[k % 2]
        stack(tmp_path / "data" / ("none", "light")[k % 2] / f"{k:02}.tif", greys)
    settings = {"arch": "efficientnet_lite0", "size": 32, "epochs": 0, "saliency": 0, "audit": False}
    settings |= {"frame": "all", "unit": "file", "positive": "light"}
    run = train(tmp_path / "data", out=tmp_path / "RUN", say=lambda _: None, **settings)
    results = json.loads((run / "results.json").read_text())
    assert results["units"]["by"] == "file" and results["units"]["n_images"] == 5 * results["units"]["n"]
    assert results["accuracy"]["value"] > 0.8
    new = stack(tmp_path / "new.tif", [60, 60, 60, 220, 60])
    found = predict_unit(run, new)
    assert found.label == "light" and found.decided_by == f"{new}#3"
    assert [one.path for one in predict(run, new)] == [f"{new}#{k}" for k in range(5)]
    again = json.loads((evaluate(run, tmp_path / "data", saliency=0) / "results.json").read_text())
    assert again["n"] == 32
