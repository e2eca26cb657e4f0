"""Borders and overlays: flat black, white, green and blue areas at the edges of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medclf.images.resize import resize_pixels

SIDE = 96
PLACES = (
    "the top left corner",
    "the top",
    "the top right corner",
    "the left",
    "the right",
    "the bottom left corner",
    "the bottom",
    "the bottom right corner",
)
COLOURS = ("black", "white", "green", "blue")
EDGES = ("top", "bottom", "left", "right")
MOST_EDGES, MOST_PLACES = 2, 3  # that one border, one overlay reaches
N_MARKS = len(EDGES) + len(PLACES) * len(COLOURS)
_DARK, _LIGHT, _EVEN = 14, 242, 4.0


def measure_marks(image: np.ndarray) -> np.ndarray:
    """How wide the borders are, and how much of each place at the rim has a colour that tissue rarely has.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (N_MARKS,) float32 in [0, 1]: the even border at the top, bottom, left and right, of the image's height or
        width; then for each of `PLACES`, a ninth of the image, the share that is black, white, green, blue.

    Example:
        >>> image = np.full((100, 80, 3), 120, np.uint8)
        >>> image[:20] = 0
        >>> [round(float(width), 1) for width in measure_marks(image)[:4]]
        [0.2, 0.0, 0.0, 0.0]
    """
    small = resize_pixels(image, SIDE).astype(np.int16)
    red, green, blue = (small[..., k] for k in range(3))
    largest, least = small.max(2), small.min(2)
    colours = np.stack(
        [
            largest < _DARK,
            least > _LIGHT,
            (green > 60) & (4 * green > 5 * red) & (10 * green > 11 * blue),
            (blue > 60) & (4 * blue > 5 * red) & (10 * blue > 11 * green),
        ]
    )
    third = SIDE // 3
    shares = colours.reshape(len(COLOURS), 3, third, 3, third).mean((2, 4)).reshape(len(COLOURS), 9)
    rim = np.delete(shares, 4, axis=1).T  # all but the middle
    return np.concatenate([_borders(small.mean(2)), rim.ravel()]).astype(np.float32)


def _borders(grey: np.ndarray) -> list[float]:
    """Even black or white rows and columns in from each edge, of the side."""
    widths = []
    for lines in (grey, grey[::-1], grey.T, grey.T[::-1]):
        mean = lines.mean(1)
        even = (lines.std(1) < _EVEN) & ((mean < _DARK) | (mean > _LIGHT))
        widths.append(float(np.argmin(even) if not even.all() else SIDE) / SIDE)
    return widths


class Mark(NamedTuple):
    """Something at an image's rim.

    Args:
        what: "a green area", "an even border".
        place: one of `PLACES`, or "the" and one of `EDGES`; "" where it is all around the picture, or all over it.
    """

    what: str
    place: str


def mark_flags(marks: np.ndarray) -> dict[Mark, np.ndarray]:
    """Which images carry which mark.

    Args:
        marks: (n, N_MARKS) from `measure_marks`.

    Returns:
        {mark: (n,) bool}: a border of more than 3 % of the side, or a place more than 40 % of which has the colour.
        What fills more than three of the eight places, or two of the four edges, belongs to the picture as a whole
        and is at none of them: the stain, the lamp, the round field of a camera.

    Example:
        >>> blue = np.full((1, 60, 60, 3), (120, 110, 205), np.uint8)
        >>> [mark for mark, on in mark_flags(np.stack([measure_marks(image) for image in blue])).items() if on[0]]
        [Mark(what='a blue area', place='')]
    """
    areas = marks[:, len(EDGES) :].reshape(len(marks), len(PLACES), len(COLOURS)) > 0.4
    found = [("an even border", [f"the {edge}" for edge in EDGES], marks[:, : len(EDGES)] > 0.03, MOST_EDGES)]
    found += [(f"a {colour} area", list(PLACES), areas[..., k], MOST_PLACES) for k, colour in enumerate(COLOURS)]
    flags = {}
    for what, places, on, most in found:
        whole = on.sum(axis=1) > most
        flags[Mark(what, "")] = whole
        flags |= {Mark(what, place): on[:, k] & ~whole for k, place in enumerate(places)}
    return flags
