import json
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from medclf.dataset.box_files import read_box_file
from medclf.dataset.boxes import boxes_of, read_boxes, unlisted_sentences, with_boxes
from medclf.dataset.given_boxes import GivenBox, GivenImage
from medclf.dataset.scan import scan
from medclf.dataset.sources import FOLDER_OR_NONE
from medclf.errors import DataError, MedclfWarning
from medclf.images.box_places import SIDES


def images(*paths: str, size: tuple[int, int] = (40, 30), label: str | None = None) -> pd.DataFrame:
    rows = {"path": list(paths), "label": [label] * len(paths), "width": size[0], "height": size[1], "problem": ""}
    return pd.DataFrame(rows)


def given(*corners: float, **facts: object) -> list[GivenImage]:
    return [GivenImage("a.png", boxes=[GivenBox("polyp", corners)], **facts)]


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}, {"id": 2, "file_name": "b.png"}],
    "categories": [{"id": 7, "name": "polyp"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 12]}],
}
HYPERKVASIR = {
    "a": {"width": 40, "height": 30, "bbox": [{"label": "polyp", "xmin": 2, "ymin": 3, "xmax": 12, "ymax": 15}]},
    "b": {"width": 40, "height": 30, "bbox": []},
}
VOC = """<annotation><filename>a.png</filename><size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>polyp</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>12</xmax><ymax>15</ymax></bndbox></object></annotation>"""
NO_OBJECT = "<annotation><filename>b.png</filename></annotation>"


def written(folder: Path, kind: str) -> Path:
    """The same box and the same image without a finding, in each format."""
    if kind in ("coco", "hyperkvasir"):
        file = folder / "boxes.json"
        file.write_text(json.dumps(COCO if kind == "coco" else HYPERKVASIR))
        return file
    if kind == "csv":
        file = folder / "boxes.csv"
        file.write_text("filename;class;xmin;ymin;xmax;ymax\na.png;polyp;2;3;12;15\nb.png;;;;;\n")
        return file
    (folder / "boxes").mkdir()
    if kind == "voc":
        (folder / "boxes/a.xml").write_text(VOC)
        (folder / "boxes/b.xml").write_text(NO_OBJECT)
    else:
        (folder / "boxes/classes.txt").write_text("ulcer\npolyp\n")
        (folder / "boxes/a.txt").write_text(f"1 {7 / 40} {9 / 30} {10 / 40} {12 / 30}\n")
        (folder / "boxes/b.txt").write_text("")
    return folder / "boxes"


@pytest.mark.parametrize("kind", ["coco", "hyperkvasir", "csv", "voc", "yolo"])
def test_every_format_gives_the_same_table(tmp_path: Path, kind: str) -> None:
    boxes = read_boxes(written(tmp_path, kind), images("x/a.png", "x/b.png", "x/c.png"))
    assert boxes.table[["path", "label"]].to_numpy().tolist() == [["x/a.png", "polyp"]]
    assert boxes.table[list(SIDES)].iloc[0].tolist() == pytest.approx([2, 3, 12, 15])
    assert boxes.listed == {"x/a.png", "x/b.png"} and not boxes.left_out and not boxes.clipped
    assert "1 boxes on 1 images: polyp 1; 1 listed images without a finding" in list(boxes.sentences())


@pytest.mark.parametrize("bbox", [{}, {"bbox": []}, {"bbox": None}])
def test_coco_polygons_without_a_bbox_have_the_box_around_them(tmp_path: Path, bbox: dict) -> None:
    polygons = [[2, 5, 12, 3, 7, 15], [4.5, 4, 6, 4, 5, 9]]
    only = {"id": 1, "image_id": 1, "category_id": 7, "segmentation": polygons, **bbox}
    (tmp_path / "a.json").write_text(json.dumps(COCO | {"annotations": [only]}))
    assert read_boxes(tmp_path / "a.json", images("a.png")).table[list(SIDES)].iloc[0].tolist() == [2, 3, 12, 15]
    only["segmentation"] = {"counts": "PPYo0", "size": [30, 40]}
    (tmp_path / "a.json").write_text(json.dumps(COCO | {"annotations": [only]}))
    with pytest.raises(DataError, match="no polygons as 'segmentation'"):
        read_boxes(tmp_path / "a.json", images("a.png"))


