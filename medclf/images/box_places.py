"""Boxes between a file's pixels and the prepared pixels that a network sees, and how far they overlap."""

from __future__ import annotations

import numpy as np

from medclf.images.preprocessing import Preprocessing

SIDES = ("x_min", "y_min", "x_max", "y_max")


def _map(preprocessing: Preprocessing, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset such that prepared = file * scale + offset, for x, y, x, y."""
    (rows, columns), (in_rows, in_columns) = preprocessing.placement(shape)
    pairs = [(columns, in_columns), (rows, in_rows)] * 2
    scale = np.array([(to.stop - to.start) / max(of.stop - of.start, 1) for of, to in pairs])
    return scale, np.array([to.start for _, to in pairs]) - scale * [of.start for of, _ in pairs]


def to_prepared(boxes: np.ndarray, preprocessing: Preprocessing, shape: tuple[int, ...]) -> np.ndarray:
    """Boxes of a file, in the prepared pixels.

    Args:
        boxes: (n, 4) of x_min, y_min, x_max, y_max in the file's pixels.
        preprocessing: what prepares the file.
        shape: height and width of the file.

    Returns:
        (n, 4), cut at the prepared image's edges; a box that a crop leaves out is empty.

    Example:
        >>> to_prepared(np.array([[10.0, 0, 20, 30]]), Preprocessing(60), (30, 40)).tolist()
        [[15.0, 0.0, 30.0, 60.0]]
    """
    scale, offset = _map(preprocessing, shape)
    height, width = preprocessing.size
    moved = np.asarray(boxes, float).reshape(-1, 4) * scale + offset
    return np.asarray(moved.clip(0, [width, height, width, height]))


def to_file(boxes: np.ndarray, preprocessing: Preprocessing, shape: tuple[int, ...]) -> np.ndarray:
    """Boxes of the prepared pixels, in those of the file: `to_prepared` backwards.

    Args:
        boxes: (n, 4) in the prepared pixels.
        preprocessing: what prepared the file.
        shape: height and width of the file.

    Returns:
        (n, 4), cut at the file's edges.

    Example:
        >>> to_file(np.array([[15.0, 0, 30, 60]]), Preprocessing(60), (30, 40)).tolist()
        [[10.0, 0.0, 20.0, 30.0]]
    """
    scale, offset = _map(preprocessing, shape)
    height, width = shape[:2]
    moved = (np.asarray(boxes, float).reshape(-1, 4) - offset) / scale
    return np.asarray(moved.clip(0, [width, height, width, height]))


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes.

    Args:
        a: (n, 4) of x_min, y_min, x_max, y_max.
        b: (m, 4).

    Returns:
        (n, m) in [0, 1].

    Example:
        >>> iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
        [[0.333, 0.0]]
    """
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b)]
    return np.asarray(both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12))
