import numpy as np
import pytest
from PIL import Image, ImageDraw

from medclf.errors import DataError
from medclf.images.image_columns import counted, find_position_box, measure
from medclf.images.preprocessing import Preprocessing
from medclf.learn.columns_beside import _of_file

GREEN, LINE = (18, 112, 62), (196, 214, 120)


def frame(points=None, *, box=True, fill=GREEN, size=224, side=70, gap=0, seed=0):
    """Mucosa in the round of a scope, with a box at bottom left in which a course is drawn."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal((170, 90, 70), 25, (size, size, 3)), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:size, :size] - size / 2
    pixels[np.hypot(rows, columns) > 0.62 * size] = 6
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    top = size - side - gap
    if box:
        pen.rectangle([gap, top, gap + side - 1, top + side - 1], fill=fill)
    if points:
        pen.line([(gap + side * x, top + side * y) for x, y in points], fill=LINE, width=4, joint="curve")
    return np.asarray(image)


STRAIGHT = [(0.5, 0.15), (0.5, 0.85)]
LOOP = [(0.5, 0.15), (0.2, 0.3), (0.3, 0.7), (0.7, 0.7), (0.8, 0.35), (0.45, 0.4), (0.45, 0.85)]


@pytest.mark.parametrize("gap", [0, 4])
@pytest.mark.parametrize("size", [128, 224, 320])
def test_the_box_is_found_where_it_is(gap, size):
    side = round(0.3 * size)
    state, box = find_position_box(frame(LOOP, size=size, side=side, gap=gap))
    assert state == "present"
    rows, columns = box
    wanted = (size - side - gap, size - gap, gap, gap + side)
    assert np.abs(np.subtract((rows.start, rows.stop, columns.start, columns.stop), wanted)).max() <= 2


def test_absent_and_painted_over_are_told_apart():
    assert find_position_box(frame(box=False)) == ("absent", None)
    assert find_position_box(frame(fill=(0, 0, 0)))[0] == "painted over"
    assert find_position_box(np.zeros((224, 224, 3), np.uint8))[0] == "absent"  # a black picture is no box
    assert find_position_box(np.full((224, 224, 3), GREEN, np.uint8))[0] == "absent"
    assert find_position_box(np.zeros((8, 8, 3), np.uint8))[0] == "absent"
    for pixels in (frame(box=False), frame(fill=(0, 0, 0)), frame()):  # the last is a box without a course
        assert set(measure(pixels, "position-box").values.values()) == {None}


def test_length_and_turns_are_those_of_what_was_drawn():
    inner = 70 * np.hypot(0.88, 0.88)
    for points in (STRAIGHT, LOOP):
        values = measure(frame(points), "position-box").values
        drawn = 70 * np.hypot(*np.diff(points, axis=0).T).sum()
        assert values["position-box/length"] * inner == pytest.approx(drawn, rel=0.15)
    straight, loop = (measure(frame(points), "position-box").values for points in (STRAIGHT, LOOP))
    assert straight["position-box/turns"] == pytest.approx(1, abs=0.15) and loop["position-box/turns"] > 1.6
    assert straight["position-box/left"] == pytest.approx((0.5 - 0.06 - 2 / 70) / 0.88, abs=0.04)
    assert straight["position-box/cell-1-1"] > 0.05 and straight["position-box/cell-1-0"] == 0


def test_a_course_says_the_same_whatever_the_mucosa():
    first, second = (measure(frame(LOOP, seed=seed), "position-box").values for seed in (1, 2))
    assert list(first.values()) == pytest.approx(list(second.values()))


def test_an_overlay_is_its_grey_values():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[90:, :10] = 255
    found = measure(pixels, "overlay:scale=0:0.9:0.2:1")
    assert found.state == "measured" and len(found.values) == 36
    assert found.values["overlay:scale=0:0.9:0.2:1/cell-0-0"] == 1.0
    assert found.values["overlay:scale=0:0.9:0.2:1/cell-0-5"] == 0.0


@pytest.mark.parametrize(
    "name", ["overlay:a", "overlay:a=0:0:2:1", "overlay:=0:0:1:1", "overlay:a=0:0:1", "overlay:a=1:0:0:1"]
)
def test_an_overlay_without_a_box_is_refused(name):
    with pytest.raises(DataError, match="LEFT:TOP:RIGHT:BOTTOM"):
        measure(np.zeros((64, 64, 3), np.uint8), name)


def test_a_file_that_cannot_be_read_is_no_image_without_a_box(tmp_path):
    (tmp_path / "lost.png").write_bytes(b"nothing")
    found = _of_file(Preprocessing(64), "position-box", tmp_path / "lost.png")
    assert found.state == "unreadable" and set(found.values.values()) == {None}
    told = counted(["present", found.state, "absent"], "position-box")
    assert told.endswith("present in 1 of 3 images, painted over in 0, absent in 1. 1 could not be read.")


def test_what_is_counted_is_what_was_looked_for():
    assert measure(frame(), "position-box").state == "without a course"
    told = counted(["present", "without a course", "absent"], "position-box")
    assert told == "position-box: present in 1 of 3 images, without a course in 1, painted over in 0, absent in 1."
    overlay = "overlay:scale=0:0.9:0.2:1"
    assert measure(frame(box=False), overlay).state == "measured"
    assert counted(["measured"] * 2, overlay).endswith("its place was measured in 2 of 2 images, drawn there or not.")
