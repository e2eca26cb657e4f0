"""Fingerprints in, verified pairs of near-duplicates out."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from medclf.auditing.near_duplicates.align import Features, align
from medclf.auditing.near_duplicates.candidates import Pairs, candidates
from medclf.auditing.near_duplicates.compare import compare, mean_detail
from medclf.auditing.near_duplicates.fingerprint import Fingerprints
from medclf.auditing.near_duplicates.signature import SignatureSpace
from medclf.progress import watch

SIMILAR = 0.6  # chosen on real images: see docs/audit.md
_INLIERS, _BLOCKS, _OVERLAP = 5, 12, 0.25  # what a comparison must rest on
_FEW = 20  # keypoints below which whole turns and mirrorings are tried as well
_BATCH = 32
_MANY = 20  # different images from which a set has a mean to speak of
_SURE = 0.85  # similarity of what surely shows the same


class Twins(NamedTuple):
    """Verified pairs of near-duplicates, first < second, most similar first."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray  # in [0, 1]
    detail: list[str]  # how the second differs from the first, in words
    n_compared: int


def find_twins(
    prints: Fingerprints,
    rows: np.ndarray,
    embedding: np.ndarray | None = None,
    *,
    min_similarity: float = SIMILAR,
    progress: bool = True,
) -> Twins:
    """Find the pairs of images that show the same, whatever was done to one of them.

    Args:
        prints: fingerprints of all images.
        rows: which of them to search among.
        embedding: (n, f) features of all images from a backbone, to find more candidates by.
        min_similarity: mean correlation of the aligned images' fine detail, block by block, from which they are twins.
        progress: show a progress bar when it lasts.

    Returns:
        The pairs, as rows of `prints`.
    """
    rows = np.asarray(rows, np.int64)
    if len(rows) < 2:
        none = np.zeros(0, np.int64)
        return Twins(none, none, np.zeros(0), [], 0)
    descriptors, counts = prints.descriptors[rows], prints.counts[rows]
    if counts.any():
        space = SignatureSpace(descriptors, counts)
        signatures = space.vectors(descriptors, counts)
        mirrored = space.vectors(descriptors, counts, mirrored=True)
    else:
        signatures = mirrored = np.zeros((len(rows), 1), np.float32)
    chosen = None if embedding is None else np.asarray(embedding, np.float32)[rows]
    pairs = candidates(prints.hashes[rows], signatures, mirrored, chosen)
    pairs = Pairs(rows[pairs.first], rows[pairs.second], pairs.mirrored)
    return verify(prints, pairs, min_similarity=min_similarity, progress=progress)


def verify(prints: Fingerprints, pairs: Pairs, *, min_similarity: float = SIMILAR, progress: bool = True) -> Twins:
    """Those of the proposed pairs that show the same.

    Args:
        prints: fingerprints of the images.
        pairs: rows of `prints`.
        min_similarity, progress: see `find_twins`.
    """
    similarity, matrices = _verify(prints, pairs, progress)
    found = np.flatnonzero(similarity >= min_similarity)
    mean = _common(prints, pairs, similarity)
    for start in range(0, len(found), _BATCH):
        some = found[start : start + _BATCH]
        similarity[some] = _similarity(prints, pairs.first[some], pairs.second[some], matrices[some], mean)
    return _best(prints, pairs, similarity, matrices, min_similarity)


def _common(prints: Fingerprints, pairs: Pairs, similarity: np.ndarray) -> Tensor:
    """The mean image of the set; zeros of a few. Images that surely show the same count once, together."""
    rows = np.flatnonzero([bool(pixels) for pixels in prints.pixels] if any(prints.pixels) else prints.counts >= 0)
    sure = np.flatnonzero(similarity >= _SURE)
    edges = coo_array((np.ones(len(sure)), (pairs.first[sure], pairs.second[sure])), shape=(len(prints.pixels),) * 2)
    group = connected_components(edges, directed=False)[1]
    weights = 1 / np.bincount(group[rows])[group[rows]]
    return mean_detail(prints.detail[rows], weights) * float(weights.sum() >= _MANY)


