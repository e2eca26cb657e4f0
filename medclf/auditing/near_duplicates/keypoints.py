"""Local features that survive turning, scaling, mirroring and new light: where they are and how they look.

Blobs are found as extremes of differences of Gaussians and described by histograms of gradient directions in a
window turned and scaled with the blob, after Lowe 2004, "Distinctive image features from scale-invariant
keypoints", with the square root of Arandjelovic & Zisserman 2012. Written for copies of one image, on working
copies of 192 pixels, where a few dozen blobs do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage

SIDE = 192  # pixels of the working copy's longer side
MOST = 112  # keypoints kept of an image
UNIT = 400  # a descriptor's root-normalised numbers are stored as whole numbers of 1 / UNIT
LENGTH = 128  # 4 x 4 cells of 8 directions

_STEP = math.sqrt(2)
_SIGMAS = 1.2 * _STEP ** np.arange(7, dtype=np.float32)
_WEAKEST = 0.006  # difference of Gaussians, of a full range of 1
_MARGIN = 4
_CELL, _PER_CELL = 24, 8  # so that one busy corner does not take all
_EDGE = 12.1  # Lowe's (r + 1)^2 / r at r = 10: lines have no place of their own


class Keypoints(NamedTuple):
    """The blobs of one image, strongest first, padded with zeros to `MOST`."""

    points: np.ndarray  # (MOST, 4) float32: x, y, size (all of the longer side, from the centre), angle in radians
    descriptors: np.ndarray  # (MOST, LENGTH) uint8
    n: int


def find_keypoints(grey: np.ndarray) -> Keypoints:
    """Find and describe the blobs of an image.

    Args:
        grey: (H, W) uint8, its longer side `SIDE` pixels.

    Returns:
        At most `MOST` keypoints; a flat image has none.

    Example:
        >>> image = np.full((192, 160), 40, np.uint8)
        >>> image[60:72, 50:62] = 200
        >>> x, y, size, angle = find_keypoints(image).points[0]
        >>> round(float(x * 192 + 79.5)), round(float(y * 192 + 95.5))
        (56, 66)
    """
    blurred = _blurs(grey)
    found = _blobs(blurred)
    n = len(found.x)
    gradient = np.zeros((2, *blurred.shape), np.float32)
    gradient[0, :, :, 1:-1] = blurred[:, :, 2:] - blurred[:, :, :-2]
    gradient[1, :, 1:-1] = blurred[:, 2:] - blurred[:, :-2]
    angle = _angles(gradient, found)
    height, width = grey.shape
    points = np.zeros((MOST, 4), np.float32)
    points[:n, 0] = (found.x - (width - 1) / 2) / SIDE
    points[:n, 1] = (found.y - (height - 1) / 2) / SIDE
    points[:n, 2] = found.sigma / SIDE
    points[:n, 3] = angle
    descriptors = np.zeros((MOST, LENGTH), np.uint8)
    descriptors[:n] = _descriptors(gradient, found, angle)
    return Keypoints(points, descriptors, n)


class _Blobs(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    level: np.ndarray
    sigma: np.ndarray


def _blurs(grey: np.ndarray) -> np.ndarray:
    """(levels, H, W): the image ever more blurred."""
    result = np.empty((len(_SIGMAS), *grey.shape), np.float32)
    image, have = grey.astype(np.float32) / 255, 0.5
    for level, sigma in enumerate(_SIGMAS):
        more = math.sqrt(sigma**2 - have**2)
        image = ndimage.gaussian_filter(image, more, mode="nearest", truncate=3, output=np.float32)
        result[level], have = image, float(sigma)
    return result


def _blobs(blurred: np.ndarray) -> _Blobs:
    difference = blurred[1:] - blurred[:-1]
    strength = np.abs(difference)
    inner = strength[1:-1, 1:-1, 1:-1]
    level, y, x = (1 + k for k in np.nonzero((inner == _largest_beside(strength)) & (inner > _WEAKEST)))
    height, width = difference.shape[1:]
    inside = (y >= _MARGIN) & (x >= _MARGIN) & (y < height - _MARGIN) & (x < width - _MARGIN)
    level, y, x = level[inside], y[inside], x[inside]
    at = difference[level, y, x]
    dxx = difference[level, y, x + 1] - 2 * at + difference[level, y, x - 1]
    dyy = difference[level, y + 1, x] - 2 * at + difference[level, y - 1, x]
    corners = [difference[level, y + i, x + j] * i * j for i in (-1, 1) for j in (-1, 1)]
    determinant = dxx * dyy - (sum(corners) / 4) ** 2
    round_enough = (determinant > 0) & ((dxx + dyy) ** 2 < _EDGE * determinant)
    rows = np.flatnonzero(round_enough)
    rows = rows[np.argsort(-strength[level[rows], y[rows], x[rows]], kind="stable")]
    rows = rows[_rank_in_cell(y[rows] // _CELL * SIDE + x[rows] // _CELL) < _PER_CELL][:MOST]
    level, y, x = level[rows], y[rows], x[rows]
    dx = _peak(difference[level, y, x - 1], at[rows], difference[level, y, x + 1])
    dy = _peak(difference[level, y - 1, x], at[rows], difference[level, y + 1, x])
    dl = _peak(difference[level - 1, y, x], at[rows], difference[level + 1, y, x])
    sigma = _SIGMAS[level] * _STEP**dl
    return _Blobs((x + dx).astype(np.float32), (y + dy).astype(np.float32), level, sigma.astype(np.float32))


def _largest_beside(cube: np.ndarray) -> np.ndarray:
    """The largest of each 3 x 3 x 3 cube, one axis after the other."""
    for axis in range(3):
        moved = np.moveaxis(cube, axis, 0)
        cube = np.moveaxis(np.maximum(np.maximum(moved[1:-1], moved[2:]), moved[:-2]), 0, axis)
    return cube


def _rank_in_cell(cell: np.ndarray) -> np.ndarray:
    """How many before it, in the order given, share each one's cell."""
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(cell[order]) != 0)) if len(cell) else order
    rank = np.empty(len(cell), np.int64)
    rank[order] = np.arange(len(cell)) - np.repeat(starts, np.diff(np.append(starts, len(cell))))
    return rank


