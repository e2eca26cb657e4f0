"""Sketches: nothing of the image or its names in them, whole lines after a kill, and never more than they may take."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from medclf.errors import MedclfWarning, OutputError
from medclf.inference.sketches import FILE, SketchBook, is_whole, measures_of, read_sketches, sketch
from medclf.metrics.ood import ood_fit

ANSWER = SimpleNamespace(probs={"a": 0.25, "b": 0.75}, flags=("unsure",))


def test_a_sketch_holds_the_allowlist_and_nothing_else():
    facts = {"width": 640, "height": 480, "tags": {"modality": "CR", "scanner": "ACME 1", "patient_name": "Doe^Jane"}}
    row = sketch(ANSWER, {"brightness": 12.0}, facts, "f" * 64)
    assert "Doe" not in json.dumps(row)
    assert row["kinds"] == {"modality": "CR", "scanner": "ACME 1", "size": "640x480"}
    assert row["probs"] == {"a": 0.25, "b": 0.75} and row["flags"] == ["unsure"] and row["model"] == "f" * 16
    assert sketch(ANSWER, {"brightness": 12.0}, facts, "f")["image"] == row["image"]
    assert sketch(ANSWER, {"brightness": 13.0}, facts, "f")["image"] != row["image"]


def test_places_are_in_units_of_the_training_images():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 12)) * np.arange(12, 0, -1) + 5
    found = measures_of(ood_fit(features), features, np.full((400, 4, 4, 3), 128, np.uint8))
    places = np.array([[row[f"feature axis {axis}"] for axis in range(1, 9)] for row in found])
    np.testing.assert_allclose(places.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(places.std(0), 1, atol=0.02)
    assert {row["brightness"] for row in found} == {128.0} and {row["contrast"] for row in found} == {0.0}


def test_a_line_that_a_kill_cut_short_costs_that_line_alone(tmp_path):
    book = SketchBook(tmp_path)
    book.add({"id": "first"})
    book.close()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"id":"cut')
    book = SketchBook(tmp_path)
    book.add({"id": "last"})
    with pytest.warns(MedclfWarning, match="1 line is damaged"):
        assert [row["id"] for row in read_sketches(tmp_path)] == ["first", "last"]
    assert oct((tmp_path / FILE).stat().st_mode)[-3:] == "600"


@pytest.mark.parametrize(
    "line", [b"[" * 200_000, b"\xff\x00", b"[]", b'"id"'], ids=["nested", "binary", "list", "text"]
)
def test_a_line_that_is_no_sketch_is_counted(tmp_path, line):
    (tmp_path / FILE).write_bytes(b'{"id": "a"}\n' + line + b"\n")
    with pytest.warns(MedclfWarning, match="1 line is damaged"):
        assert read_sketches(tmp_path) == [{"id": "a"}]


@pytest.mark.parametrize(
    "changed",
    [{"measures": {}}, {"measures": {"x": 10**400}}, {"probs": {"polyp": -5}}, {"probs": {"polyp": 1e300}}],
)
def test_a_sketch_of_numbers_that_cannot_be_is_damaged(changed):
    row = {
        "when": "2026-01-01T00:00Z",
        "probs": {"polyp": 0.5},
        "measures": {"x": 1.0},
        "image": "",
        "kinds": {},
        "flags": [],
    }
    assert is_whole(row, ["polyp"]) and not is_whole(row | changed, ["polyp"])


def test_the_files_stay_within_their_bounds_and_the_latest_are_kept(tmp_path):
    book = SketchBook(tmp_path, max_bytes=4000)
    for number in range(500):
        book.add({"id": f"{number:04}"})
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 4000
    ids = [row["id"] for row in book.rows()]
    assert ids == [f"{number:04}" for number in range(500 - len(ids), 500)] and len(ids) > 100


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        SketchBook(tmp_path / "file")