@pytest.mark.parametrize("kind", ["coco", "hyperkvasir", "voc", "csv"])
def test_what_a_detector_predicted_is_not_taken_for_what_is_there(tmp_path: Path, kind: str) -> None:
    file = written(tmp_path, kind)
    if kind == "voc":
        file = file / "a.xml"
        whole = file.read_text().replace("</name>", "</name><score>SCORE</score>")
    elif kind == "csv":
        whole = "filename,class,Confidence,xmin,ymin,xmax,ymax\na.png,polyp,SCORE,2,3,12,15\n"
    else:
        before = '"category_id": 7' if kind == "coco" else '"xmin": 2'
        whole = file.read_text().replace(before, f'{before}, "score": SCORE')
    for says_nothing in ("1", "87", "null" if "json" in file.name else ""):
        file.write_text(whole.replace("SCORE", says_nothing))
        assert len(read_box_file(file)[0].boxes) == 1
    for score in ("0.87", "87.5"):
        file.write_text(whole.replace("SCORE", score))
        with pytest.raises(DataError, match=rf"the box of a.*has the score {re.escape(score)}"):
            read_box_file(file)


@pytest.mark.parametrize(
    ("column", "cells", "refused"),
    [
        ("score", [87, 12, 55], True),  # percent
        ("confidence (%)", ["87 %", "91 %", "100 %"], True),
        ("detectionScore", ["0,5", "0,8", "1"], True),
        ("score", [-2.25, 1, 0], True),  # logits
        ("score", [100, 100, 100], False),
        ("confidence", [1, 5, 3], False),  # a reader's certainty
        ("prob", [0, 1, 1], False),
        ("score", [150, 12, 900], False),
        ("problems", [87, 12, 55], False),
    ],
)
def test_scores_in_percent_are_a_detector_s_and_grades_are_not(tmp_path, column, cells, refused) -> None:
    file = tmp_path / "boxes.csv"
    rows = [f"{i}.png;polyp;2;3;12;15;{cell}" for i, cell in enumerate(cells)]
    file.write_text("\n".join([f"path;label;x_min;y_min;x_max;y_max;{column}", *rows]))
    if not refused:
        assert len(read_box_file(file)) == 3
        return
    with pytest.raises(DataError, match=r"0\.png, row 2, has the score") as caught:
        read_box_file(file)
    assert f"take {column} out of the file" in str(caught.value)


def test_scores_in_percent_are_seen_across_the_files_of_a_folder(tmp_path: Path) -> None:
    folder = written(tmp_path, "voc")
    whole = (folder / "a.xml").read_text()
    for name, score in (("a", 87), ("z", 12)):
        (folder / f"{name}.xml").write_text(whole.replace("</name>", f"</name><score>{score}</score>"))
    with pytest.raises(DataError, match="has the score 87"):
        read_box_file(folder)


def test_a_box_of_the_background_is_no_finding_and_is_counted() -> None:
    boxes = [GivenBox("polyp", (2, 3, 12, 15)), GivenBox("__background__", (0, 0, 40, 30))]
    given = [GivenImage("a.png", boxes=boxes), GivenImage("b.png", boxes=boxes[1:])]
    found = boxes_of(given, images("a.png", "b.png"))
    assert found.table["label"].tolist() == ["polyp"] and found.listed == {"a.png", "b.png"}
    assert "2 boxes are called background, which is no finding: they are left out" in list(found.sentences())


