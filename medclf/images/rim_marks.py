"""Borders and overlays: flat black, white, green and blue areas at the edges of an image."""

from __future__ import annotations

import numpy as np

from medclf.images.reading import resize_pixels

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


def mark_flags(marks: np.ndarray) -> dict[str, np.ndarray]:
    """Which images carry which mark, in words.

    Args:
        marks: (n, N_MARKS) from `measure_marks`.

    Returns:
        {mark: (n,) bool}: a border of more than 3 % of the side, or a place more than 40 % of which has the colour.
    """
    flags = {f"an even border at the {edge}": marks[:, k] > 0.03 for k, edge in enumerate(EDGES)}
    for place, name in enumerate(PLACES):
        for colour, colour_name in enumerate(COLOURS):
            column = len(EDGES) + place * len(COLOURS) + colour
            flags[f"a {colour_name} area at {name}"] = marks[:, column] > 0.4
    return flags
