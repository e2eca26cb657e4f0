import gzip
import hashlib
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medclf.dataset.scan
from medclf.dataset.identity import instance_uid, project_key, pseudonym
from medclf.dataset.scan import scan, scanned_already, usable
from medclf.errors import DataError, MedclfWarning


def messages(record) -> list[str]:
    return [str(warning.message) for warning in record if issubclass(warning.category, MedclfWarning)]


def scan_quietly(*args, **kwargs) -> pd.DataFrame:
    """A scan that must not warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        return scan(*args, **kwargs)


def scan_noting(*args, **kwargs) -> tuple[pd.DataFrame, str]:
    """A scan and all that it warned of."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        table = scan(*args, **kwargs)
    return table, "\n".join(messages(record))


PAIRS = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]


# ---- folders


def test_class_folders(make_images):
    root = make_images(*PAIRS)
    table = scan_quietly(root)
    assert list(table.columns) == list(medclf.dataset.scan.COLUMNS)
    assert list(table["path"]) == PAIRS
    assert list(table["label"]) == ["a", "a", "b", "b"]
    assert list(table["width"]) == [8, 9, 10, 8] and set(table["height"]) == {6}
    assert table["sha256"][0] == hashlib.sha256((root / "a/1.png").read_bytes()).hexdigest()
    assert set(table["problem"]) == {""}
    assert table["patient"].isna().all() and table["partition"].isna().all()
    assert table.attrs == {"root": str(root), "multi_label": False, "ignored": 0}


@pytest.mark.parametrize("record", [{"format": 2, "settings": {}}, {"settings": {}}, {"format": 2, "root": "/data"}])
def test_a_run_among_the_classes_is_none_of_them(make_images, record):
    root = make_images(*PAIRS, "RUN/pics/1-large.jpg", "RUN/pics/2-large.jpg", "other/9.png", "other/8.png")
    (root / "RUN" / "run.json").write_text(json.dumps(record))
    (root / "other" / "run.json").write_text('{"run": 7}')
    table, said = scan_noting(root)
    assert sorted(set(table["label"])) == ["a", "b", "other"]
    assert said == "folder 'RUN' is a RUN of medclf, and its pictures are left out"
    assert len(scan_noting(root / "RUN")[0]) == 2  # asked for by name
    with pytest.raises(DataError, match="RUN is a RUN of medclf: give the images that it was trained on"):
        scan(root / "RUN", label_from_parent=3)


def test_partitions_above_classes_and_a_flat_test_folder(make_images):
    names = [f"{part}/{label}/{i}.png" for part in ("TRAIN", "VAL") for label in "ab" for i in (1, 2)]
    table = scan_quietly(make_images(*names, "TEST/chest.png"))
    assert list(table["partition"]) == ["test"] + ["train"] * 4 + ["valid"] * 4
    assert table["label"][0] is None and table["problem"][0] == ""


def test_an_image_straight_in_train_is_a_problem(make_images):
    table, said = scan_noting(make_images(*PAIRS, "train/5.png", "6.png"))
    bad = table[table["problem"] != ""]
    assert list(bad["path"]) == ["6.png", "train/5.png"]
    assert set(bad["problem"]) == {"no class folder above it"}
    assert "2 of 6 images cannot be used" in said and "6.png" in said


@pytest.mark.parametrize("listed", [True, False])
def test_a_table_takes_no_second_table_of_labels(tmp_path, listed):
    """It was read, and the labels beside it were ignored."""
    (tmp_path / "all.csv").write_text("path,label\na.png,x\n")
    (tmp_path / "labels.csv").write_text("path,label\na.png,y\n")
    source = tmp_path / "all.csv" if listed else ["a.png"]
    with pytest.raises(DataError, match="labels needs a folder of images"):
        scan(source, labels=tmp_path / "labels.csv")


def test_a_flat_folder_says_how_to_label_it(make_images):
    root = make_images("1.png", "2.png")
    with pytest.raises(DataError, match=r"none of 2.*no class folder.*\n.*labels="):
        scan(root)
    table = scan_quietly(root, label_from=None)
    assert list(table["label"]) == [None, None] and set(table["problem"]) == {""}
    make_images("1_mask.png")
    table, said = scan_noting(root, label_from=None)
    assert list(table["path"]) == ["1.png", "2.png"] and "1 files are masks" in said


def test_a_file_of_boxes_beside_images_without_classes_is_named(make_images):
    root = make_images("images/a.png", "images/b.png")
    (root / "notes.json").write_text('{"by": "somebody"}')
    box = {"label": "polyp", "xmin": 1, "ymin": 1, "xmax": 9, "ymax": 9}
    (root / "found.json").write_text(json.dumps({"a": {"width": 16, "height": 16, "bbox": [box]}}))
    with pytest.raises(DataError, match=r"found\.json holds boxes of findings: give boxes="):
        scan(root)


def test_what_is_no_image_is_counted_or_skipped(make_images):
    root = make_images(
        *PAIRS, ".hidden/5.png", "__MACOSX/a/6.png", "a/.7.png", "a/._1.png", "a/@eaDir/8.png", "$RECYCLE.BIN/9.png"
    )
    (root / "a/notes.txt").write_text("x")
    (root / "readme").write_text("x")
    table = scan_quietly(root)
    assert list(table["path"]) == PAIRS
    assert table.attrs["ignored"] == 2


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text_is_left_out(make_images):
    root = make_images(*PAIRS, "a/caf\u00e9.png")
    (root / "a" / os.fsdecode(b"\xff.png")).write_bytes((root / "a/1.png").read_bytes())
    table, said = scan_noting(root)
    assert len(table) == 5 and r"'a/\xff.png' is left out: its name is not valid UTF-8" in said


def test_labels_from_names_and_from_a_function(make_images):
    root = make_images("cat_1.png", "cat_2.png", "dog_1.png", "dog_2.png", "?.png")
    table, said = scan_noting(root, label_from=re.compile(r"^(\w+)_\d"))
    assert list(table["label"]) == [None, "cat", "cat", "dog", "dog"]
    assert "does not match" in table["problem"][0] and "?.png" in said
    table = scan_quietly(root, label_from=lambda path: path.suffix == ".png" and int(path.name < "d"))
    assert list(table["label"]) == ["1", "1", "1", "0", "0"]
    for wrong in ("folders", {"1.png": "a"}, 3):
        with pytest.raises(DataError, match=r"label_from=.* is not known"):
            scan(root, label_from=wrong)


def test_order_on_disk_does_not_matter(make_images, tmp_path):
    one = scan_quietly(make_images(*PAIRS, root=tmp_path / "one"))
    two = make_images(*PAIRS, root=tmp_path / "two")
    for name in reversed(PAIRS):  # write each again, so that the folder's own order changes
        content = (two / name).read_bytes()
        (two / name).unlink()
        (two / name).write_bytes(content)
    pd.testing.assert_frame_equal(one, scan_quietly(two))


# ---- files that cannot be used


