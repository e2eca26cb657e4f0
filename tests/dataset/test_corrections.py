"""Corrections of a second read, applied to a table: what changes, what does not, and what is refused."""

import pandas as pd
import pytest
from PIL import Image

from medclf.dataset.corrections import correct, read_corrections
from medclf.dataset.scan import scan
from medclf.dataset.units import with_units
from medclf.errors import DataError

HEADER = "path,label,mark,new_label,note\n"


@pytest.fixture
def table(tmp_path):
    for i, label in enumerate(["x", "x", "x", "y", "y", "y"]):
        place = tmp_path / "data" / label / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(place)
    return scan(tmp_path / "data", progress=False)


def marked(tmp_path, *lines, header=HEADER):
    file = tmp_path / "review.csv"
    file.write_text(header + "".join(f"{line}\n" for line in lines))
    return read_corrections(file)


def test_every_mark_does_what_it_says(table, tmp_path):
    lines = [
        "x/0.png,x,new label,y,",
        "x/1.png,x,Poor image,,blurred",
        "y/3.png,y,label wrong,,",
        "y/4.png,y,label wrong,x,",
        "y/5.png,y,unsure,x,",
    ]
    found, done = correct(table, marked(tmp_path, *lines))
    rows = found.set_index("path")
    assert rows["label"].to_dict() == {
        "x/0.png": "y",
        "x/1.png": "x",
        "x/2.png": "x",
        "y/3.png": "y",
        "y/4.png": "x",
        "y/5.png": "y",
    }
    assert rows.loc["x/1.png", "problem"] == "poor image (review.csv)"
    assert "its label is wrong" in rows.loc["y/3.png", "problem"]
    assert (rows["problem"] != "").sum() == 2
    assert rows["label_before"].tolist() == ["x", "", "", "", "y", ""]
    assert rows["correction"].tolist() == ["relabelled", "left out", "", "left out", "relabelled", "kept"]
    assert (done["relabelled"], done["left_out"], done["kept"]) == (2, 2, 1)
    assert "2 images have another label, 2 are left out" in done["sentence"]
    assert found.attrs == table.attrs and "correction" not in table and (table["problem"] == "").all()


def test_several_labels_are_replaced_as_a_set(tmp_path):
    frame = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "label": ["m|n", "n", "m"]})
    for path in frame["path"]:
        Image.new("L", (8, 8)).save(tmp_path / path)
    table = scan(frame, root=tmp_path, label_delim="|", progress=False)
    lines = ["a.png,n | m,new label,m,", "b.png,n,new label,n|m,", "c.png,m,new label,(none),"]
    found, _ = correct(table, marked(tmp_path, *lines))
    assert found["label"].tolist() == [("m",), ("m", "n"), ()]
    found, _ = correct(found, marked(tmp_path, "c.png,(none),new label,n,"))  # as a reader's sheet writes no finding
    assert found["label"].tolist() == [("m",), ("m", "n"), ("n",)]