def test_names_of_yolo_may_stand_in_a_yaml_file(tmp_path: Path) -> None:
    folder = written(tmp_path, "yolo")
    (folder / "classes.txt").unlink()
    with pytest.raises(DataError, match="names of the classes are missing"):
        read_box_file(folder)
    (tmp_path / "data.yaml").write_text("train: x\nnames:\n  0: ulcer\n  1: polyp\n")
    assert read_box_file(folder)[0].boxes[0].label == "polyp"


@pytest.mark.parametrize(
    ("corners", "facts", "reason"),
    [
        ((2, 3, 2, 15), {}, "empty"),
        ((12, 3, 2, 15), {}, "swapped"),
        ((60, 3, 80, 15), {}, "outside"),
        ((2, 3, float("nan"), 15), {}, "no number"),
        ((2, 3, 12, 15), {"size": (80, 60)}, "other size"),
        ((2, 3, 12, 15), {"size": (30, 40)}, "other size"),
    ],
)
def test_a_box_that_cannot_be_leaves_its_image_out(corners: tuple, facts: dict, reason: str) -> None:
    boxes = boxes_of(given(*corners, **facts), images("a.png", "b.png"))
    assert boxes.left_out["a.png"].startswith(reason) and boxes.table.empty
    assert f"({reason} 1)" in " ".join(boxes.sentences())
    table = with_boxes(images("a.png"), boxes)
    assert table["problem"][0].startswith(reason)


def test_one_bad_box_takes_the_good_ones_of_its_image_along() -> None:
    both = GivenImage("a.png", boxes=[GivenBox("polyp", (2, 3, 12, 15)), GivenBox("polyp", (5, 5, 5, 5))])
    boxes = boxes_of([both], images("a.png"))
    assert boxes.table.empty and "a.png" in boxes.left_out


def test_boxes_are_cut_at_the_edge_and_doubles_count_once() -> None:
    boxes = boxes_of(given(-5, 3, 20, 99), images("a.png"))
    assert boxes.left_out["a.png"].startswith("outside")  # its middle is below the image
    boxes = boxes_of(given(-5, 3, 20, 40), images("a.png"))
    assert boxes.table[list(SIDES)].iloc[0].tolist() == [0, 3, 20, 30] and boxes.clipped == 1
    twice = GivenImage("a.png", boxes=[GivenBox("polyp", (2, 3, 12, 15))] * 2)
    boxes = boxes_of([twice], images("a.png"))
    assert len(boxes.table) == 1 and boxes.duplicates == 1


def test_images_found_by_name_in_another_folder_are_counted() -> None:
    given = [
        GivenImage(f"{folder}/{name}.png", boxes=[GivenBox("polyp", (2, 3, 12, 15))])
        for folder, name in (("x", "a"), ("y", "b"))
    ]
    said = list(boxes_of(given, images("x/a.png", "x/b.png")).sentences())
    assert "1 images were found by file name alone: the file of boxes names another folder for them" in said
    assert len(list(boxes_of(given[:1], images("x/a.png")).sentences())) == 1


@pytest.mark.parametrize("kind", ["csv", "coco"])
def test_a_box_of_several_labels_is_refused(tmp_path: Path, kind: str) -> None:
    """It was one class, which the RUN's own files took for two."""
    categories = [{"id": 7, "name": "polyp|ulcer"}]
    content = json.dumps(COCO | {"categories": categories})
    if kind == "csv":
        content = "path,label,x_min,y_min,x_max,y_max\na.png,polyp|ulcer,2,3,10,20\n"
    file = tmp_path / ("boxes.csv" if kind == "csv" else "boxes.json")
    file.write_text(content)
    where = "row 2" if kind == "csv" else "annotation 1"
    with pytest.raises(DataError, match=rf"the box of a\.png, {where}, has the label 'polyp\|ulcer'"):
        read_box_file(file)


def test_a_box_whose_label_is_written_as_missing_has_none(tmp_path: Path) -> None:
    file = tmp_path / "boxes.csv"
    file.write_text("path,label,x_min,y_min,x_max,y_max\na.png,nan,2,3,12,15\n")
    with pytest.raises(DataError, match=r"a box of 'a\.png, row 2' has no label"):
        read_box_file(file)