@pytest.fixture
def damaged(make_images) -> Path:
    root = make_images(*PAIRS, "a/cut.jpg")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(root / "a/cut.jpg")
    content = (root / "a/cut.jpg").read_bytes()
    (root / "a/cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "b/text.png").write_text("not a picture")
    (root / "b/empty.png").touch()
    return root


def test_damaged_files_are_named_kept_and_left_out(damaged):
    table, said = scan_noting(damaged)
    bad = table.set_index("path").query("problem != ''")
    assert list(bad.index) == ["a/cut.jpg", "b/empty.png", "b/text.png"]
    assert (bad["sha256"].str.len() == 64).all()
    assert "3 of 7 images cannot be used and are left out" in said
    for name in bad.index:
        assert name in said and bad["problem"][name] in said


def test_strict_stops(damaged):
    with pytest.raises(DataError, match=r"3 of 7 images.*a/cut\.jpg"):
        scan(damaged, strict=True)


def test_headers_only_does_not_see_the_cut(damaged):
    table, _ = scan_noting(damaged, check_pixels=False)
    assert list(table.query("problem != ''")["path"]) == ["b/empty.png", "b/text.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(make_images):
    root = make_images(*PAIRS)
    os.mkfifo(root / "a/pipe.png")
    os.mkfifo(root / "a/nosuffix")
    table, _ = scan_noting(root)
    assert table.set_index("path")["problem"]["a/pipe.png"] == "not a regular file"
    assert table.attrs["ignored"] == 1


def test_nothing_usable(tmp_path):
    with pytest.raises(DataError, match=r"holds no image \(1 other files\)"):
        (tmp_path / "a.csv").write_text("x")
        scan(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        scan(tmp_path / "none")
    with pytest.raises(DataError, match="neither a folder nor a CSV"):
        (tmp_path / "a.png").write_text("x")
        scan(tmp_path / "a.png")
    sheet = tmp_path / "labels.xlsx"
    sheet.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(DataError, match="is a spreadsheet or a binary table") as told:
        scan(sheet)
    assert "save it as CSV" in str(told.value)
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(DataError, match="is JSON"):
        scan(tmp_path / "labels.json")


# ---- CSV and DataFrame


def write_csv(root: Path, text: str, name: str = "labels.csv") -> Path:
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"uncertain": "postive"}, r"uncertain must be .*, not 'postive'\ndid you mean 'positive'\?"),
        ({"blank": True}, "blank must be .*, not True"),
        ({"limit": 2.5}, "limit must be a whole number, not 2.5"),
        ({"label_from_parent": "2"}, "label_from_parent must be a whole number, not '2'"),
        ({"labels": {"a/1.png": "x"}}, "labels must be a CSV or a DataFrame, not a dict"),
        ({"source": ""}, "an empty text names no folder"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(make_images, given, said):
    with pytest.raises(DataError, match=said):
        scan(**{"source": make_images(*PAIRS), **given})


def test_many_folders_without_images_are_one_sentence(make_images):
    root = make_images(*PAIRS)
    for n in range(9):
        (root / f"notes {n}").mkdir()
    _, said = scan_noting(root)
    assert "9 folders hold no image: 'notes 0', " in said and "and 4 more" in said and said.count("no image") == 1


@pytest.mark.parametrize("held", [3, {"path": "1.png"}, np.zeros(2)], ids=["number", "dict", "array"])
def test_a_list_of_what_is_no_path_is_refused(held):
    with pytest.raises(DataError, match=f"holds a {type(held).__name__} where a path should be"):
        scan([held, held])


def test_vectors_of_0_and_1_as_tensors_name_no_labels(make_images):
    torch = pytest.importorskip("torch")
    root = make_images("1.png", "2.png")
    with pytest.raises(DataError, match="vectors of 0 and 1"):
        scan([(root / "1.png", torch.tensor([0, 1])), (root / "2.png", torch.tensor([1, 0]))])


@pytest.mark.parametrize("several", [tuple, pd.Index, pd.Series, np.array])
def test_columns_of_0_and_1_are_named_by_any_sequence(make_images, several):
    root = make_images("1.png", "2.png")
    frame = pd.DataFrame({"path": ["1.png", "2.png"], "a": [1, 0], "b": [1, 1]})
    assert list(scan(frame, label_col=several(["a", "b"]), root=root)["label"]) == [("a", "b"), ("b",)]
    with pytest.raises(DataError, match=r"a list of several names, not \[\]"):
        scan(frame, label_col=[], root=root)


def test_csv_beside_the_images(make_images):
    root = make_images("x/1.png", "x/2.png", "x/3.png")
    csv = write_csv(root, "file,finding,age,sex,id\nx/2.png,NA,061,F,7\nx/1.png,None,,M,8\nx/3.png,001,33,,9\n")
    table, said = scan_noting(csv, path_col="file", label_col="finding")
    assert list(table["label"]) == ["None", "NA", "001"]
    assert table.attrs["root"] == str(root)
    assert list(table["age"]) == [None, "061", "33"]  # text: a number would lose the zero
    assert list(table["id"]) == [8, 7, 9]
    assert list(table["sex"]) == ["M", "F", None]
    assert "has one image only" in said


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_csv_delimiters_and_byte_order_mark(make_images, delimiter):
    root = make_images("1.png", "2.png", "3.png", "4.png")
    rows = ["path", "label"], ["1.png", "a,x"], ["2.png", "a,x"], ["3.png", "b"], ["4.png", "b"]
    csv = write_csv(root, "\ufeff" + "\n".join(delimiter.join(row) for row in rows))
    assert list(scan_quietly(csv)["label"]) == ["a,x", "a,x", "b", "b"]


def test_labels_for_a_folder_by_path_name_or_stem(make_images):
    root = make_images("deep/u1.png", "deep/u2.png", "v1.png", "v2.png")
    csv = write_csv(root, "image,label\nu1,a\nu2.png,a\nv1.png,b\nv2,b\n")
    for labels in (csv, "labels.csv", pd.read_csv(csv)):
        table = scan_quietly(root, labels=labels, path_col="image")
        assert dict(zip(table["path"], table["label"], strict=True)) == {
            "deep/u1.png": "a",
            "deep/u2.png": "a",
            "v1.png": "b",
            "v2.png": "b",
        }


def test_a_name_that_fits_two_files_is_refused(make_images):
    root = make_images("a/1.png", "b/1.png")
    csv = write_csv(root, "path,label\n1.png,x\n")
    with pytest.raises(DataError, match=r"row 1, column 'path': '1.png' fits 2 files \(a/1.png, b/1.png\)"):
        scan(root, labels=csv)


def test_a_missing_column_names_those_present(make_images):
    root = make_images("1.png")
    csv = write_csv(root, "file,finding\n1.png,a\n")
    for kwargs, wanted in [({}, "path_col"), ({"path_col": "file"}, "label_col")]:
        with pytest.raises(DataError, match=f"it has 'file', 'finding'\n.*{wanted}"):
            scan(csv, **kwargs)
    with pytest.raises(DataError, match=r"no column 'who'.*\n.*patient_col"):
        scan(csv, path_col="file", label_col="finding", patient_col="who")


def test_absent_and_unlisted_files_are_counted(make_images):
    root = make_images(*PAIRS, "a/5.png", "a/6.png", "elsewhere/7.png")
    csv = write_csv(root, "path,label\n" + "".join(f"{name},{name[0]}\n" for name in [*PAIRS, "a/9.png"]))
    table, said = scan_noting(csv)
    assert table.set_index("path")["problem"]["a/9.png"] == "file is missing"
    assert "1 of 5 images cannot be used" in said
    assert "2 image files are not in labels.csv and are left out, first 'a/5.png'" in said
    _, said = scan_noting(root, labels=csv)
    assert "3 image files are not in labels.csv" in said


def test_one_path_twice(make_images):
    root = make_images(*PAIRS)
    rows = "".join(f"{name},{name[0]}\n" for name in PAIRS)
    with pytest.raises(DataError, match=r"'a/1\.png' in rows 1 and 5, and they differ: 'a' and 'b'"):
        scan(write_csv(root, f"path,label\n{rows}./a/1.png,b\n"))
    table, said = scan_noting(write_csv(root, f"path,label\n{rows}a\\1.png,a\n"))
    assert len(table) == 4 and "names 1 images again" in said


def test_blank_labels_are_named(make_images):
    root = make_images(*PAIRS, "a/5.png")
    table, said = scan_noting(write_csv(root, "path,label\na/1.png,a\na/2.png,a\nb/3.png,b\nb/4.png,b\na/5.png, \n"))
    assert table.set_index("path")["problem"]["a/5.png"] == "blank label"
    assert "a/5.png (blank label)" in said


def test_multi_label_by_delimiter(make_images):
    root = make_images(*[f"{i}.png" for i in range(6)])
    cells = ["A|B", "A", "B| A", "No Finding", "", "No Finding"]
    csv = write_csv(root, "path,label\n" + "".join(f"{i}.png,{cell}\n" for i, cell in enumerate(cells)))
    table, _ = scan_noting(csv, label_delim="|")
    assert table.attrs["multi_label"]
    assert list(table["label"]) == [("A", "B"), ("A",), ("B", "A"), ("No Finding",), None, ("No Finding",)]
    assert list(table["problem"]) == ["", "", "", "", "blank label", ""]


def test_multi_label_by_columns_allows_no_finding(make_images):
    root = make_images("1.png", "2.png", "3.png", "4.png")
    csv = write_csv(root, "path,Edema,Mass,view\n1.png,1,0,PA\n2.png,0,0,AP\n3.png,1,1,PA\n4.png,0,1.0,PA\n")
    table = scan_quietly(csv, label_col=["Edema", "Mass"])
    assert list(table["label"]) == [("Edema",), (), ("Edema", "Mass"), ("Mass",)]
    assert set(table["problem"]) == {""} and list(table["view"]) == ["PA", "AP", "PA", "PA"]
    csv.write_text(csv.read_text().replace("0,0,AP", "0,-1,AP"))
    with pytest.raises(DataError, match="row 2, column 'Mass': '-1' is neither 0 nor 1"):
        scan(csv, label_col=["Edema", "Mass"])


def test_a_column_of_flags_that_is_called_train_is_told(make_images):
    """As FetalPlanesDB has it; the results of a test are none."""
    root = make_images("1.png", "2.png", "3.png")
    write_csv(root, "image,label,Train ,Test\n1,a,1,positive\n2,b,1,negative\n3,a,0,positive\n")
    _, said = scan_noting(root, labels="labels.csv", path_col="image")
    assert "column 'Train' of labels.csv looks like the set's own partition (1 2, 0 1)" in said and "'Test'" not in said


def test_partition_column(make_images):
    root = make_images(*PAIRS)
    frame = pd.DataFrame({"path": PAIRS, "label": list("aabb"), "set": ["Train", "val", "TEST", None]})
    table, _ = scan_noting(frame, root=root, partition_col="set")
    assert list(table["partition"]) == ["train", "valid", "test", None]
    table = scan_quietly(frame.assign(is_valid=[True, False, True, False]), root=root, partition_col="is_valid")
    assert list(table["partition"]) == ["valid", "train", "valid", "train"]
    with pytest.raises(DataError, match="row 2, column 'set': 'mine' is not a partition"):
        scan(frame.assign(set=["train", "mine", "test", "test"]), root=root, partition_col="set")


def test_dataframe_of_numbers_and_absolute_paths(make_images):
    root = make_images(*PAIRS)
    frame = pd.DataFrame({"file": [str(root / name) for name in PAIRS], "grade": [1.0, 1.0, 2.0, 2.0]})
    table = scan_quietly(frame, path_col="file", label_col="grade")
    assert list(table["path"]) == PAIRS and list(table["label"]) == ["1", "1", "2", "2"]
    assert frame["grade"].dtype == float  # the user's own is left alone


def test_lists(make_images):
    root = make_images(*PAIRS)
    pairs = [(root / name, name[0]) for name in PAIRS]
    assert list(scan_quietly(pairs)["label"]) == ["a", "a", "b", "b"]
    assert list(scan_quietly([path for path, _ in pairs])["label"]) == ["a", "a", "b", "b"]
    table, _ = scan_noting([(name, ["x", "y"]) for name in PAIRS], root=root)
    assert table.attrs["multi_label"] and table["label"][0] == ("x", "y")
    with pytest.raises(DataError, match="mixes paths and pairs"):
        scan([PAIRS[0], (PAIRS[1], "a")], root=root)


def test_its_own_table_can_be_scanned_again(make_images, tmp_path):
    table, _ = scan_noting(make_images(*[f"{part}/{name}" for part in ("train", "valid") for name in PAIRS]))
    csv = tmp_path / "table.csv"
    table.to_csv(csv, index=False)
    pd.testing.assert_frame_equal(scan_quietly(csv)[["path", "label", "partition", "sha256"]],
                                  table[["path", "label", "partition", "sha256"]])  # fmt: skip


def test_a_column_that_cannot_be_kept_is_named(make_images):
    root = make_images("1.png", "2.png")
    frame = pd.DataFrame({"path": ["1.png", "2.png"], "truth": ["a", "b"], "label": ["x", "y"]})
    table, said = scan_noting(frame, root=root, label_col="truth")
    assert list(table["label"]) == ["a", "b"] and "column 'label' of the DataFrame is kept as 'label_given'" in said
    assert list(table["label_given"]) == ["x", "y"]


# ---- paths that must not be read


@pytest.fixture
def guarded(make_images, tmp_path) -> Path:
    """A root with a secret beside it."""
    make_images("secret.png", root=tmp_path / "outside")
    return make_images("1.png", "2.png", root=tmp_path / "root")


@pytest.mark.parametrize(
    "cell, reason",
    [
        ("../outside/secret.png", "lies outside"),
        ("..\\outside\\secret.png", "lies outside"),
        ("x/../../outside/secret.png", "lies outside"),
        ("{outside}/secret.png", "lies outside"),
        ("C:\\data\\secret.png", "Windows drive"),
        ("link.png", "link to outside"),
        ("folder/secret.png", "link to outside"),
        ("circle.png", "circle"),
        ("round/1.png", "circle"),
        ("1.png\0", "NUL"),
        (" ", "is blank"),
    ],
)
def test_paths_out_of_the_root_are_refused(guarded, cell, reason):
    outside = guarded.parent / "outside"
    (guarded / "link.png").symlink_to(outside / "secret.png")
    (guarded / "folder").symlink_to(outside)
    (guarded / "circle.png").symlink_to(guarded / "circle.png")
    (guarded / "round").symlink_to(guarded / "round")
    frame = pd.DataFrame({"path": ["1.png", cell.format(outside=outside)], "label": ["a", "b"]})
    with pytest.raises(DataError, match=f"row 2, column 'path'.*{reason}"):
        scan(frame, root=guarded)


def test_outside_can_be_allowed(guarded):
    frame = pd.DataFrame({"path": ["1.png", "2.png", "../outside/secret.png"], "label": ["a", "b", "b"]})
    table, _ = scan_noting(frame, root=guarded, allow_outside=True)
    outside = (guarded.parent / "outside/secret.png").as_posix()
    assert set(table["path"]) == {"1.png", "2.png", outside}
    assert (Path(table.attrs["root"]) / outside).exists()


def test_a_tree_is_not_left_by_links(guarded):
    outside = guarded.parent / "outside"
    inside = guarded / "a"
    inside.mkdir()
    (guarded / "1.png").rename(inside / "1.png")
    (guarded / "2.png").rename(inside / "2.png")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (guarded / "out").symlink_to(outside)
    (guarded / "again").symlink_to(inside)
    (inside / "up").symlink_to(guarded)
    (inside / "self.png").symlink_to(inside / "self.png")
    table, said = scan_noting(guarded)
    assert list(table["path"]) == ["a/1.png", "a/2.png", "a/self.png"]
    assert table["problem"][2].startswith("cannot be opened")
    assert "1 files are links to outside the data's folder and are left out, first 'a/link.png'" in said
    assert "folder 'out' is a link to outside" in said
    assert "folder 'again' is a link into folders that are scanned anyway" in said
    table, _ = scan_noting(guarded, allow_outside=True)
    assert {"a/link.png", "out/secret.png"} <= set(table["path"])


def test_other_systems_spellings(make_images):
    root = make_images("b\u00e9/1.png", "b\u00e9/2.png")  # composed, as on Linux
    frame = pd.DataFrame({"path": ["be\u0301\\1.png", "./be\u0301/2.png"], "label": ["a", "a"]})
    table, _ = scan_noting(frame, root=root)
    assert list(table["path"]) == ["b\u00e9/1.png", "b\u00e9/2.png"] and set(table["problem"]) == {""}


# ---- patients and DICOM


def test_patients_are_pseudonyms(make_images, patient_key):
    root = make_images(*PAIRS)
    frame = pd.DataFrame({"path": PAIRS, "label": list("aabb"), "who": ["ann", "ann", "bob", None]})
    table = scan_quietly(frame, root=root, patient_col="who")
    assert table["patient"][0] == table["patient"][1] == pseudonym("ann", patient_key.read_bytes())
    assert table["patient"][2] not in (table["patient"][0], "bob") and table["patient"][3] is None
    assert "who" not in table and "ann" not in table.to_csv()
    assert patient_key.stat().st_mode & 0o077 == 0
    patient_key.unlink()
    assert scan_quietly(frame, root=root, patient_col="who")["patient"][0] != table["patient"][0]


def test_no_key_is_made_without_patients(make_images, patient_key):
    scan_quietly(make_images(*PAIRS))
    assert not patient_key.exists()


def test_a_damaged_key_is_refused(patient_key):
    patient_key.write_bytes(b"short")
    with pytest.raises(DataError, match="not a patient key: it has 5 bytes"):
        project_key(Path())


@pytest.fixture
def dicom_tree(tmp_path) -> Path:
    """Four DICOM files of two patients; one without a suffix, one with a number for one; a DICOMDIR."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    for number, name in enumerate(["one/a.dcm", "one/IM0001", "two/1.2.3.4", "two/b.DCM", "DICOMDIR"]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        data = Dataset()
        data.file_meta = meta
        data.SOPInstanceUID = f"1.2.3.{number}"
        data.PatientID = f"patient-{number // 2}"
        data.Rows, data.Columns, data.BitsAllocated, data.BitsStored, data.HighBit = 4, 5, 8, 8, 7
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.PhotometricInterpretation = "MONOCHROME2"
        data.PixelData = bytes(range(20))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pydicom.dcmwrite(tmp_path / name, data, enforce_file_format=True)
    return tmp_path


def test_dicom_tree(dicom_tree, patient_key):
    table = scan_quietly(dicom_tree)
    assert list(table["path"]) == ["one/IM0001", "one/a.dcm", "two/1.2.3.4", "two/b.DCM"]
    assert list(table["label"]) == ["one", "one", "two", "two"]
    assert set(table["width"]) == {5} and set(table["problem"]) == {""}
    key = patient_key.read_bytes()
    assert list(table["patient"]) == [pseudonym(f"patient-{i}", key) for i in (0, 0, 1, 1)]
    assert table.attrs["ignored"] == 1


def test_dicom_without_pixels(dicom_tree):
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(dicom_tree / "two/b.DCM")
    del data.PixelData
    data.save_as(dicom_tree / "two/b.DCM")
    table, said = scan_noting(dicom_tree)
    assert table.set_index("path")["problem"]["two/b.DCM"].startswith("a DICOM file without pixels")
    assert "two/b.DCM (a DICOM file without pixels" in said


def test_a_word_for_no_patient_in_dicom_files_is_no_patient(dicom_tree):
    pydicom = pytest.importorskip("pydicom")
    for name, word in [("one/a.dcm", "ANONYMOUS"), ("two/b.DCM", "Unknown")]:
        data = pydicom.dcmread(dicom_tree / name)
        data.PatientID = word
        data.save_as(dicom_tree / name)
    table, said = scan_noting(dicom_tree)
    assert table["patient"].isna().tolist() == [False, True, False, True]
    assert "2 of 4 DICOM files have a word" in said and "ANONYMOUS" not in said


def test_one_patient_id_written_in_several_ways(dicom_tree):
    pydicom = pytest.importorskip("pydicom")
    names = sorted(file.relative_to(dicom_tree).as_posix() for file in dicom_tree.glob("*/*"))
    for name, patient in zip(names, ["007", "7 ", "Doe-1", "DOE1"], strict=True):
        data = pydicom.dcmread(dicom_tree / name)
        data.PatientID = patient
        data.save_as(dicom_tree / name)
    table, said = scan_noting(dicom_tree)
    patients = table.set_index("path")["patient"][names].tolist()
    assert patients[0] == patients[1] and len(set(patients)) == 3
    assert "1 Patient IDs of the DICOM files differ from another one in case or signs alone" in said
    assert "doe" not in said.lower() and "doe" not in table.to_csv().lower()


def test_many_dicom_files_of_one_patient_id_are_told(dicom_tree):
    for n in range(8):
        shutil.copy(dicom_tree / "one/a.dcm", dicom_tree / f"two/c{n}.dcm")
    for name in ("two/1.2.3.4", "two/b.DCM"):
        shutil.copy(dicom_tree / "one/a.dcm", dicom_tree / name)
    _, said = scan_noting(dicom_tree)
    assert "all 12 DICOM files have the same Patient ID" in said and "patient_col" in said


def test_dicom_labels_by_uid(dicom_tree):
    csv = write_csv(dicom_tree, "SOPInstanceUID,label\n1.2.3.3,y\n1.2.3.0,x\n1.2.3.1,x\n1.2.3.2,y\n1.2.3.77,y\n")
    for source, labels in [(dicom_tree, csv), (csv, None)]:
        table, said = scan_noting(source, labels=labels, path_col="SOPInstanceUID")
        good = table[table["problem"] == ""]
        assert dict(zip(good["path"], good["label"], strict=True)) == {
            "one/IM0001": "x",
            "one/a.dcm": "x",
            "two/1.2.3.4": "y",
            "two/b.DCM": "y",
        }
        assert "row 5, no file has its UID (file is missing)" in said
        assert "1.2.3.77" not in table.to_csv()
    (dicom_tree / "copy.dcm").write_bytes((dicom_tree / "one/a.dcm").read_bytes())
    with pytest.raises(DataError, match="row 2, column 'SOPInstanceUID': two files have this UID"):
        scan(dicom_tree, labels=csv, path_col="SOPInstanceUID")


def test_instance_uid_of_other_files(make_images):
    assert instance_uid(make_images("1.png") / "1.png") is None


# ---- the real sets


def test_hello_world(shared_data):
    table = scan_quietly(shared_data / "hello-world")
    assert table.groupby("partition").size().to_dict() == {"test": 2, "train": 65, "valid": 10}
    assert table["label"].value_counts().to_dict() == {"openI_CXR": 38, "openI_abd_xray": 37}
    assert set(table["problem"]) == {""}


def test_hannover_by_image_id(shared_data):
    folder = shared_data / "hannover-cxr"
    table = scan_quietly(
        folder,
        labels="data.csv",
        path_col="image_id",
        label_col="projection",
        patient_col="patient_id",
        check_pixels=False,
    )
    assert len(table) == 243 and table["patient"].nunique() == 71 and set(table["label"]) == {"ap", "pa"}
    raw = pd.read_csv(folder / "data.csv")
    assert not set(raw["patient_id"]) & set(table["patient"])


def test_siim_by_uid_and_by_path(shared_data):
    folder = shared_data / "dicom" / "siim-cxr35"
    by_path = scan_quietly(folder, labels="labels.csv", path_col="file")
    by_uid = scan_quietly(
        folder, labels="labels.csv", path_col="sop_instance_uid", patient_col="patient_id", check_pixels=False
    )
    assert by_path["label"].value_counts().to_dict() == {"No Pneumothorax": 27, "Pneumothorax": 8}
    for column in ("path", "label", "patient"):  # the CSV's patient is the file's
        assert list(by_path[column]) == list(by_uid[column])


# ---- layouts and names as people have them


def test_masks_other_endings_and_roles_are_left_out_with_a_word(make_images):
    root = make_images(*PAIRS, "a/1_mask.png", "a/2_mask.png", "b/images/5.jfif", "b/images/6.IMA")
    for name in ("a/7.gif", "b/8.heic", "b/9.HEIC"):
        (root / name).write_bytes(b"x")
    table, said = scan_noting(root)
    assert [p for p in table["path"] if p not in PAIRS] == ["b/images/5.jfif", "b/images/6.IMA"]
    assert "2 files are masks" in said and "first 'a/1_mask.png'" in said
    assert "1 files end in .gif" in said and "2 files end in .heic" in said
    assert table.attrs["ignored"] == 5


def test_links_that_a_table_names_without_ending_are_told_of(make_images, tmp_path):
    outside, root = make_images("1.png", "2.png"), tmp_path / "linked"
    root.mkdir()
    for name in ("1.png", "2.png"):
        (root / name).symlink_to(outside / name)
    labels = pd.DataFrame({"path": ["1", "2"], "label": ["a", "b"]})
    with pytest.raises(DataError, match="file is missing") as error:
        scan(root, labels=labels)
    assert error.value.remedy == "the folder holds 2 links to images outside: follow_links=True takes them"
    assert list(scan(root, labels=labels, follow_links=True)["label"]) == ["a", "b"]


def test_links_to_outside_are_counted_and_followed_on_request(make_images, tmp_path):
    store = make_images("1.png", "2.png", root=tmp_path / "store")
    root = tmp_path / "set"
    for number, name in ((1, "a"), (2, "b")):
        (root / name).mkdir(parents=True)
        (root / name / "x.png").symlink_to(store / f"{number}.png")
    with pytest.raises(DataError, match=r"2 files are links to outside.*follow_links=True"):
        scan(root)
    table, _ = scan_noting(root, follow_links=True)
    assert list(table["path"]) == ["a/x.png", "b/x.png"] and set(table["problem"]) == {""}
    csv = write_csv(root, "path,label\na/x.png,a\nb/x.png,b\n")
    with pytest.raises(DataError, match=r"link to outside.*\n.*follow_links=True"):
        scan(csv)
    assert len(scan_noting(csv, follow_links=True)[0]) == 2
    with pytest.raises(DataError, match="lies outside"):  # a path is no link
        scan(write_csv(root, "path,label\n../store/1.png,a\n"), follow_links=True)


@pytest.mark.parametrize(
    "written",
    ["Set-v1/deep/{}.png", "Set-v1-small/deep/{}.png", "deep/{}.PNG", "DEEP/{}.png", "{}", "Set-v1\\deep\\{}.png"],
    ids=["the set's own folder first", "another name of it", "ending", "case", "no ending", "backslashes"],
)
def test_paths_of_a_csv_that_differ_from_the_files_are_found(make_images, tmp_path, written):
    root = make_images("deep/u1.png", "deep/u2.png", "deep/u3.png", "deep/u4.png", root=tmp_path / "Set-v1")
    rows = "".join(f"{written.format(f'u{i}')},{'aabb'[i - 1]}\n" for i in (1, 2, 3, 4))
    table, _ = scan_noting(write_csv(root, f"path,label\n{rows}"))
    assert list(table["path"]) == [f"deep/u{i}.png" for i in (1, 2, 3, 4)] and set(table["problem"]) == {""}


def test_a_folder_that_is_not_there_is_no_reason_to_take_a_file_of_that_name_elsewhere(make_images):
    root = make_images("ann/1.png", "ann/2.png")
    table, said = scan_noting(pd.DataFrame({"path": ["ann/1.png", "bob/2.png"], "label": ["x", "y"]}), root=root)
    assert table["path"].tolist() == ["ann/1.png", "bob/2.png"] and "bob/2.png (file is missing" in said


def test_a_number_sign_in_a_name_is_no_frame_where_a_file_is_called_so(make_images):
    root = make_images("a.png", "a#1.png", "b#2.png")
    table = scan(pd.DataFrame({"path": ["a#1", "b#2", "a"], "label": ["x", "y", "x"]}), root=root)
    assert table["path"].tolist() == ["a#1.png", "a.png", "b#2.png"] and not table["problem"].any()


def test_a_file_of_another_ending_is_named_and_not_taken(make_images):
    root = make_images(*PAIRS)
    table, said = scan_noting(write_csv(root, "path,label\na/1.png,a\na/2.jpg,a\nb/3.png,b\nb/4.png,b\n"))
    assert "file is missing (there is 'a/2.png')" in said
    assert table.set_index("path")["problem"]["a/2.jpg"].startswith("file is missing")


def test_where_every_file_is_missing_the_folders_own_names_are_told(make_images, tmp_path):
    folder = make_images("pictures/007.png", "pictures/012.png")
    (folder / "labels.csv").write_text("path,label\n7,a\n12,b\n")
    with pytest.raises(DataError, match=r"7 \(file is missing \(there is 'pictures/007.png'") as error:
        scan(folder, labels="labels.csv")
    assert "path_col" in error.value.remedy and "pictures/007.png" in error.value.remedy


def test_paths_of_another_machine_and_of_folders_have_their_own_remedies(make_images):
    folder = make_images("p1/1.png", "p2/2.png")
    for paths, remedy in (
        (("/home/them/set/p1/1.png", "/home/them/set/p2/2.png"), f"no file is there: write its part below {folder}"),
        (("p3", "p4/"), "write a row for each image file"),
    ):
        for empty in ("p3", "p4"):
            (folder / empty).mkdir(exist_ok=True)
        write_csv(folder, "path,label\n{},a\n{},b\n".format(*paths))
        with pytest.raises(DataError) as error:
            scan(folder / "labels.csv")
        assert error.value.remedy.startswith(remedy)


def test_a_row_that_names_a_folder_stands_for_its_images(make_images):
    """As MURA's tables name studies, with the name of the set itself in front."""
    studies = [f"train/hand/patient{n}/study{n % 2}" for n in range(1, 5)]
    root = make_images(*(f"{study}/{view}.png" for study in studies for view in (1, 2)), f"{studies[0]}/1_mask.png")
    rows = [f"{root.name}/{study}/,{n % 2}" for n, study in enumerate(studies)]
    write_csv(root, "\n".join(["study,label", *rows]))
    table, said = scan_noting(root / "labels.csv", path_col="study")
    assert dict(zip(table["path"], table["label"], strict=True)) == {
        f"{study}/{view}.png": str(n % 2) for n, study in enumerate(studies) for view in (1, 2)
    }
    assert table["patient"].nunique() == 4 and set(table["partition"]) == {"train"}
    assert "4 of 4 rows of labels.csv name folders: each of the 8 images" in said and "1_mask.png" in said
    assert 'unit="folder" keeps each folder together' in said
    alone = pd.DataFrame({"path": ["patient1", "patient2"], "label": ["x", "y"]})
    table, _ = scan_noting(alone, root=root)
    assert table["path"].tolist() == [f"{study}/{view}.png" for study in studies[:2] for view in (1, 2)]
    with pytest.raises(DataError, match=r"'study1' fits 2 folders \(train/hand/patient[13]/study1, "):
        scan(pd.DataFrame({"path": ["study1"], "label": ["z"]}), root=root)
    within = pd.DataFrame({"path": [studies[0], f"{studies[0]}/1.png"], "label": ["x", "y"]})
    with pytest.raises(DataError, match="in rows 1 and 3, and they differ: 'x' and 'y'"):
        scan(within, root=root)


def test_a_column_called_like_what_is_measured_is_kept_under_another_name(make_images):
    """The height of a patient was dropped, and a subgroup by it was one of the image's."""
    root = make_images(*PAIRS)
    rows = pd.DataFrame({"path": PAIRS, "label": list("aabb"), "height": [150, 160, 170, 180]})
    table, said = scan_noting(rows, root=root)
    assert table["height_given"].tolist() == [150, 160, 170, 180] and table["height"].nunique() == 1
    assert "column 'height' of the DataFrame is kept as 'height_given'" in said
    again, said = scan_noting(table.drop(columns="height_given"), root=root)  # of a scan, which is measured anew
    assert "height_given" not in again and "kept as" not in said


def test_an_id_means_a_picture_and_no_mask_of_its_name(make_images):
    """nnU-Net's masks are called by the ID, and its volumes are not: the masks were trained on."""
    root = make_images("images/1.png", "masks/1.png", "imagesTr/b_7_0000.png", "labelsTr/b_7.png")
    table, said = scan_noting(pd.DataFrame({"path": ["1", "b_7"], "label": ["x", "y"]}), root=root)
    assert table["path"].tolist() == ["b_7", "images/1.png"] and "b_7 (file is missing (there is" in said
    with pytest.raises(DataError, match="fits 2 files"):
        scan(pd.DataFrame({"path": ["1.png"], "label": ["x"]}), root=root)
    for meant in ("b_7.png", "labelsTr/b_7"):
        found, _ = scan_noting(pd.DataFrame({"path": [meant], "label": ["x"]}), root=root)
        assert found["path"].tolist() == ["labelsTr/b_7.png"]


def test_a_column_called_group_is_told_where_it_links_images(make_images):
    """An arm or an age group of that name decided the split unseen."""
    root = make_images(*PAIRS)
    rows = pd.DataFrame({"path": PAIRS, "label": list("aabb"), "group": ["arm", "arm", "other", None]})
    _, said = scan_noting(rows, root=root)
    assert "column 'group' of the DataFrame says which images belong together (2 groups for 3 images)" in said
    assert "column 'group'" not in scan_noting(rows.assign(group=list("wxyz")), root=root)[1]
    assert "column 'group'" not in scan_noting(rows, root=root, label_col="group")[1]


def test_a_folder_without_classes_names_the_table_beside(make_images):
    root = make_images("images/1.png", "images/2.png")
    write_csv(root, "image_id,dx\n1,a\n2,b\n", name="meta.csv")
    with pytest.raises(DataError, match=r"no class folder.*\n.*labels=\"meta.csv\" \(its columns: image_id,dx\)"):
        scan(root)
    table, _ = scan_noting(root, labels="meta.csv", path_col="image_id", label_col="dx")
    assert list(table["label"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("CNV-1016042-1 CNV-1016042-2 DME-2710-1 DME-2710-2", "'CNV-1016042' (2 images)"),
        ("00000013_000 00000013_001 00000014_000 00000014_001", "'00000013' (2 images)"),
        ("person1_virus_6 person1_virus_7 person23_bacteria_8 x_person23_b", "'person1' (2 images)"),
        ("ISIC_0024306 ISIC_0024307 ISIC_0024308 ISIC_0024309", ""),
        ("COVID-1 COVID-2 Normal-1 Normal-2", ""),
        ("10_left 10_right 7_left 7_right", "'10' (2 images)"),
        ("tumor_left tumor_right node_l node_r", ""),
        ("video1_frame7 video1_frame8 video2_frame7 video2_frame8", "'video1' (2 images)"),
        ("IXI12-Guys-slice7 IXI12-Guys-slice8 IXI13-HH-slice7 IXI13-HH-slice8", "'IXI12-Guys' (2 images)"),
        ("0021_LEFT_CC 0021_LEFT_MLO 0022_LEFT_CC 0022_LEFT_MLO", "'0021_LEFT' (2 images)"),
        ("covid-1_AP covid-2_PA normal-1_AP normal-2_lateral", ""),
        ("a-2020-1 a-2020-2 b c d e", ""),
        ("20231105_001 20231105_002 20231106_001 20231106_002", ""),
        ("IMG_20231105_143000 IMG_20231105_143100 IMG_20231106_090000 IMG_20231106_090100", ""),
        ("05.11.2023-1 05.11.2023-2 06.11.2023-1 06.11.2023-2", ""),
        ("20231305_001 20231305_002 20231306_001 20231306_002", "'20231305' (2 images)"),
    ],
)
def test_file_names_that_share_an_id_are_told(make_images, names, told):
    paths = [f"{'ab'[n % 2]}/{name}.png" for n, name in enumerate(names.split())]
    root = make_images(*paths)
    _, said = scan_noting(root)
    assert ("share an ID" in said) == bool(told) and told in said
    rows = pd.DataFrame({"path": paths, "label": "x", "who": list("ppqqrr")[: len(paths)]})
    assert "share an ID" not in scan_noting(rows, root=root, patient_col="who")[1]


def test_labels_of_folders_and_patients_of_a_table(make_images):
    root = make_images(*PAIRS)
    write_csv(root, "path,who\n" + "".join(f"{path},p{n // 3}\n" for n, path in enumerate(PAIRS)))
    table, _ = scan_noting(root, labels="labels.csv", patient_col="who", label_from_parent=1)
    assert list(table["label"]) == list("aabb") and table.groupby("patient").size().tolist() in ([1, 3], [3, 1])
    _, said = scan_noting(root, labels="labels.csv", label_from_parent=1, where={"who": "p1"})
    assert "all images have one label" in said and "a table beside" not in said


def test_folders_called_patient_and_a_number_are_the_tables_numbers(make_images):
    root = make_images("patient001/a.png", "patient002/a.png", "Subject 3/case1/a.png", "p4/a.png")
    write_csv(root, "id,label\n1,a\n2,b\n3,c\n4,d\n")
    table, said = scan_noting(root, labels="labels.csv", patient_col="id")
    assert dict(zip(table["path"], table["label"], strict=True)) == {
        "patient001/a.png": "a",
        "patient002/a.png": "b",
        "Subject 3/case1/a.png": "c",
    }
    assert "1 patients of labels.csv have no image: 4" in said


def test_a_letter_before_a_long_number_is_the_folders_alone(make_images):
    """As MIMIC-CXR's folders p10000032 and s50414267 are 10000032 and 50414267 in its tables."""
    studies = {"p10000032/s50414267": "a", "p10000032/s53189527": "b"}
    studies |= {f"p1000076{n}/s5737596{n}": "b" for n in range(4)}
    root = make_images(*(f"p10/{study}/1.png" for study in studies))
    by_path = {f"p10/{study}/1.png": label for study, label in studies.items()}
    write_csv(root, "study,label\n" + "".join(f"{study[-8:]},{label}\n" for study, label in studies.items()))
    table, said = scan_noting(root, labels="labels.csv", path_col="study")
    assert dict(zip(table["path"], table["label"], strict=True)) == by_path
    assert "'50414267' as 'p10/p10000032/s50414267'" in said and table["patient"].nunique() == 5
    write_csv(root, "id,label\n10000032,a\n10000762,b\n")
    table, _ = scan_noting(root, labels="labels.csv", patient_col="id")
    assert table["label"].tolist() == ["a", "a", "b"]


def test_a_long_number_is_the_one_file_that_begins_with_it(make_images):
    """As INbreast's tables have 20586908 for 20586908_6c613a14b80a8591_MG_R_CC_ANON.dcm, and no patients."""
    root = make_images("all/20586908_6c61_MG_R_CC_ANON.png", "all/20586934_6c61_MG_L_CC_ANON.png")
    write_csv(root, "Patient ID;File Name;Bi-Rads\nremoved;20586908;1\nremoved;20586934;4a\n")
    table, said = scan_noting(
        root, labels="labels.csv", path_col="File Name", label_col="Bi-Rads", patient_col="Patient ID"
    )
    assert table["label"].tolist() == ["1", "4a"] and table["patient"].isna().all()
    assert "2 paths of labels.csv were found as others" in said and "'removed' (2 images)" in said
    make_images("all/20586908_6c61_MG_R_ML_ANON.png")
    with pytest.raises(DataError, match="'20586908' fits 2 files"):
        scan(root, labels="labels.csv", path_col="File Name", label_col="Bi-Rads")


def test_a_folder_with_zeros_in_front_is_told_for_a_number_without(make_images):
    root = make_images("0001/a.png", "0002/a.png", "3/a.png")
    write_csv(root, "study,label\n1,a\n2,b\n3,a\n")
    _, said = scan_noting(root, labels="labels.csv", path_col="study")
    assert "1 (file is missing (there is '0001'))" in said


def test_masks_have_no_label_of_their_patient(make_images):
    root = make_images("7/1.png", "7/1_mask.png", "8/2.png", "8/2_mask.png")
    write_csv(root, "id,label\n7,a\n8,b\n")
    table, said = scan_noting(root, labels="labels.csv", patient_col="id")
    assert list(table["path"]) == ["7/1.png", "8/2.png"] and "2 files are masks" in said


def test_pictures_called_by_their_uid_are_found(make_images):
    root = make_images("train/1.2.826.10.png", "train/1.2.826.11.png")
    write_csv(root, "SOPInstanceUID,label\n1.2.826.10,a\n1.2.826.11,b\n1.2.826.12,b\n")
    table, _ = scan_noting(root, labels="labels.csv", path_col="SOPInstanceUID")
    found = table[table["problem"] == ""]
    assert dict(zip(found["path"], found["label"], strict=True)) == {
        "train/1.2.826.10.png": "a",
        "train/1.2.826.11.png": "b",
    }
    assert table.loc[table["problem"] != "", "path"].tolist() == ["row 3, no file has its UID"]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("set.zip", "unpack it, and give the folder that holds the images"),
        ("pneumoniamnist.npz", "convert it to PNG, and give the folder that holds the images"),
        ("one.png", "give the folder that holds the images"),
    ],
)
def test_what_to_do_with_an_archive_or_an_array_is_said(tmp_path, name, remedy):
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match="neither a folder nor a CSV file") as error:
        scan(tmp_path / name)
    assert error.value.remedy == remedy