def test_a_spreadsheet_s_file_is_read_too(table, tmp_path):
    """Semicolons, a byte order mark, and the quote that keeps "=1.png" from being a formula."""
    Image.new("L", (8, 8)).save(tmp_path / "data" / "x" / "=1.png")
    (tmp_path / "data" / "x" / "=1.png").rename(tmp_path / "data" / "=1.png")
    frame = pd.DataFrame({"path": ["=1.png", "x/0.png", "y/3.png"], "label": ["x", "x", "y"]})
    table = scan(frame, root=tmp_path / "data", progress=False)
    file = tmp_path / "review.csv"
    file.write_text("\ufeffpath;label;mark;new_label\n'=1.png;x;new label;y\n", encoding="utf-8")
    assert correct(table, read_corrections(file))[0].set_index("path").loc["=1.png", "label"] == "y"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("z/9.png,x,new label,y,", "row 1: the data have no image z/9.png"),
        ("x/0.png,y,new label,x,", "x/0.png has the label 'x' in the data, and had 'y'"),
        ("x/0.png,x,new label,polyp,", "no image of the data has the label 'polyp'"),
        ("x/0.png,x,new label,,", "is to get a new label, and none is given"),
        ("x/0.png,x,wrong,,", "the mark 'wrong' is unknown"),
        (",x,unsure,,", "row 1 names no image"),
        ("x/0.png,x,unsure,,\nx/0.png,x,poor image,,", r"x/0.png is there 2 times"),
        ("x/0.png,x,unsure,,\n0.png,,new label,y,", "row 2: 0.png is x/0.png, which another row is about, too"),
        ("9.png,,new label,y,", "row 1: the data have no image 9.png"),
    ],
)
def test_what_cannot_be_is_named(table, tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        correct(table, marked(tmp_path, line))


def test_a_bare_name_is_the_one_image_that_has_it(table, tmp_path):
    """As the service's page saves them: browsers tell no folder."""
    found, done = correct(table, marked(tmp_path, "0.png,,new label,y,", "x/1.png,x,new label,y,"))
    assert found.set_index("path")["label_before"].to_dict() == {
        **dict.fromkeys(table["path"], ""), "x/0.png": "x", "x/1.png": "x"
    }  # fmt: skip
    assert done["matched_by_name"] == 1 and "1 of the 2 were matched by file name alone" in done["sentence"]
    assert done["images"][0]["path"] == "x/0.png"
    assert "file name" not in correct(table, marked(tmp_path, "x/1.png,x,new label,y,"))[1]["sentence"]


def test_a_bare_name_of_two_images_is_refused_with_both(table, tmp_path):
    for folder in ("x", "y"):
        Image.new("L", (8, 8), 250).save(tmp_path / "data" / folder / "same.png")
    Image.new("L", (8, 8), 251).save(tmp_path / "data" / "x" / "3.png")
    table = scan(tmp_path / "data", progress=False)
    with pytest.raises(DataError, match=r"2 images are named same\.png: x/same\.png, y/same\.png"):
        correct(table, marked(tmp_path, "same.png,,new label,y,"))


@pytest.fixture
def stacks(tmp_path):
    """Two files of three pages each, of a class each, and every page an image."""
    for label in ("x", "y"):
        (tmp_path / "stacks" / label).mkdir(parents=True)
        first, *rest = [Image.new("L", (8, 8), 40 * page + ord(label)) for page in range(3)]
        first.save(tmp_path / "stacks" / label / f"{label}.tif", save_all=True, append_images=rest)
    return scan(tmp_path / "stacks", frame="all", progress=False)


def test_a_file_of_several_frames_stands_for_each_of_them(stacks, tmp_path):
    lines = ["x.tif,,new label,y,", "y/y.tif#1,y,poor image,,"]
    found, done = correct(stacks, marked(tmp_path, *lines))
    rows = found.set_index("path")
    assert rows["label"].tolist() == ["y"] * 6
    assert (done["relabelled"], done["left_out"], done["matched_by_name"]) == (3, 1, 3)
    assert "1 rows name a file of several frames: what they say counts for each frame." in done["sentence"]
    with pytest.raises(DataError, match=r"y\.tif is y/y\.tif#1, which another row is about"):
        correct(stacks, marked(tmp_path, "y/y.tif#1,y,poor image,,", "y.tif,,poor image,,"))
    mixed = stacks.assign(label=["x", "y", "x", *["y"] * 3])
    with pytest.raises(DataError, match=r"x/x\.tif has frames of several labels: x, y"):
        correct(mixed, marked(tmp_path, "x/x.tif,,new label,y,"))


def of_units(tmp_path, labels, **options):
    """Images of two patients, three each."""
    rows = pd.DataFrame({"path": [f"{i}.png" for i in range(6)], "label": labels, "patient": [*"aaabbb"]})
    for i, path in enumerate(rows["path"]):
        Image.new("L", (8, 8), 20 * i).save(tmp_path / path)
    return with_units(scan(rows, root=tmp_path, progress=False, **options), "patient")


def test_a_corrected_label_is_the_whole_unit_s(tmp_path):
    """A page by patient shows the image that decided: with that one alone relabelled, the patient's is unknown."""
    table = of_units(tmp_path, [*"xxyyyy"])
    found, done = correct(table, marked(tmp_path, "1.png,x,new label,y,", "4.png,y,poor image,,"))
    assert found["label"].tolist() == [*"yyyyyy"] and (found["problem"] != "").sum() == 1
    assert (done["relabelled"], done["left_out"]) == (2, 1)
    assert "1 of them are the other images of a patient whose label was corrected." in done["sentence"]
    found, done = correct(table, marked(tmp_path, "3.png,y,new label,x,", "4.png,y,new label,x,"))
    assert found["label_before"].tolist() == ["", "", "", "y", "y", "y"] and len(done["images"]) == 3
    found, _ = correct(table, marked(tmp_path, "4.png,y,label wrong,,"))
    assert (found["problem"] != "").tolist() == [False] * 3 + [True] * 3
    with pytest.raises(DataError, match="same patient as an image of another row"):
        correct(of_units(tmp_path, [*"xxxyyy"]), marked(tmp_path, "0.png,x,new label,y,", "1.png,x,label wrong,,"))


def test_of_several_labels_a_unit_has_those_of_any_image(tmp_path):
    table = of_units(tmp_path, ["m", "n", "m|n", "m", "m", "n"], label_delim="|")
    found, _ = correct(table, marked(tmp_path, "0.png,m|n,new label,m,"))
    assert found["label"].tolist() == [("m",)] * 5 + [("n",)]


def test_what_a_reader_says_is_no_longer_unknown_and_a_blank_label_is_filled_in(tmp_path):
    for name in "abc":
        Image.new("L", (8, 8), ord(name)).save(tmp_path / f"{name}.png")
    frame = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "mass": ["1", "0", "-1"], "edema": ["1", "1", "0"]})
    how = {"root": tmp_path, "progress": False}
    table = scan(frame, label_col=["mass", "edema"], uncertain="unknown", **how)
    found, _ = correct(table, marked(tmp_path, "c.png,,new label,mass,"))
    assert list(found["label"][2]) == ["mass"] and found["unknown"].tolist() == [(), (), ()]
    with pytest.warns(match="blank label"):
        table = scan(pd.DataFrame({"path": frame["path"], "label": ["x", "y", ""]}), **how)
    found, _ = correct(table, marked(tmp_path, "c.png,,new label,x,"))
    assert found["problem"].tolist() == ["", "", ""] and found["label"].tolist() == ["x", "y", "x"]


def test_rows_of_a_page_without_names_need_their_run(tmp_path):
    with pytest.raises(DataError, match="medclf review import"):
        marked(tmp_path, "3,x,unsure,,", header="row,label,mark,new_label,note\n")
    with pytest.raises(DataError, match="no column 'mark'"):
        marked(tmp_path, "x/0.png,x", header="path,label\n")