def test_names_that_fit_several_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"could be x/a\.png or y/a\.png"):
        boxes_of(given(2, 3, 12, 15), images("x/a.png", "y/a.png"))
    twice = [GivenImage("a.png", boxes=[]), GivenImage("z/a.png", boxes=[])]
    with pytest.raises(DataError, match=r"are both x/a\.png"):
        boxes_of(twice, images("x/a.png"))
    by_folder = [GivenImage("labels/y/a.png", boxes=[])]
    assert boxes_of(by_folder, images("x/a.png", "y/a.png")).listed == {"y/a.png"}


def test_images_that_are_not_there_are_counted(tmp_path: Path) -> None:
    file = written(tmp_path, "csv")
    boxes = read_boxes(file, images("a.png"))
    assert boxes.strange == ("b.png",) and "not among the images: b.png" in " ".join(boxes.sentences())
    with pytest.raises(DataError, match="none of its 2 images"):
        read_boxes(file, images("z.png"))


def test_images_that_the_scan_refused_are_not_counted_as_without_a_finding() -> None:
    table = images("a.png", "broken.png", "none.png")
    table.loc[1, "problem"] = "truncated"
    listed = [GivenImage(name, boxes=[GivenBox("polyp", (2, 3, 12, 15))]) for name in ("a.png", "broken.png")]
    boxes = boxes_of([*listed, GivenImage("none.png"), GivenImage("Doe^John")], table)
    said = list(boxes.sentences())
    assert said[0] == "1 boxes on 1 images: polyp 1; 1 listed images without a finding"
    assert any("1 listed images cannot be used" in line and "broken.png" in line for line in said)
    assert "Doe" in said[-1] and "Doe" not in " ".join(boxes.sentences(hide_names=True))


def test_unlisted_images_are_negative_unless_they_carry_the_label_of_a_box() -> None:
    table = pd.concat([images("a.png", "b.png", label="polyp"), images("n.png", label="normal")], ignore_index=True)
    boxes = boxes_of(given(2, 3, 12, 15), table)
    with pytest.warns(MedclfWarning) as told:
        found = with_boxes(table, boxes)
    assert found["problem"].tolist() == ["", "labelled polyp without a box", ""]
    assert found["n_boxes"].tolist() == [1, 0, 0]
    said = " ".join(str(one.message) for one in told)
    assert "1 images carry a box's label" in said and "1 images that the file does not list" in said
    with pytest.warns(MedclfWarning, match="1 images that the file does not list are left out"):
        skipped = with_boxes(table, boxes, "skip")
    assert skipped["problem"][2] == "not listed by the file of boxes"
    assert len(list(unlisted_sentences(skipped, boxes))) == 2