def test_a_compressed_table_is_to_be_unpacked(make_images):
    root = make_images(*PAIRS)
    (root / "split.csv.gz").write_bytes(gzip.compress(b"path,label\na/1.png,a\n"))
    for source, given in ((root, {"labels": "split.csv.gz"}), (root / "split.csv.gz", {})):
        with pytest.raises(DataError, match=r"split.csv.gz is compressed\nunpack it, and name the CSV"):
            scan(source, **given)


def test_a_table_with_tabs_may_end_in_tab(make_images):
    root = make_images("part_1/1.png", "part_1/2.png")
    write_csv(root, "image\tdx\n1\ta\n2\tb\n", name="metadata.tab")
    table = scan_noting(root / "metadata.tab", path_col="image", label_col="dx")[0]
    assert list(table["label"]) == ["a", "b"]
    assert 'labels="metadata.tab"' in scan_noting(root)[1]


def test_the_remedy_is_that_of_most_images(make_images):
    root = make_images("images/1.png", "images/2.png", "images/3.png")
    (root / "images/4.png").write_text("not an image")
    with pytest.raises(DataError) as error:
        scan(root)
    assert error.value.remedy.startswith("put each class into a folder")


@pytest.mark.parametrize(
    ("paths", "hinted"),
    [
        (["0/1.png", "0/2.png"], True),
        (["10006/1.png", "10007/2.png"], True),
        (["set_part_1/1.png", "set_part_2/2.png"], True),
        (["ill/1.png", "well/2.png"], False),
    ],
)
def test_folders_that_are_hardly_classes_name_the_table_beside(make_images, paths, hinted):
    root = make_images(*paths)
    write_csv(root, "image_id,dx\n1,a\n2,b\n", name="meta.csv")
    _, said = scan_noting(root)
    assert ('labels="meta.csv" (its columns: image_id,dx)' in str(said)) == hinted


