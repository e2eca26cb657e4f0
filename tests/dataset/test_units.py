"""Units of a table: where they come from, that they stay together, and what is refused."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pandas as pd
import pydicom
import pydicom.data
import pytest
from PIL import Image

from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.dataset.units import check_labels, check_whole, split_for_units, with_units
from medclf.errors import DataError, MedclfWarning, SplitError


def _table(**columns: list[object]) -> pd.DataFrame:
    paths = [f"{'ab'[k % 2]}/{k}.png" for k in range(12)]
    labels = ["normal" if k % 4 < 2 else "polyp" for k in range(12)]
    return pd.DataFrame({"path": paths, "label": labels, "problem": "", "partition": None, **columns})


def test_patients_are_units_and_keep_the_split_by_patient() -> None:
    table = with_units(_table(patient=[f"p{k // 3}" for k in range(12)]), "patient")
    assert table["unit_id"].nunique() == 4
    assert table.attrs["unit"] == "patient"
    assert "group" not in table
    assert split_for_units(table, None) == "patient"


def test_studies_without_patients_are_linked_so_that_a_split_keeps_them() -> None:
    table = with_units(_table(study=[f"s{k // 3}" for k in range(12)]), "study")
    assert split_for_units(table, None) == "grouped"
    check_whole(table.assign(partition=split_table(table, "grouped", valid_pct=0.3)))


def test_a_split_by_patient_is_refused_at_once_where_units_are_not_of_one() -> None:
    """It was refused after the training, where it had parted one."""
    table = with_units(_table(study=[f"s{k // 3}" for k in range(12)], patient=["p", *[None] * 11]), "study")
    with pytest.raises(SplitError, match=r"may part a study that is not of one patient\n.*grouped"):
        split_for_units(table, "patient")


def test_an_image_without_a_unit_is_one_of_its_own() -> None:
    with pytest.warns(MedclfWarning, match=r"2 of 12 images name no unit of 'exam'"):
        table = with_units(_table(exam=["x", None, " ", *["y"] * 9]), "exam")
    assert table["unit_id"].tolist()[:3] == ["x", "b/1.png", "a/2.png"]


def test_an_image_that_is_left_out_is_not_counted_as_without_a_unit() -> None:
    exams = _table(exam=["x", None, None, *["y"] * 9])
    with pytest.warns(MedclfWarning, match=r"1 of 11 images name no unit of 'exam'"):
        with_units(exams.assign(problem=["", "truncated", *[""] * 10]), "exam")


def test_frames_of_a_file_without_a_unit_are_one_unit_and_stay_together() -> None:
    paths = [f"{file}.tif#{frame}" for file in "abcdef" for frame in (0, 1)]
    table = _table(patient=["p", "p"] + [None] * 10, path=paths, frame_number=[0, 1] * 6)
    with pytest.warns(MedclfWarning, match="10 of 12 images name no patient: each file counts as one"):
        found = with_units(table, "patient")
    assert found["unit_id"].tolist() == ["p", "p"] + [f"{file}.tif" for file in "bcdef" for _ in (0, 1)]
    assert split_for_units(found, None) == "grouped"
    check_whole(found.assign(partition=split_table(found, "grouped", valid_pct=0.3)))


def test_units_of_two_labels_each_are_refused() -> None:
    with pytest.raises(DataError, match="each patient has images of different labels: p0"):
        check_labels(with_units(_table(patient=[f"p{k // 4}" for k in range(12)]), "patient"))


def test_units_that_cross_patients_keep_both_together() -> None:
    table = _table(patient=["p", "p", *"qqqqqqqqqq"], exam=["1", "2", "2", *["3"] * 9])
    groups = with_units(table, "exam")["group"].tolist()
    assert groups[1] == groups[2]


def test_a_unit_on_two_sides_is_named() -> None:
    table = with_units(_table(patient=["p"] * 12), "patient").assign(partition=["train", "valid"] * 6)
    with pytest.raises(SplitError, match=r"1 patient has images in more than one .*: p"):
        check_whole(table)


@pytest.mark.parametrize("split", ["random", "stratified"])
def test_a_split_by_image_is_refused(split: str) -> None:
    table = with_units(_table(patient=["p", "q"] * 6), "patient")
    with pytest.raises(SplitError, match=split):
        split_for_units(table, split)  # type: ignore[arg-type]


def test_partitions_of_the_data_are_kept() -> None:
    table = with_units(_table(patient=["p", "q"] * 6), "patient").assign(partition=["train", "valid"] * 6)
    assert split_for_units(table, None) == "folders"


@pytest.mark.parametrize(("parts", "split"), [(["train", "valid"], None), (["test", None], "patient")])
def test_partitions_of_the_data_that_part_a_unit_are_refused_before_the_training(parts: list, split: str) -> None:
    table = with_units(_table(patient=["p", "p", "q"] * 4), "patient").assign(partition=parts * 6)
    with pytest.raises(SplitError, match="2 patients have images in more than one"):
        split_for_units(table, split)  # type: ignore[arg-type]


def test_a_column_of_units_is_spelt_as_one_of_patients_may_be() -> None:
    with pytest.warns(MedclfWarning, match="writes one unit of 'exam' in several ways: '007' and '7' and '7.0'"):
        table = with_units(_table(exam=["7", "7.0", "007", "NA", "unknown", *["8"] * 7]), "exam")
    assert table["unit_id"].tolist() == ["7"] * 3 + ["b/3.png", "a/4.png"] + ["8"] * 7


@pytest.mark.parametrize(("unit", "words"), [("pateint", "no column 'pateint'"), ("study", "no column 'study'")])
def test_a_column_that_is_not_there_is_named(unit: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        with_units(_table(patient=["p"] * 12), unit)


def test_patients_that_nobody_names_are_refused() -> None:
    with pytest.raises(DataError, match="no image says its patient"):
        with_units(_table(patient=[None] * 12), "patient")


def _unlabelled(root: Path) -> Path:
    for name in ("P1/a.png", "P1/b.png", "P2/x/c.png", "P3/d.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 40), 90).save(root / name)
    source = Path(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    header = pydicom.dcmread(source)
    header.PatientID = "P9"
    header.save_as(root / "scan.dcm")
    return root


@pytest.mark.parametrize("unit", ["folder", "kind"])
def test_classes_are_no_units(unit: str) -> None:
    kinds = [("normal", "polyp")[k % 2] for k in range(12)]
    paths = [f"{('train', 'valid')[k // 6]}/{kind}/{k}.png" for k, kind in enumerate(kinds)]
    table = _table(kind=kinds).assign(path=paths, label=kinds)
    with pytest.raises(DataError, match="of each image is its class"):
        check_labels(with_units(table, unit))
    check_labels(with_units(table.assign(path=[f"{kind}/{k // 4}/{k}.png" for k, kind in enumerate(kinds)]), "folder"))


def test_labels_of_patients_are_joined_by_folder_and_by_header(tmp_path: Path) -> None:
    root, table = _unlabelled(tmp_path / "data"), tmp_path / "labels.csv"
    table.write_text("patient,label\nP1,normal\nP2,polyp\nP9,polyp\nP4,normal\n")
    with pytest.warns(MedclfWarning) as told:
        found = scan(root, labels=table, patient_col="patient", progress=False)
    labels = dict(zip(found["path"], found["label"], strict=True))
    assert labels == {"P1/a.png": "normal", "P1/b.png": "normal", "P2/x/c.png": "polyp", "scan.dcm": "polyp"}
    assert found["patient"].nunique() == 3
    said = " ".join(str(one.message) for one in told)
    assert "1 patients of labels.csv have no image: P4" in said
    assert "P3/d.png" in said


def test_patients_of_a_spreadsheet_have_lost_their_zeros(tmp_path: Path) -> None:
    root, table = _unlabelled(tmp_path / "data"), tmp_path / "labels.csv"
    for number, name in enumerate(("P1", "P2", "P3"), 1):
        (root / name).rename(root / f"{number:04}")
    table.write_text("patient,label\n1,normal\n2.0,polyp\n")
    with pytest.warns(MedclfWarning, match="3 image files have the label of their patient"):
        found = scan(root, labels=table, patient_col="patient", progress=False)
    assert dict(zip(found["path"], found["label"], strict=True)) == {
        "0001/a.png": "normal", "0001/b.png": "normal", "0002/x/c.png": "polyp"
    }  # fmt: skip


def test_a_patient_with_two_rows_is_refused(tmp_path: Path) -> None:
    root, table = _unlabelled(tmp_path / "data"), tmp_path / "labels.csv"
    table.write_text("patient,label\nP1,normal\nP1,polyp\n")
    with pytest.raises(DataError, match="'P1' stands in row 1 as well"):
        scan(root, labels=table, patient_col="patient", progress=False)
    with pytest.raises(DataError, match="has no column 'image'"):  # it is named, so the table is one of images
        scan(root, labels=table, path_col="image", patient_col="patient", progress=False)


def test_a_table_that_no_image_is_of_is_refused(tmp_path: Path) -> None:
    root, table = _unlabelled(tmp_path / "data"), tmp_path / "labels.csv"
    table.write_text("patient,label\nQ1,normal\n")
    with pytest.raises(DataError, match="no image is of one of its patients"):
        scan(root, labels=table, patient_col="patient", progress=False)


def test_studies_of_dicom_files_are_pseudonyms(tmp_path: Path) -> None:
    root = _unlabelled(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)
        found = scan(root, label_from=None, progress=False)
    row = found.set_index("path").loc["scan.dcm"]
    assert re.fullmatch("[0-9a-f]{16}", row["study"])
    assert row["study"] != row["series"]
    assert row["instance"] == 1


@pytest.mark.parametrize("unit", [["p", "q"], {"1.png": "p"}, None])
def test_a_unit_is_a_word_or_a_column(unit):
    with pytest.raises(DataError, match="unit must be a word or the name of a column, not a"):
        with_units(pd.DataFrame({"path": ["1.png", "2.png"]}), unit)


@pytest.mark.parametrize(("columns", "unit", "is_cut"), [({}, "folder", True), ({"patient": "p"}, "folder", False)])
def test_a_limit_may_cut_units_that_are_not_of_known_patients(columns, unit, is_cut, tmp_path) -> None:
    for number in range(12):
        place = tmp_path / f"{number // 3}" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(place)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    source = pd.DataFrame({"path": paths, "label": ["a", "b"] * 6}).assign(
        **{name: [f"{value}{path[0]}" for path in paths] for name, value in columns.items()}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)
        table = scan(source, root=tmp_path, limit=7, patient_col="patient" if columns else None, progress=False)
        notes = with_units(table, unit).attrs["notes"]
    assert any("may have left out some images of a folder" in text for text in notes) == is_cut
