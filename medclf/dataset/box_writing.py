"""Whether boxes were written as their format has them, and drawn on these images: told by where they would lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medclf.dataset.given_boxes import GivenImage, Writing
from medclf.errors import DataError

_ROUNDING = 1.0  # pixels that a box may reach out of its image
_BEYOND = 0.1  # of an image's side: a box that reaches so far out of it was not drawn on it
_MANY = 0.2  # of the boxes: so many are no slips
_FEWEST = 3
_SHOWN: dict[Writing, str] = {
    "corners": "x_min, y_min, x_max, y_max",
    "size": "x and y of the upper left corner, width, height",
    "centre": "x and y of the centre, width, height",
}


def check_writing(given: Sequence[tuple[GivenImage, tuple[int, int]]]) -> None:
    """Refuse boxes of which so many lie beyond their images that those within are not to be trusted either.

    Args:
        given: images that the boxes' file speaks of, with the (width, height) of their files.

    Raises:
        DataError: many do; where all would lie within their images if written as another format has them, it says so.

    Example:
        >>> from medclf.dataset.given_boxes import box_of_size
        >>> boxes = [box_of_size("polyp", (20, 15, x, 28), "") for x in (35, 36, 37)]  # which are corners
        >>> check_writing([(GivenImage("a.png", boxes=boxes), (40, 30))])
        Traceback (most recent call last):
        medclf.errors.DataError: 3 of 3 boxes do not lie in their images as x and y of the upper left corner, width, \
height, and all do as x_min, y_min, x_max, y_max
        write them as their format has them
    """
    placed = [
        (box, (*size, *size), image.in_shares)
        for image, size in given
        for box in image.boxes
        if box.is_finding and not box.problem and image.size in (None, size)
    ]
    writings = {box.writing for box, *_ in placed}
    if len(writings) != 1 or len(placed) < _FEWEST:
        return
    (own,) = writings
    sides = np.array([side for _, side, _ in placed], float)
    scale = np.where(np.array([[in_shares] for *_, in_shares in placed]), sides, 1)
    read = _as_each(np.array([box.corners for box, *_ in placed], float) * scale, own)
    beyond = {one: (-corners).clip(0) + (corners - sides).clip(0) for one, corners in read.items()}
    ordered = {one: (corners[:, 2:] > corners[:, :2]).all(axis=1) for one, corners in read.items()}
    within = {one: ordered[one] & (beyond[one] <= _ROUNDING).all(axis=1) for one in read}
    n_bad, n_far = int((~within[own]).sum()), int((beyond[own] > _BEYOND * sides).any(axis=1).sum())
    told = f"{n_bad} of {len(placed)} boxes do not lie in their images as {_SHOWN[own]}"
    if n_bad > _MANY * len(placed) and n_bad >= _FEWEST:
        for other in read:
            if within[other].all():
                raise DataError(f"{told}, and all do as {_SHOWN[other]}", "write them as their format has them")
    if n_far > _MANY * len(placed) and n_far >= _FEWEST:
        row, side = np.unravel_index((beyond[own] / sides).argmax(), sides.shape)
        text = f"{told}: one reaches to {read[own][row, side]:g}, and its image from 0 to {sides[row, side]:g} pixels"
        raise DataError(text, "give the images that the boxes were drawn on, or boxes at the size of these images")


def _as_each(corners: np.ndarray, own: Writing) -> dict[Writing, np.ndarray]:
    """(n, 4) corners of the same four numbers a box, read each way."""
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    first = start + size / 2 if own == "centre" else start
    second = corners[:, 2:] if own == "corners" else size
    return {
        "corners": np.concatenate([first, second], axis=1),
        "size": np.concatenate([first, first + second], axis=1),
        "centre": np.concatenate([first - second / 2, first + second / 2], axis=1),
    }