def test_patients_are_told_by_folders_where_a_table_has_the_labels(make_images):
    paths = [f"patient0000{n}/study1/view{v}.png" for n in (1, 2) for v in (1, 2)]
    root = make_images(*(f"train/{path}" for path in paths))
    rows = pd.DataFrame({"Path": [f"CheXpert/train/{path}" for path in paths], "Edema": list("0101")})
    rows["who"] = list("aabc")
    table, said = scan_noting(root, labels=rows, path_col="Path", label_col="Edema")
    assert "2 patients are told by the names of folders" in str(said)
    assert table.groupby("patient").size().tolist() == [2, 2]
    pieces = make_images("p1/1.png", "p1/2.png", "p2/3.png", root=root / "pieces")
    rows_of_pieces = pd.DataFrame({"path": ["p1/1.png", "p1/2.png", "p2/3.png"], "label": list("aba")})
    assert "told by the names of folders" not in scan_noting(pieces, labels=rows_of_pieces)[1]
    named, _ = scan_noting(root, labels=rows, path_col="Path", label_col="Edema", patient_col="who")
    assert sorted(named.groupby("patient").size()) == [1, 1, 2]


def test_the_root_does_not_move_with_the_working_folder(make_images, monkeypatch):
    root = make_images(*PAIRS)
    monkeypatch.chdir(root.parent)
    for source in (root.name, pd.DataFrame({"path": PAIRS, "label": list("aabb")})):
        where = {} if isinstance(source, str) else {"root": root.name}
        assert scan_quietly(source, **where).attrs["root"] == str(root)