BOMB = '<!DOCTYPE a [<!ENTITY x "yyyy"><!ENTITY z "&x;&x;">]><annotation><filename>&z;</filename></annotation>'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[1, 2]", "neither COCO nor HyperKvasir"),
        ("a.json", "{}", "neither COCO nor HyperKvasir"),
        ("a.json", "[" * 100_000, "is no JSON"),
        ("a.json", '{"a": {"bbox": 3}}', "no list 'bbox'"),
        ("a.json", '{"a": {"bbox": [{"xmin": 3}]}}', "has no label"),
        ("a.json", json.dumps(COCO | {"categories": []}), "not among 'categories'"),
        ("a.json", json.dumps(COCO | {"images": []}), "does not list"),
        ("a.json", json.dumps(COCO | {"images": COCO["images"][:1] * 2}), "two images have the id"),
        ("a.csv", "path,label\na,b\n", "no four columns for a box"),
        ("a.csv", "path,label,x1,y1,x2,y2\n,polyp,1,2,3,4\n", "row 2: no image is named"),
        ("a.csv", "", "it is empty"),
        (
            "a.csv",
            "path,label,x1,y1,x2,y2,width,height\na,p,1,2,3,4,40,30\na,p,5,5,9,9,,\na,p,1,2,3,4,80,60\n",
            "row 4: a has another width",
        ),
        ("a.xml", BOMB, "declares a document type"),
        ("a.xml", "<annotation>", "is no XML"),
        ("a.xml", "<a>" * 40 + "</a>" * 40, "nested deeper"),
        ("a.xml", "<html></html>", "no Pascal VOC"),
        ("a.xml", "<annotation><object><name> </name></object></annotation>", "has no label"),
        ("a.pkl", "", "no file of boxes that medclf knows"),
    ],
)
def test_what_is_no_file_of_boxes_is_refused_by_name(tmp_path: Path, name: str, content: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_box_file(file)
    assert file.name in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1", "no YOLO box"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6", "no polygons"),
        ("² 0.5 0.5 0.1 0.1", "no YOLO box"),
        ("9" * 5000 + " 0.5 0.5 0.1 0.1", "no YOLO box"),
        ("nine 0.5 0.5 0.1 0.1", "no YOLO box"),
        ("9 0.5 0.5 0.1 0.1", "class 9 has no name; there are 0 ulcer, 1 polyp"),
    ],
)
def test_lines_that_are_no_yolo_are_named(tmp_path: Path, line: str, message: str) -> None:
    folder = written(tmp_path, "yolo")
    (folder / "a.txt").write_text(line)
    with pytest.raises(DataError, match=message):
        read_box_file(folder)


def test_a_missing_file_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_box_file(tmp_path / "boxes.json")
    with pytest.raises(DataError, match="holds no boxes"):
        read_box_file(tmp_path)


def test_hyperkvasirs_own_boxes(shared_data: Path) -> None:
    table = scan(shared_data / "hyperkvasir-boxes" / "images", label_from=None, progress=False, check_pixels=False)
    boxes = read_boxes(shared_data / "hyperkvasir-boxes" / "bounding-boxes.json", table)
    assert boxes.table["path"].nunique() == 150 and boxes.vocab == ("polyp",)
    assert not boxes.left_out and not boxes.strange


ROWS = "path,label,x_min,y_min,x_max,y_max\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('a.png,polyp,"1,5",2,30,20', r"no number: '1,5' \(write 1.5\) \(row 3\)"),
        ("a.png,polyp,30,2,5,20", r"swapped: .* \(row 3\)"),
        ("a.png,polyp,5,2,5,20", r"empty: .* \(row 3\)"),
        ("a.png,polyp,5,,15,20", r"no number: one is missing \(row 3\)"),
        ("a.png,polyp,0.1,0.2,0.9,1", r"in shares: .* looks like shares of the image, among boxes in pixels \(row 3\)"),
    ],
)
def test_a_box_that_cannot_be_used_is_named_with_its_row(tmp_path, row, said):
    (tmp_path / "boxes.csv").write_text(f"{ROWS}b.png,polyp,1,1,20,20\n{row}\n")
    images = pd.DataFrame({"path": ["a.png", "b.png"], "width": 40, "height": 30, "problem": ""})
    found = read_boxes(tmp_path / "boxes.csv", images)
    assert list(found.table["path"]) == ["b.png"] and re.fullmatch(said, found.left_out["a.png"])


def test_shares_where_pixels_are_meant_are_refused(tmp_path):
    (tmp_path / "boxes.csv").write_text(f"{ROWS}a.png,polyp,0.1,0.1,0.5,1.001\n")
    images = pd.DataFrame({"path": ["a.png"], "width": [40], "height": [30], "problem": [""]})
    with pytest.raises(DataError, match="look like shares of the image"):
        read_boxes(tmp_path / "boxes.csv", images)


