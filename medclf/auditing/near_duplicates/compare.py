"""Whether two aligned images show the same: block by block, in their fine detail."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

DETAIL = 96  # side of the copies that are compared
_BLOCKS = 8
_WINDOW = 13  # what is lighter or darker over more than this is light, not detail
_GAIN = 2.0  # stored as whole numbers of 1 / _GAIN grey level; stronger edges are cut off
_PLAIN = 2.0  # deviation, in those numbers, below which a block has nothing to compare
_COVERED = 0.6  # share of a block that must lie in both images


class Agreement(NamedTuple):
    """What the comparison of pairs gave."""

    similarity: Tensor  # (pairs,) mean correlation over the blocks, in [0, 1]
    blocks: Tensor  # (pairs,) blocks with something to compare
    overlap: Tensor  # (pairs,) share of a that lies in b


def fine_detail(grey: np.ndarray) -> np.ndarray:
    """A square grey image without its slow changes of light.

    Args:
        grey: (DETAIL, DETAIL) uint8.

    Returns:
        int8 of the same shape.
    """
    plane = grey.astype(np.float32)
    fine = plane - ndimage.uniform_filter(plane, _WINDOW, mode="nearest")
    return np.rint(fine * _GAIN).clip(-127, 127).astype(np.int8)


def compare(detail_a: Tensor, detail_b: Tensor, aspect_a: Tensor, aspect_b: Tensor, matrix: Tensor) -> Agreement:
    """Compare pairs of images under given alignments.

    Args:
        detail_a, detail_b: (pairs, DETAIL, DETAIL) int8 from `fine_detail`.
        aspect_a, aspect_b: (pairs, 2) height and width of each image, of its longer side.
        matrix: (pairs, 2, 3) as `Alignment` has it.

    Returns:
        The mean over the blocks with detail of their correlation, negative ones as 0; and how much was compared.
    """
    line = (torch.arange(DETAIL) + 0.5) / DETAIL - 0.5
    x = line[None, None, :] * aspect_a[:, 1, None, None]
    y = line[None, :, None] * aspect_a[:, 0, None, None]
    m = matrix[..., None, None]
    u = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) * (2 / aspect_b[:, 1, None, None])
    v = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) * (2 / aspect_b[:, 0, None, None])
    grid = torch.stack([u, v], -1)
    moved = functional.grid_sample(detail_b[:, None].float(), grid, align_corners=False)[:, 0]
    inside = ((u.abs() < 1) & (v.abs() < 1)).float()
    return _agreement(detail_a.float() * inside, moved * inside, inside)


def _agreement(a: Tensor, b: Tensor, inside: Tensor) -> Agreement:
    count = _sums(inside)
    covered = count > _COVERED * (DETAIL // _BLOCKS) ** 2
    count = count.clamp(min=1)
    mean_a, mean_b = _sums(a) / count, _sums(b) / count
    var_a = (_sums(a * a) / count - mean_a**2).clamp(min=0)
    var_b = (_sums(b * b) / count - mean_b**2).clamp(min=0)
    correlation = (_sums(a * b) / count - mean_a * mean_b) / (var_a * var_b).sqrt().clamp(min=1e-3)
    used = covered & (torch.maximum(var_a, var_b) > _PLAIN**2)
    blocks = used.sum((1, 2))
    mean = (correlation.clamp(0, 1) * used).sum((1, 2)) / blocks.clamp(min=1)
    return Agreement(mean, blocks, inside.mean((1, 2)))


def _sums(plane: Tensor) -> Tensor:
    """(pairs, blocks, blocks) sums over the blocks."""
    side = DETAIL // _BLOCKS
    return plane.reshape(len(plane), _BLOCKS, side, _BLOCKS, side).sum((2, 4))
