"""Where one image lies in another: the affine transform that most matched keypoints agree on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medclf.auditing.near_duplicates.keypoints import UNIT, mirror_order

_MATCHES = 48  # the best mutual matches that vote
_UNLIKE = 0.5  # similarity of descriptors below which a match counts nothing
_NEAR = (0.05, 0.035, 0.02)  # of the longer side: how far a match may lie off, step by step
_TURN, _GROWTH = 0.6, 1.7  # how far a match's own turn (radians) and growth may be off
_STIFF = 0.02  # pull towards the former transform, so that few matches cannot bend it
_LEAST = 3
_SQUEEZE = 1.5  # the most that one axis may grow against the other


class Alignment(NamedTuple):
    """How image a maps into image b, for pairs."""

    matrix: Tensor  # (pairs, 2, 3): of (x, y, 1) in a, from the centre and of the longer side
    inliers: Tensor  # (pairs,) matches that agree


class Features(NamedTuple):
    """Keypoints of one side of the pairs."""

    points: Tensor  # (pairs, MOST, 4)
    descriptors: Tensor  # (pairs, MOST, LENGTH) uint8
    counts: Tensor  # (pairs,)


def align(a: Features, b: Features, mirrored: Tensor) -> Alignment:
    """Align pairs of images by their keypoints.

    Every match of two oriented blobs proposes a turn, a scale and a shift; the proposal that most matches agree
    with is kept and fitted to them, at last as an affine transform, since copies may be squeezed.

    Args:
        a, b: the two sides.
        mirrored: (pairs,) whether b is looked for mirrored.

    Returns:
        The transforms with the mirroring in them; those of few inliers mean nothing.
    """
    za, zb, motion, weight = _matches(a, b, mirrored)
    similarity, inside = _vote(za, zb, motion, weight)
    matrix = _as_matrix(similarity)
    start = matrix
    xa = torch.stack([za.real, za.imag, torch.ones_like(za.real)], 2)
    xb = torch.stack([zb.real, zb.imag], 2)
    for near in _NEAR:
        fitted = _fit(xa, xb, inside * weight, matrix)
        sound = (inside.sum(1) >= _LEAST) & _is_sound(fitted)
        matrix = torch.where(sound[:, None, None], fitted, matrix)
        off = (xa @ matrix.transpose(1, 2) - xb).norm(dim=2)
        agree = _alike(motion, torch.complex(matrix[:, 0, 0], matrix[:, 1, 0])[:, None])
        inside = (off < near) & agree & (weight > 0)
    matrix = torch.where((inside.sum(1) >= _LEAST)[:, None, None], matrix, start)
    flip = torch.where(mirrored, -1.0, 1.0)[:, None]
    return Alignment(torch.cat([matrix[:, :1] * flip[..., None], matrix[:, 1:]], 1), inside.sum(1))


def _matches(a: Features, b: Features, mirrored: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places in a and b as complex numbers (pairs, matches), each match's own turn and growth, and its weight."""
    order = torch.from_numpy(mirror_order())
    descriptors = torch.where(mirrored[:, None, None], b.descriptors[..., order], b.descriptors)
    likeness = (a.descriptors.float() / UNIT) @ (descriptors.float() / UNIT).transpose(1, 2)
    row = torch.arange(likeness.shape[1])
    likeness.masked_fill_((row >= a.counts[:, None])[:, :, None], -1)
    likeness.masked_fill_((row >= b.counts[:, None])[:, None, :], -1)
    best, to = likeness.max(2)
    mutual = likeness.argmax(1).gather(1, to) == row
    weight, start = torch.where(mutual, best - _UNLIKE, -1.0).clamp(min=0).topk(min(_MATCHES, len(row)), 1)
    pa = a.points.gather(1, start[..., None].expand(-1, -1, 4))
    pb = b.points.gather(1, to.gather(1, start)[..., None].expand(-1, -1, 4))
    sign = torch.where(mirrored, -1.0, 1.0)[:, None]
    angle = torch.where(mirrored[:, None], math.pi - pb[..., 3], pb[..., 3])
    growth = torch.where(weight > 0, pb[..., 2] / pa[..., 2].clamp(min=1e-6), 1.0)
    motion = torch.polar(growth, angle - pa[..., 3])
    return torch.complex(pa[..., 0], pa[..., 1]), torch.complex(pb[..., 0] * sign, pb[..., 1]), motion, weight


def _alike(motion: Tensor, model: Tensor) -> Tensor:
    """Whether each match turns and grows as the model does."""
    rest = motion / torch.where(model.abs() > 1e-6, model, torch.ones_like(model))
    size = rest.abs()
    return (size < _GROWTH) & (size > 1 / _GROWTH) & (rest.angle().abs() < _TURN)


def _vote(za: Tensor, zb: Tensor, motion: Tensor, weight: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The similarity z -> m z + s of the match that most others agree with, and those (pairs, matches)."""
    shift = zb - motion * za
    predicted = motion[:, :, None] * za[:, None, :] + shift[:, :, None]
    agree = ((predicted - zb[:, None, :]).abs() < _NEAR[0]) & (weight > 0)[:, None, :]
    agree &= _alike(motion[:, None, :], motion[:, :, None])
    votes = (agree * weight[:, None, :]).sum(2) * (weight > 0)
    best = votes.argmax(1)
    pair = torch.arange(len(best))
    return (motion[pair, best], shift[pair, best]), agree[pair, best]


def _as_matrix(similarity: tuple[Tensor, Tensor]) -> Tensor:
    turn, shift = similarity
    first = torch.stack([turn.real, -turn.imag, shift.real], 1)
    return torch.stack([first, torch.stack([turn.imag, turn.real, shift.imag], 1)], 1)


def _fit(xa: Tensor, xb: Tensor, weight: Tensor, former: Tensor) -> Tensor:
    """Weighted least squares for the affine transform, drawn a little towards the former one."""
    weighted = xa * weight[..., None]
    left = weighted.transpose(1, 2) @ xa + _STIFF * torch.eye(3)
    right = weighted.transpose(1, 2) @ xb + _STIFF * former.transpose(1, 2)
    result: Tensor = torch.linalg.solve(left, right).transpose(1, 2)
    return result


def _is_sound(matrix: Tensor) -> Tensor:
    """Whether a transform neither mirrors nor squeezes much."""
    a, b, c, d = matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1]
    area = a * d - b * c
    size = a * a + b * b + c * c + d * d  # the sum of the squared singular values; area is their product
    return (area > 1e-3) & (size < (_SQUEEZE + 1 / _SQUEEZE) * area)