def test_what_is_unknown_stands_in_the_table(make_images):
    root = make_images("1.png", "2.png", "3.png")
    frame = pd.DataFrame({"path": ["1.png", "2.png", "3.png"], "a": [1, -1, 0], "b": [0, 1, None]})
    table, _ = scan_noting(frame, root=root, label_col=["a", "b"], uncertain="unknown", blank="unknown")
    assert list(table["label"]) == [("a",), ("b",), ()]
    assert list(table["unknown"]) == [(), ("a",), ("b",)] and table.attrs["labels"] == ["a", "b"]


def test_pictures_videos_and_archives_that_are_not_read_are_named(make_images):
    root = make_images(*PAIRS)
    for name in ("a/5.gif", "a/6.nrrd", "b/7.MP4", "set.zip", "notes.txt"):
        (root / name).write_bytes(b"x")
    _, said = scan_noting(root)
    for words in (".gif,.*convert", ".nrrd,.*convert.*NIfTI", ".mp4,.*frames", ".zip,.*unpack"):
        assert re.search(f"1 files end in {words}", said), words
    assert "notes" not in said


def test_files_without_an_ending_are_told_by_their_first_bytes(make_images):
    root = make_images(*PAIRS, "a/5.png", "b/6.jpg")
    (root / "a/5.png").rename(root / "a/IM5")
    (root / "b/6.jpg").rename(root / "b/IM.6")
    (root / "b/README").write_bytes(b"BM is what it begins with")
    assert len(scan_quietly(root)) == 6