def test_two_categories_of_one_id_are_refused_and_labels_spelt_alike_are_said(tmp_path):
    images = pd.DataFrame({"path": ["a.png"], "width": [40], "height": [30], "problem": [""]})
    boxes = [{"image_id": 1, "category_id": key, "bbox": [2, 2, 10, 10 + key]} for key in (1, 2)]
    content = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": boxes}
    content["categories"] = [{"id": 1, "name": "polyp"}, {"id": 2, "name": "Polyp "}]
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(content))
    told = list(read_boxes(file, images).sentences())
    assert "labels 'Polyp', 'polyp' differ only in spelling, and are learned as different findings" in told
    content["categories"].append({"id": 1, "name": "other"})
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="two categories have the id 1"):
        read_boxes(file, images)


@pytest.mark.parametrize(
    "header",
    [
        "patientId,x,y,width,height,Target",  # RSNA's pneumonia
        "Image Index,Bbox [x,y,w,h],Finding Label",  # NIH's ChestX-ray14
        "image_id,x_min,y_min,bbox_width,bbox_height,class_name",
    ],
)
def test_a_corner_with_width_and_height_is_a_box(tmp_path: Path, header: str) -> None:
    (tmp_path / "boxes.csv").write_text(f"{header}\na,2,3,10,12,1\nb,,,,,0\n")
    boxes = read_boxes(tmp_path / "boxes.csv", images("a.png", "b.png"))
    assert boxes.table[["label", *SIDES]].to_numpy().tolist() == [["1", 2, 3, 12, 15]] and len(boxes.listed) == 2


def test_width_and_height_of_the_boxes_are_not_the_images(tmp_path: Path) -> None:
    rows = "path,label,xmin,ymin,xmax,ymax,width,height\na.png,polyp,2,3,12,15,10,12\na.png,polyp,9,9,19,29,10,20\n"
    (tmp_path / "boxes.csv").write_text(rows)
    assert len(read_boxes(tmp_path / "boxes.csv", images("a.png")).table) == 2


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    for header, said in (("path,label,bbox", "four columns for a box"), ("x,y,w,h,label", "no column for the image")):
        (tmp_path / "boxes.csv").write_text(f"{header}\n")
        with pytest.raises(DataError, match=said):
            read_box_file(tmp_path / "boxes.csv")


def test_what_several_readers_drew_or_denied_is_said(tmp_path: Path) -> None:
    rows = "image_id,class_name,x_min,y_min,x_max,y_max\na,mass,2,3,12,15\na,mass,3,3,12,15\na,No finding,,,,\n"
    (tmp_path / "boxes.csv").write_text(rows + "a,mass,20,3,30,15\nb,No finding,0,0,1,1\n")
    boxes = read_boxes(tmp_path / "boxes.csv", images("a.png", "b.png"))
    assert boxes.vocab == ("mass",) and len(boxes.table) == 3 and boxes.listed == {"a.png", "b.png"}
    told = " ".join(boxes.sentences())
    assert "1 images have boxes and are called without a finding as well" in told
    assert "1 boxes cover half or more of another of their label" in told


def test_boxes_marked_as_difficult_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text(VOC.replace("<bndbox>", "<difficult>1</difficult><bndbox>"))
    assert "1 boxes are marked as difficult" in " ".join(read_boxes(file, images("a.png")).sentences())


def test_an_image_may_have_been_renamed_with_its_xml_or_in_another_case(tmp_path: Path) -> None:
    (tmp_path / "c.xml").write_text(VOC)  # says a.png
    (tmp_path / "._c.xml").write_bytes(b"\0\5")  # as macOS leaves
    assert list(read_boxes(tmp_path, images("C.PNG", "d.png")).table["path"]) == ["C.PNG"]


def test_an_xml_file_that_names_the_image_of_another_is_refused(tmp_path: Path) -> None:
    (tmp_path / "b.xml").write_text(VOC)  # says a.png, as a copy of a.xml does
    with pytest.raises(DataError, match=r"b\.xml names the image 'a\.png', and there is b\.png as well"):
        read_boxes(tmp_path, images("a.png", "b.png"))
    assert list(read_boxes(tmp_path, images("a.png", "c.png")).table["path"]) == ["a.png"]


