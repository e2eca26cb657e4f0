"""Whether two aligned images show the same: block by block, in the fine detail that is their own.

What all images of a set share must not carry a match: the surround of a disc, a fan or a collimated field is cut off, a
block's smooth shading is taken out, and so is what the set's mean image explains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

DETAIL = 96  # side of the copies that are compared
NO_CONTENT = -128  # in a fine detail: the surround, which belongs to the device
_BLOCKS = 8
_SIDE = DETAIL // _BLOCKS
_WINDOW = 13  # what is lighter or darker over more than this is light, not detail
_GAIN = 2.0  # stored as whole numbers of 1 / _GAIN grey level; stronger edges are cut off
_PLAIN = 2.0  # deviation, in those numbers, below which a block has nothing to compare
_COVERED = 0.6  # share of a block that must lie in both images
_BLACK, _WHITE = 18, 238  # grey levels of a surround
_SURROUND = 0.004  # share of the image from which an even area at the rim is one
_MARGIN = 6  # pixels inside the surround's edge that its step still reaches
_LEFT = 0.25  # share of what is no surround that the margin leaves, at least, unless that is thin
_SPREAD = 20  # blocks that thin structures reach, at least; a small disc reaches fewer


class Agreement(NamedTuple):
    """What the comparison of pairs gave."""

    similarity: Tensor  # (pairs,) mean correlation over the blocks, in [0, 1]
    blocks: Tensor  # (pairs,) blocks with something to compare
    overlap: Tensor  # (pairs,) share of a that lies in b


def fine_detail(grey: np.ndarray) -> np.ndarray:
    """A square grey image without its slow changes of light and without a black or white surround.

    Args:
        grey: (DETAIL, DETAIL) uint8.

    Returns:
        int8 of the same shape; `NO_CONTENT` in the surround and close to its edge.
    """
    plane = grey.astype(np.float32)
    fine = plane - ndimage.uniform_filter(plane, _WINDOW, mode="nearest")
    detail = np.rint(fine * _GAIN).clip(-127, 127).astype(np.int8)
    detail[_surround(grey)] = NO_CONTENT
    return np.asarray(detail)


def _surround(grey: np.ndarray) -> np.ndarray:
    """Black and white areas that reach the rim, with a margin; none where they lie between thin structures.

    Fingers, vessels or cells all over the image have at the edge of the black the shape that tells them apart.
    """
    found = np.zeros(grey.shape, bool)
    for even in (grey <= _BLACK, grey >= _WHITE):
        areas, _ = ndimage.label(even)
        sizes = np.bincount(areas.ravel())
        at_rim = np.unique(np.concatenate([areas[0], areas[-1], areas[:, 0], areas[:, -1]]))
        found |= np.isin(areas, [area for area in at_rim if area and sizes[area] >= _SURROUND * grey.size])
    square = np.ones((3, 3))  # as the window is: its corners reach farther than its sides
    wide = ndimage.binary_dilation(found, square, iterations=_MARGIN) if found.any() else found
    reached = (~found).reshape(_BLOCKS, _SIDE, _BLOCKS, _SIDE).any((1, 3)).sum()
    thin = (~wide).sum() < _LEFT * (~found).sum() and reached >= _SPREAD
    return np.zeros_like(found) if thin else wide


def mean_detail(detail: np.ndarray, weights: np.ndarray) -> Tensor:
    """(DETAIL, DETAIL) what images have in common, 0 where few of them have content.

    Args:
        detail: (n, DETAIL, DETAIL) from `fine_detail`.
        weights: (n,) of the images.
    """
    total, content = np.zeros((2, DETAIL, DETAIL))
    for one, weight in zip(detail, weights, strict=True):  # one by one: as floats they are four times as large
        has = one != NO_CONTENT
        total += weight * np.where(has, one, 0)
        content += weight * has
    mean = total / np.maximum(content, 1e-9) * (content > 0.3 * weights.sum())
    return torch.from_numpy(mean.astype(np.float32))


def compare(
    detail_a: Tensor, detail_b: Tensor, aspect_a: Tensor, aspect_b: Tensor, matrix: Tensor, mean: Tensor | None = None
) -> Agreement:
    """Compare pairs of images under given alignments.

    The similarity of a block is the correlation of both images; where `mean` is given, their partial correlation, given
    a quadratic shading and the set's mean image as it lies in each of the two. That takes several times as long.

    Args:
        detail_a, detail_b: (pairs, DETAIL, DETAIL) int8 from `fine_detail`.
        aspect_a, aspect_b: (pairs, 2) height and width of each image, of its longer side.
        matrix: (pairs, 2, 3) as `Alignment` has it.
        mean: from `mean_detail`, or zeros.

    Returns:
        The mean over the blocks with detail of their correlation, negative ones as 0; and how much was compared.
    """
    content_a, content_b = (detail != NO_CONTENT for detail in (detail_a, detail_b))
    planes = [detail_b * content_b, content_b.float()]
    if mean is not None:
        planes.append(mean.expand(len(detail_a), -1, -1))
    moved, inside = _moved(torch.stack([plane.float() for plane in planes], 1), aspect_a, aspect_b, matrix)
    shares = moved[:, 1]
    b = moved[:, 0] / shares.clamp(min=0.5)
    weight = _blocks(inside * content_a * (shares > 0.5))
    a, b = _blocks(detail_a.float()), _blocks(b)
    if mean is None:
        count = weight.sum(-1, keepdim=True).clamp(min=1)
        a, b = ((one - (one * weight).sum(-1, keepdim=True) / count) * weight for one in (a, b))
    else:
        common = [_blocks(one)[..., None] for one in (planes[2].float(), moved[:, 2])]
        a, b = _unexplained(a, b, torch.cat([_SHADING.expand(*weight.shape, -1), *common], -1), weight)
    return _agreement(a, b, weight, inside)


def _moved(planes: Tensor, aspect_a: Tensor, aspect_b: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Planes of b as they lie in a, (pairs, planes, DETAIL, DETAIL), and which pixels of a lie in b."""
    line = (torch.arange(DETAIL) + 0.5) / DETAIL - 0.5
    x = line[None, None, :] * aspect_a[:, 1, None, None]
    y = line[None, :, None] * aspect_a[:, 0, None, None]
    m = matrix[..., None, None]
    u = (m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]) * (2 / aspect_b[:, 1, None, None])
    v = (m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]) * (2 / aspect_b[:, 0, None, None])
    inside = ((u.abs() < 1) & (v.abs() < 1)).float()
    return functional.grid_sample(planes, torch.stack([u, v], -1), align_corners=False), inside