def test_bitmaps_and_webp_are_images(make_images):
    table = scan_quietly(make_images(*PAIRS, "a/5.bmp", "b/6.webp"))
    assert len(table) == 6 and set(table["problem"]) == {""}


def test_masks_are_told_by_what_they_show(make_images):
    rng = np.random.default_rng(0)
    root = make_images(*PAIRS)
    for name in PAIRS:
        Image.fromarray(rng.integers(0, 256, (20, 30), np.uint8)).save(root / name)
    for name in ("a/1b.png", "b/3b.png"):
        Image.fromarray(np.eye(20, 30, dtype=np.uint8) * 255).save(root / name)
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(root / "b/4b.png")  # of no other image's size
    _, said = scan_noting(root)
    assert "2 of 7 images have the few grey levels of a mask (a/1b.png, b/3b.png)" in said


def test_what_is_warned_of_stays_with_the_table_but_what_a_new_split_may_mend(make_images):
    root = make_images("train/a/1.png", "train/a/2.png", "train/b/1.png", "train/b/1_mask.png", "valid/a/3.png")
    with pytest.warns(MedclfWarning) as told:
        table = scan(root)
    said = [str(one.message) for one in told]
    assert any("1 files are masks" in text for text in table.attrs["notes"])
    assert set(said) - set(table.attrs["notes"]) == {text for text in said if "is in train and not in valid" in text}
    assert table.copy().attrs["notes"] == table.attrs["notes"]