@pytest.mark.parametrize(
    ("plain", "yaml", "said"),
    [
        ("ulcer\n\npolyp\n", "", "class 1 has no name; there are 0 ulcer, 2 polyp"),
        ("ulcer\npolyp\n", "names: [polyp, ulcer]", "name the classes differently"),
        ("", "names: {0: ulcer, 2: polyp}", "class 1 has no name"),
    ],
)
def test_names_of_yolo_keep_their_numbers(tmp_path: Path, plain: str, yaml: str, said: str) -> None:
    folder = written(tmp_path, "yolo")
    (folder / "classes.txt").write_text(plain)
    (folder / "README.dataset.txt").write_text("from somewhere")
    (tmp_path / "data.yaml").write_text(yaml)
    with pytest.raises(DataError, match=said):
        read_box_file(folder)


def test_images_stored_turned_are_counted_where_no_size_tells(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    table = scan(tmp_path, label_from=None, progress=False)
    file = tmp_path / "boxes.csv"
    file.write_text(f"{ROWS}a.jpg,polyp,2,3,12,15\n")
    assert "1 images with boxes are stored turned (EXIF)" in " ".join(read_boxes(file, table).sentences())
    file.write_text("path,label,xmin,ymin,xmax,ymax,width,height\na.jpg,polyp,2,3,12,15,30,40\n")
    assert "turned" not in " ".join(read_boxes(file, table).sentences())


def test_an_image_with_the_label_of_a_box_and_without_one_is_left_out_listed_or_not() -> None:
    boxes = boxes_of([*given(2, 3, 12, 15), GivenImage("b.png")], images("a.png", "b.png"))
    table = images("a.png", "b.png", "c.png", label="Polyps")
    with pytest.warns(MedclfWarning, match="2 images carry a box's label"):
        found = with_boxes(table, boxes)
    assert list(found["problem"] != "") == [False, True, True]


def test_unlisted_images_labelled_as_those_with_boxes_are_told() -> None:
    boxes = boxes_of(given(2, 3, 12, 15), images("a.png"))
    table = images("a.png", "b.png", "c.png").assign(label=["ill", "ill", "well"])
    with pytest.warns(MedclfWarning, match="though 1 of them are labelled ill, as images with boxes are"):
        with_boxes(table, boxes)


@pytest.mark.parametrize(
    ("folders", "labels", "parts"),
    [
        (["images/train", "images/val"], {None}, {"train", "valid"}),  # YOLO's
        (["train/images", "valid/images"], {None}, {"train", "valid"}),
        (["JPEGImages"], {None}, {None}),
        (["polyp", "normal"], {"polyp", "normal"}, {None}),
    ],
)
def test_beside_boxes_images_need_no_label(tmp_path: Path, folders: list, labels: set, parts: set) -> None:
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        Image.effect_noise((40, 30), 30).save(tmp_path / folder / f"{number}.png")
    table = scan(tmp_path, label_from=FOLDER_OR_NONE, progress=False)
    assert set(table["label"]) == labels and set(table["partition"]) == parts and (table["problem"] == "").all()


def test_a_label_that_looks_like_several_is_said(tmp_path):
    """It was learned as one more finding, without a word."""
    rows = "a.png,polyp;ulcer,2,2,10,10\na.png,polyp,12,2,20,10\na.png,ulcer,2,12,10,20\n"
    (tmp_path / "boxes.csv").write_text(f"{ROWS}{rows}")
    images = pd.DataFrame({"path": ["a.png"], "width": [40], "height": [30], "problem": [""]})
    told = " ".join(read_boxes(tmp_path / "boxes.csv", images).sentences())
    assert "label 'polyp;ulcer' looks like several labels in one (1 such)" in told
