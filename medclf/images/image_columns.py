"""What stands in an image beside the anatomy, as numbers: the position box of an endoscope, or any standing overlay.

The position box (Olympus' ScopeGuide) is the green box at bottom left in which the course of the scope is drawn.
Whether it is there says which machine was used, so only its course is measured: without it every number is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medclf.errors import DataError, argument

POSITION_BOX, OVERLAY = "position-box", "overlay:"
PRESENT, PAINTED, ABSENT, UNREADABLE = "present", "painted over", "absent", "unreadable"
EMPTY, MEASURED = "without a course", "measured"
_SIDE = (0.12, 0.45)  # of the image: least and greatest width and height of a position box
_DARK = 24  # of 255: painted over
_GREEN = 12  # by which green exceeds red and blue in the box
_FILLED = 0.93  # of the box that is one even colour, or green with a course
_APART = 36  # of 255: a pixel of the course beside the box's own colour
_GRID = 3
_OVERLAY_GRID = 6


class Measured(NamedTuple):
    """What was measured in one image.

    Args:
        state: of a position box present, without a course, painted over or absent; of an overlay measured, since
            nothing tells whether it is there; unreadable where the file could not be read.
        values: by the column's name; None where it is unknown.
    """

    state: str
    values: dict[str, float | None]


def is_image_column(name: str) -> bool:
    """Whether a name of `--tabular` is read from the pixels.

    Example:
        >>> is_image_column("position-box"), is_image_column("overlay:scale=0:0.9:0.2:1"), is_image_column("age")
        (True, True, False)
    """
    return name == POSITION_BOX or name.startswith(OVERLAY)


def source_of(column: str) -> str | None:
    """The name of `--tabular` that a column was measured for; None for a column of the table.

    Example:
        >>> source_of("position-box/length"), source_of("age")
        ('position-box', None)
    """
    name = column.rpartition("/")[0]
    return name if is_image_column(name) else None


def measure(pixels: np.ndarray, name: str) -> Measured:
    """Measure one image.

    Args:
        pixels: uint8 (H, W, 3) or (H, W, 1).
        name: "position-box", or "overlay:NAME=LEFT:TOP:RIGHT:BOTTOM" in fractions of the image.

    Raises:
        DataError: the overlay's box is none.
    """
    if name == POSITION_BOX:
        return _position_box(pixels)
    left, top, right, bottom = overlay_box(name)
    height, width = pixels.shape[:2]
    part = pixels[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    cells = _cells(part.mean(axis=2) / 255, _OVERLAY_GRID)
    return Measured(MEASURED, {f"{name}/{place}": value for place, value in cells.items()})


def columns_of(name: str) -> list[str]:
    """The columns that `measure` gives."""
    return list(measure(np.zeros((64, 64, 3), np.uint8), name).values)


def overlay_box(name: str) -> tuple[float, float, float, float]:
    """left, top, right and bottom of an overlay.

    Raises:
        DataError: they are no box within the image.

    Example:
        >>> overlay_box("overlay:scale=0:0.9:0.2:1")
        (0.0, 0.9, 0.2, 1.0)
    """
    label, _, text = name.removeprefix(OVERLAY).partition("=")
    try:
        left, top, right, bottom = map(float, text.split(":"))
        if label and 0 <= left < right <= 1 and 0 <= top < bottom <= 1 and min(right - left, bottom - top) >= 0.02:
            return left, top, right, bottom
    except ValueError:
        pass
    text = f"{argument('tabular', name)} must be overlay:NAME=LEFT:TOP:RIGHT:BOTTOM in fractions of the image"
    raise DataError(text, "for example overlay:scale=0:0.9:0.2:1")


def _position_box(pixels: np.ndarray) -> Measured:
    state, box = find_position_box(pixels)
    course = None if box is None or state != PRESENT else _course(pixels[box])
    names = ["length", "turns", "area", "left", "top", "right", "bottom"]
    names += [f"cell-{row}-{column}" for row in range(_GRID) for column in range(_GRID)]
    values = dict.fromkeys(names) if course is None else _shape(course)
    state = EMPTY if state == PRESENT and course is None else state
    return Measured(state, {f"{POSITION_BOX}/{name}": values[name] for name in names})


def find_position_box(pixels: np.ndarray) -> tuple[str, tuple[slice, slice] | None]:
    """Whether the green box at bottom left is present, painted over or absent, and where it is.

    Args:
        pixels: uint8 (H, W, 3).

    Returns:
        The state, and (rows, columns) of the box; None where it is absent.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or min(pixels.shape[:2]) < 32:
        return ABSENT, None
    height, width = pixels.shape[:2]
    low = pixels[round(height * (1 - _SIDE[1])) :, : round(width * _SIDE[1])].astype(int)
    red, green, blue = np.moveaxis(low, 2, 0)
    masks = {
        PRESENT: (green > red + _GREEN) & (green > blue + _GREEN),
        PAINTED: low.max(axis=2) <= _DARK,
    }
    for state, mask in masks.items():
        box = _corner_box(mask, height, width, need=0.6 if state == PRESENT else _FILLED)
        if box is not None:
            above = height - low.shape[0]
            return state, (slice(above + box[0], above + box[1]), slice(box[2], box[3]))
    return ABSENT, None