def test_a_mapping_is_pairs_and_a_label_is_one_text(make_images):
    root = make_images("1.png", "2.png")
    assert list(scan_noting({"1.png": "a", "2.png": "b"}, root=root)[0]["label"]) == ["a", "b"]
    with pytest.raises(DataError, match=r"label_from gave \['a'\] for '1.png'"):
        scan(root, label_from=lambda path: ["a"])


def test_a_table_without_rows_says_so(make_images):
    with pytest.raises(DataError, match=r"labels\.csv has no rows"):
        scan(write_csv(make_images("1.png"), "path,label\n"))


def test_rows_of_one_image_that_differ_elsewhere_are_told(make_images):
    csv = write_csv(make_images("1.png", "2.png"), "path,label,age\n1.png,a,50\n2.png,b,60\n1.png,a,51\n")
    table, said = scan_noting(csv)
    assert "with the first row's 'age', which differ" in said and list(table["age"]) == [50, 60]


def test_a_column_that_looks_like_patients_is_named_where_none_is(make_images, patient_key):
    csv = write_csv(make_images(*PAIRS), "path,label,Patient ID\n" + "".join(f"{p},{p[0]},{p[0]}\n" for p in PAIRS))
    _, said = scan_noting(csv)
    assert "column 'Patient ID' looks like patients (2 for 4 images)" in said and 'patient_col="Patient ID"' in said
    _, said = scan_noting(csv, patient_col="Patient ID")
    assert "looks like" not in said


