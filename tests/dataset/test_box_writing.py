from pathlib import Path

import pandas as pd
import pytest

from medclf.dataset.boxes import read_boxes
from medclf.errors import DataError

IMAGES = pd.DataFrame({"path": [f"{k}.png" for k in range(4)], "width": 40, "height": 30, "problem": ""})
INSIDE: list[tuple[float, ...]] = [
    (2, 3, 12, 15),
    (20, 15, 38, 28),
    (25, 10, 39, 20),
    (25, 14, 39, 28),
]  # corners, in 40 x 30 pixels


def in_csv(folder: Path, header: str, rows: list[tuple[float, ...]]) -> Path:
    file = folder / "boxes.csv"
    lines = [f"{k}.png,polyp," + ",".join(map(str, row)) for k, row in enumerate(rows)]
    file.write_text("\n".join([f"path,label,{header}", *lines]))
    return file


def in_yolo(folder: Path, rows: list[tuple[float, ...]]) -> Path:
    (folder / "classes.txt").write_text("polyp")
    for k, row in enumerate(rows):
        (folder / f"{k}.txt").write_text("0 " + " ".join(map(str, row)))
    return folder


def centred(box: tuple[float, ...]) -> tuple[float, ...]:
    left, top, right, bottom = box
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def test_boxes_written_as_another_format_has_them_are_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 of 4 boxes .* all do as x_min, y_min, x_max, y_max"):
        read_boxes(in_csv(tmp_path, "x,y,width,height", INSIDE), IMAGES)
    with pytest.raises(DataError, match="all do as x and y of the centre"):
        read_boxes(in_csv(tmp_path, "x,y,width,height", [centred(box) for box in INSIDE]), IMAGES)
    with pytest.raises(DataError, match="all do as x and y of the upper left corner"):
        sized = [(left, top, right - left, bottom - top) for left, top, right, bottom in INSIDE]
        read_boxes(in_csv(tmp_path, "x_min,y_min,x_max,y_max", sized), IMAGES)


def test_shares_that_are_corners_where_yolo_has_centres_are_refused(tmp_path: Path) -> None:
    shares = [tuple(side / (40, 30)[k % 2] for k, side in enumerate(box)) for box in INSIDE]
    with pytest.raises(DataError, match=r"as x and y of the centre, .* all do as x_min"):
        read_boxes(in_yolo(tmp_path, shares), IMAGES)
    yolo = tmp_path / "right"
    yolo.mkdir()
    assert len(read_boxes(in_yolo(yolo, [centred(share) for share in shares]), IMAGES).table) == 4


def test_boxes_drawn_on_larger_images_are_refused(tmp_path: Path) -> None:
    larger = [tuple(2.5 * side for side in box) for box in INSIDE]
    with pytest.raises(DataError, match=r"reaches to 9.* pixels\n.*images that the boxes were drawn on"):
        read_boxes(in_csv(tmp_path, "x_min,y_min,x_max,y_max", larger), IMAGES)


def test_single_slips_and_boxes_cut_at_the_edge_are_not_refused(tmp_path: Path) -> None:
    rows = [(2, 3, 43, 15), (20, 15, 43, 28), (-3, 10, 39, 20), (35, 24, 15, 14)]
    found = read_boxes(in_csv(tmp_path, "x_min,y_min,x_max,y_max", rows), IMAGES)
    assert found.clipped == 3 and list(found.left_out) == ["3.png"]