def _corner_box(mask: np.ndarray, height: int, width: int, need: float) -> tuple[int, int, int, int] | None:
    """top, bottom, left and right of the box in the mask's lower left corner; None where there is none."""
    foot = mask[-max(3, round(0.1 * height)) :]
    left, right = _run(foot.mean(axis=0) > 0.5)
    if not _SIDE[0] <= (right - left) / width < _SIDE[1]:
        return None
    gap, tall = _run(mask[::-1, left:right].mean(axis=1) > 0.5)
    top, bottom = len(mask) - tall, len(mask) - gap
    if not _SIDE[0] <= (bottom - top) / height < _SIDE[1] or mask[top:bottom, left:right].mean() < need:
        return None
    beside, above = mask[top:bottom, right + 1 : right + 4], mask[max(top - 4, 0) : max(top - 1, 1), left:right]
    edged = (beside.mean() if beside.size else 1) < 0.6 and (above.mean() if above.size else 1) < 0.6
    return (top, bottom, left, right) if edged else None


def _run(inside: np.ndarray) -> tuple[int, int]:
    """From where to where it holds, near the start; narrow gaps are closed."""
    rim = max(2, round(0.1 * len(inside)))
    start = int(np.argmax(inside)) if inside[:rim].any() else len(inside)
    if start >= rim:
        return 0, 0
    outside = np.flatnonzero(~inside[start:])
    gaps = [start + int(one) for one in outside if not inside[start + one : start + one + rim].any()]
    return start, gaps[0] if gaps else len(inside)


def _course(box: np.ndarray) -> np.ndarray | None:
    """(h, w) bool, where the scope is drawn in the box; None where nothing is."""
    from scipy import ndimage  # which a prediction without boxes does not need

    inner = tuple(slice(round(0.06 * side), side - round(0.06 * side)) for side in box.shape[:2])
    part = box[inner].astype(int)
    apart = np.abs(part - np.median(part, axis=(0, 1))).max(axis=2) > _APART
    labels, n = ndimage.label(apart, np.ones((3, 3)))
    if not n:
        return None
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.flatnonzero(sizes >= max(0.2 * sizes.max(), 0.004 * apart.size)) + 1
    return np.isin(labels, kept) if len(kept) else None


def _shape(course: np.ndarray) -> dict[str, float | None]:
    """Length, turns and place of a course, in fractions of the box.

    A ribbon of w pixels lies on average w / 4 + 1 / 2 from the nearest pixel outside, which gives w, and so its length.
    """
    from scipy import ndimage

    height, width = course.shape
    rows, columns = np.flatnonzero(course.any(axis=1)), np.flatnonzero(course.any(axis=0))
    area = float(course.sum())
    thick = 4 * float(ndimage.distance_transform_edt(np.pad(course, 1))[1:-1, 1:-1][course].mean()) - 2
    length = area / max(thick, 1.0)
    diagonal = float(np.hypot(rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
    place = {"left": columns[0] / width, "right": (columns[-1] + 1) / width}
    place |= {"top": rows[0] / height, "bottom": (rows[-1] + 1) / height}
    found = {"length": length / float(np.hypot(height, width)), "turns": length / diagonal, "area": area / course.size}
    return {name: float(value) for name, value in (found | place | _cells(course, _GRID)).items()}


def _cells(values: np.ndarray, n: int) -> dict[str, float]:
    """The means of n by n cells."""
    parts = [np.array_split(band, n, axis=1) for band in np.array_split(values, n, axis=0)]
    return {
        f"cell-{row}-{column}": float(part.mean()) if part.size else 0.0
        for row, band in enumerate(parts)
        for column, part in enumerate(band)
    }


def counted(states: Sequence[str], name: str) -> str:
    """How often a box was there, in a sentence.

    Example:
        >>> counted(["present", "absent", "present"], "position-box")
        'position-box: present in 2 of 3 images, painted over in 0, absent in 1.'
    """
    counts = Counter(states)
    lost = f" {counts[UNREADABLE]} could not be read." if counts[UNREADABLE] else ""
    if name != POSITION_BOX:
        return (
            f"{name}: its place was measured in {counts[MEASURED]} of {len(states)} images, drawn there or not.{lost}"
        )
    empty = f"without a course in {counts[EMPTY]}, " if counts[EMPTY] else ""
    return (
        f"{name}: present in {counts[PRESENT]} of {len(states)} images, {empty}"
        f"painted over in {counts[PAINTED]}, absent in {counts[ABSENT]}.{lost}"
    )