@pytest.mark.parametrize("name", ["id_patient", "ID_PACIENTE", "Patientennummer", "患者ID"])
def test_columns_of_patients_are_known_in_other_languages(make_images, name):
    csv = write_csv(make_images(*PAIRS), f"path,label,{name}\n" + "".join(f"{p},{p[0]},{p[0]}\n" for p in PAIRS))
    assert f"column '{name}' looks like patients (2 for 4 images)" in scan_noting(csv)[1]


def test_a_review_is_not_taken_for_labels(make_images):
    root = make_images("a.png", "b.png")
    review = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["x", "y"], "mark": ["", "new label"]})
    review.assign(new_label=["", "x"]).to_csv(root / "review.csv", index=False)
    for given in ({"items": root, "labels": "review.csv"}, {"items": root / "review.csv"}):
        with pytest.raises(DataError, match=r"review\.csv is a review") as error:
            scan(given.pop("items"), **given)
        assert error.value.remedy.endswith("the review to a training as corrections")
    with pytest.raises(DataError, match="the DataFrame of labels is a review"):
        scan(root, labels=review.assign(new_label=["", "x"]))
    review.assign(mark="", new_label="").to_csv(root / "review.csv", index=False)  # it corrects nothing
    assert list(scan(root, labels="review.csv")["label"]) == ["x", "y"]


@pytest.mark.parametrize("mark", ["poor image", "Poor image "])
def test_an_image_that_a_sheet_calls_poor_is_left_out_whatever_its_label(make_images, mark):
    root = make_images("a.png", "b.png", "c.png")
    sheet = {"path": ["a.png", "b.png", "c.png"], "label": ["x", "y", "y"], "mark": ["", mark, "unsure"]}
    pd.DataFrame(sheet).to_csv(root / "sheet.csv", index=False)
    with pytest.warns(MedclfWarning, match=r"b\.png \(poor image\)"):
        table = scan(root, labels="sheet.csv")
    assert list(usable(table)["path"]) == ["a.png", "c.png"]


@pytest.mark.parametrize(
    "option",
    [
        {"patient_col": "id"},
        {"partition_col": "split"},
        {"path_col": "file"},
        {"label_col": ["a", "b"]},
        {"exclusive": True},
        {"uncertain": "positive"},
        {"where": "sex=F"},
    ],
    ids=str,
)
def test_options_about_columns_are_refused_where_there_are_none(make_images, option):
    root = make_images(*PAIRS)
    for source in (root, [(root / path, path[0]) for path in PAIRS]):
        with pytest.raises(DataError, match=f"{next(iter(option))} is about a table's columns"):
            scan(source, **option)


def test_labels_of_folders_are_taken_apart_as_cells_are(make_images):
    root = make_images("a/1.png", "a/2.png", "a+b/3.png", "b/4.png", "(none)/5.png")
    table = scan(root, label_delim="+")
    assert table.attrs["multi_label"] and set(table["label"]) == {("a",), ("a", "b"), ("b",), ()}
    with pytest.raises(DataError, match="label_from_parent takes the labels from folders, and the list has labels"):
        scan([(root / "a/1.png", "a")], label_from_parent=1)


@pytest.mark.parametrize("source", [None, 5])
def test_what_holds_no_images_is_named(source):
    with pytest.raises(DataError, match="is no list of images"):
        scan(source)


@pytest.mark.parametrize(
    ("rows", "how", "remedy"),
    [
        ({"label": ["a|", "b|"]}, {"label_delim": "|"}, "fill the labels, without separators at their ends"),
        (
            {"a": [-1, -1], "b": [0, 1]},
            {"label_col": ["a", "b"], "uncertain": "exclude"},
            "let uncertain and blank count",
        ),
        ({"label": ["a", "b"]}, {"window": "lung"}, "\nchoose another window"),
    ],
)
def test_the_remedy_for_cells_is_none_for_files(make_images, rows, how, remedy):
    """Users were told to repair images that are sound."""
    root = make_images("1.png", "2.png")
    with pytest.raises(DataError, match=remedy):
        scan(pd.DataFrame({"path": ["1.png", "2.png"], **rows}), root=root, **how)


def test_where_no_folder_lies_so_far_above_another_number_is_asked_for(make_images):
    with pytest.raises(DataError, match="choose a lower label_from_parent"):
        scan(make_images("a/1.png", "b/2.png"), label_from_parent=3)


def test_a_table_that_was_scanned_is_taken_as_it_is(make_images):
    """Scanned again it would lose its patients, and look for its files in the current folder."""
    root = make_images("a/1.png", "b/2.png")
    table = scan(root, progress=False).assign(patient=["p", "q"])
    found = scanned_already(table, {}, "middle")
    assert found.attrs == table.attrs and found.equals(table) and found is not table
    with pytest.raises(DataError, match="scanned already, so label_col changes nothing"):
        scanned_already(table, {"label_col": "finding"}, "middle")
    with pytest.raises(DataError, match="each frame is an image here, and the table has files"):
        scanned_already(table, {}, "all")
    assert scanned_already(root, {}, "all") is None and scanned_already(pd.DataFrame({"path": []}), {}, "all") is None


def test_a_column_that_is_named_by_a_number_is_refused_with_its_argument(make_images):
    root = make_images("a.png", "b.png")
    table = pd.DataFrame({"path": ["a.png", "b.png"], "label": ["x", "y"], "who": ["p", "q"]})
    with pytest.raises(DataError, match="patient_col must be the name of a column, not 2"):
        scan(table, root=root, patient_col=2)