def _verify(prints: Fingerprints, pairs: Pairs, progress: bool) -> tuple[np.ndarray, np.ndarray]:
    """Similarity (0 where nothing holds it up) and alignment of each pair."""
    similarity, matrices = np.zeros(len(pairs), np.float32), np.zeros((len(pairs), 2, 3), np.float32)
    starts = range(0, len(pairs), _BATCH)
    with torch.inference_mode():
        for start in watch(starts, len(starts), "Comparing", progress=progress):
            batch = slice(start, start + _BATCH)
            first, second, mirrored = (column[batch] for column in pairs)
            found = align(_side(prints, first), _side(prints, second), torch.from_numpy(mirrored))
            held = np.flatnonzero((found.inliers >= _INLIERS).numpy())
            matrices[batch] = found.matrix.numpy()
            similarity[start + held] = _similarity(prints, first[held], second[held], found.matrix[held])
            plain = np.flatnonzero(np.minimum(prints.counts[first], prints.counts[second]) < _FEW)
            for turn in _turns() if len(plain) else []:
                turned = _in_place(prints, first[plain], second[plain], turn)
                better = _similarity(prints, first[plain], second[plain], turned)
                where = better > similarity[start + plain]
                similarity[start + plain[where]] = better[where]
                matrices[start + plain[where]] = turned[where].numpy()
    return similarity, matrices


def _side(prints: Fingerprints, rows: np.ndarray) -> Features:
    arrays = (prints.points, prints.descriptors, prints.counts)
    return Features(*(torch.from_numpy(array[rows]) for array in arrays))


def _similarity(
    prints: Fingerprints, first: np.ndarray, second: np.ndarray, matrix: np.ndarray | Tensor, mean: Tensor | None = None
) -> np.ndarray:
    if not len(first):
        return np.zeros(0, np.float32)
    detail_a, detail_b = (torch.from_numpy(prints.detail[rows]) for rows in (first, second))
    aspect_a, aspect_b = (torch.from_numpy(prints.aspect[rows]) for rows in (first, second))
    found = compare(detail_a, detail_b, aspect_a, aspect_b, torch.as_tensor(matrix), mean)
    enough = (found.blocks >= _BLOCKS) & (found.overlap >= _OVERLAP)
    return (found.similarity * enough).numpy()


def _turns() -> list[Tensor]:
    """The eight turns and mirrorings of a square."""
    quarter = [torch.tensor([[c, -s], [s, c]]) for c, s in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    flip = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    return [turn @ mirror for turn in quarter for mirror in (torch.eye(2), flip)]


def _in_place(prints: Fingerprints, first: np.ndarray, second: np.ndarray, turn: Tensor) -> Tensor:
    """Alignments that lay the one whole image, turned, on the other, stretched to it."""
    wide_a, wide_b = (torch.from_numpy(prints.aspect[rows]).flip(1) for rows in (first, second))
    linear = wide_b[:, :, None] * turn / wide_a[:, None, :]
    return torch.cat([linear, torch.zeros(len(first), 2, 1)], 2)


def _best(prints: Fingerprints, pairs: Pairs, similarity: np.ndarray, matrices: np.ndarray, least: float) -> Twins:
    """The pairs that are similar enough, each once."""
    order = np.argsort(-similarity, kind="stable")
    order = order[similarity[order] >= least]
    _, once = np.unique(pairs.first[order] * len(prints.pixels) + pairs.second[order], return_index=True)
    kept = order[np.sort(once)]
    first, second = pairs.first[kept], pairs.second[kept]
    detail = [
        _words(m, prints.aspect[a], prints.aspect[b]) for m, a, b in zip(matrices[kept], first, second, strict=True)
    ]
    return Twins(first, second, similarity[kept].astype(float), detail, len(pairs))


def _words(matrix: np.ndarray, aspect_a: np.ndarray, aspect_b: np.ndarray) -> str:
    """How b differs from a: mirrored, turned, showing a part."""
    linear = matrix[:, :2].astype(float)
    area = float(np.linalg.det(linear))
    parts = []
    if area < 0:
        parts.append("mirrored")
        linear = np.diag([-1.0, 1.0]) @ linear
    angle = math.degrees(math.atan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    if abs(angle) > 2.5:
        parts.append(f"turned by {round(angle) % 360}°")
    share_a, share_b = _overlap(matrix, aspect_a, aspect_b)
    if share_a < 0.95 and abs(area) > 0:
        parts.append(f"second is a crop of the first ({100 * share_a:.0f} %)")
    elif share_b < 0.95:
        parts.append(f"first is a crop of the second ({100 * share_b:.0f} %)")
    return ", ".join(parts) or "the same view"


def _overlap(matrix: np.ndarray, aspect_a: np.ndarray, aspect_b: np.ndarray) -> tuple[float, float]:
    """Share of a that lies in b, and of b that lies in a."""
    line = (np.arange(32) + 0.5) / 32 - 0.5
    x, y = np.meshgrid(line * aspect_a[1], line * aspect_a[0])
    u, v = np.tensordot(matrix, np.stack([x, y, np.ones_like(x)]), 1)
    inside = float(((np.abs(u) < aspect_b[1] / 2) & (np.abs(v) < aspect_b[0] / 2)).mean())
    covered = inside * abs(float(np.linalg.det(matrix[:, :2]))) * float(aspect_a.prod() / aspect_b.prod())
    return inside, min(covered, 1.0)