def _unexplained(a: Tensor, b: Tensor, explained: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of both after the least-squares fit of `explained`, block by block; 0 where the weight is."""
    weighted = explained * weight[..., None]
    left = weighted.transpose(-1, -2) @ explained
    ridge = 1e-2 + 1e-3 * left.diagonal(dim1=-2, dim2=-1).mean(-1)
    left = left + ridge[..., None, None] * torch.eye(left.shape[-1])
    both = torch.stack([a, b], -1)
    rest = (both - explained @ torch.linalg.solve(left, weighted.transpose(-1, -2) @ both)) * weight[..., None]
    return rest[..., 0], rest[..., 1]


def _agreement(a: Tensor, b: Tensor, weight: Tensor, inside: Tensor) -> Agreement:
    count = weight.sum(-1)
    var_a, var_b, both = ((one * other).sum(-1) / count.clamp(min=1) for one, other in ((a, a), (b, b), (a, b)))
    correlation = both / (var_a * var_b).sqrt().clamp(min=1e-3)
    used = (count > _COVERED * _SIDE**2) & (torch.maximum(var_a, var_b) > _PLAIN**2)
    blocks = used.sum(1)
    mean = (correlation.clamp(0, 1) * used).sum(1) / blocks.clamp(min=1)
    return Agreement(mean, blocks, inside.mean((1, 2)))


def _blocks(plane: Tensor) -> Tensor:
    """(pairs, blocks, pixels of a block)."""
    parts = plane.reshape(len(plane), _BLOCKS, _SIDE, _BLOCKS, _SIDE)
    return parts.transpose(2, 3).reshape(len(plane), _BLOCKS**2, _SIDE**2)


def _shading() -> Tensor:
    """(pixels of a block, 6): a constant, a slope and a bend over a block."""
    line = (torch.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], -1).reshape(_SIDE**2, 6)


_SHADING = _shading()