def _peak(before: np.ndarray, at: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where the parabola through three neighbours peaks, from the middle one."""
    bend = before - 2 * at + after
    return np.asarray(np.clip((before - after) / (2 * np.where(bend == 0, 1, bend)), -0.5, 0.5))


def _window(n: int, spread: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y in (-1, 1) and Gaussian weight of n x n samples."""
    line = ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)
    y, x = (plane.ravel() for plane in np.meshgrid(line, line, indexing="ij"))
    return x, y, np.exp(-(x * x + y * y) / (2 * spread**2)).astype(np.float32)


def _sampled(gradient: np.ndarray, blobs: _Blobs, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (x, y) at offsets (n, m) from each blob, on its own level of blur."""
    _, _, height, width = gradient.shape
    columns = np.clip(np.rint(blobs.x[:, None] + x).astype(np.int32), 0, width - 1)
    rows = np.clip(np.rint(blobs.y[:, None] + y).astype(np.int32), 0, height - 1)
    index = (blobs.level[:, None].astype(np.int32) * height + rows) * width + columns
    return gradient[0].take(index), gradient[1].take(index)


def _angles(gradient: np.ndarray, blobs: _Blobs) -> np.ndarray:
    """The main direction of the gradient around each blob, in radians."""
    x, y, weight = _window(12, 0.4)
    reach = blobs.sigma[:, None] * 4.5
    gx, gy = _sampled(gradient, blobs, x * reach, y * reach)
    bins = 36
    histogram = _histogram(np.arctan2(gy, gx), np.hypot(gx, gy) * weight, bins)
    shifts = ((-2, 1), (-1, 4), (0, 6), (1, 4), (2, 1))
    smooth = np.sum([weight * np.roll(histogram, shift, 1) for shift, weight in shifts], axis=0)
    rows, best = np.arange(len(smooth)), smooth.argmax(1)
    shift = _peak(smooth[rows, (best - 1) % bins], smooth[rows, best], smooth[rows, (best + 1) % bins])
    return np.asarray(((best + shift) * (2 * np.pi / bins)).astype(np.float32))


def _descriptors(gradient: np.ndarray, blobs: _Blobs, angle: np.ndarray) -> np.ndarray:
    """(n, LENGTH) uint8: directions in 4 x 4 cells of the window turned by `angle`."""
    x, y, weight = _window(16, 0.7)
    reach = blobs.sigma[:, None] * 6
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    gx, gy = _sampled(gradient, blobs, (x * cosine - y * sine) * reach, (x * sine + y * cosine) * reach)
    sample = np.arange(256)
    cell = sample // 64 * 4 + sample % 16 // 4
    direction = np.arctan2(gy, gx) - angle[:, None]
    histogram = _histogram(direction, np.hypot(gx, gy) * weight, 8, cell, 16)
    histogram /= np.maximum(np.linalg.norm(histogram, axis=1, keepdims=True), 1e-9)
    histogram = np.minimum(histogram, 0.2)  # Lowe: one strong edge must not be all
    histogram /= np.maximum(histogram.sum(1, keepdims=True), 1e-9)
    return np.asarray(np.rint(np.sqrt(histogram) * UNIT).clip(0, 255).astype(np.uint8))


def _histogram(
    angle: np.ndarray, weight: np.ndarray, bins: int, cell: np.ndarray | int = 0, n_cells: int = 1
) -> np.ndarray:
    """(n, n_cells * bins): weights by direction, each shared between the two nearest bins."""
    n = len(angle)
    place = angle * (bins / (2 * np.pi))
    low = np.floor(place)
    share = place - low
    first = low.astype(np.int32) % bins
    base = (np.arange(n, dtype=np.int32)[:, None] * n_cells + cell) * bins
    size = n * n_cells * bins
    total = np.bincount((base + first).ravel(), (weight * (1 - share)).ravel(), size)
    total += np.bincount((base + (first + 1) % bins).ravel(), (weight * share).ravel(), size)
    return total.reshape(n, n_cells * bins).astype(np.float32)


def mirror_order() -> np.ndarray:
    """The order that turns a descriptor into that of the mirrored image.

    The window's axis is mirrored with the image, so its cells swap sides across that axis and every direction
    changes its sign.

    Example:
        >>> order = mirror_order()
        >>> bool((order[order] == np.arange(LENGTH)).all())
        True
    """
    cells = np.arange(LENGTH).reshape(4, 4, 8)
    return np.ascontiguousarray(cells[::-1][..., -np.arange(8) % 8].ravel())
