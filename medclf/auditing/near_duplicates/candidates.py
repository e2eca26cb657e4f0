"""Which pairs are worth comparing: nearest neighbours by hash and by vector, from an index that does not try all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dctn

HASH_BITS = 64
N_VIEWS = 13
_TURNS = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.TRANSVERSE,
)
_MIRRORED = np.array([turn is not None and turn not in _TURNS[1:4] for turn in _TURNS] + [False] * 5)
_WINDOW = 0.87  # side of the windows that stand for cropped copies
_CORNERS = ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_NEAR_BITS = 10  # of 64: hashes further apart are strangers
_NEAR_COSINE = 0.0
_EXACT = 1000  # up to here all distances are computed: no slower, and nothing is missed


class Pairs(NamedTuple):
    """Pairs of rows, first < second."""

    first: np.ndarray
    second: np.ndarray
    mirrored: np.ndarray  # whether the second is looked for mirrored

    def __len__(self) -> int:
        return len(self.first)


def perceptual_hashes(grey: np.ndarray) -> np.ndarray:
    """Hashes of an image as it is, turned and mirrored, and of five windows of it.

    Args:
        grey: (side, side) uint8.

    Returns:
        (13, 8) uint8: of 64 bits each; the first is of the whole image as it is.

    Example:
        >>> image = np.add.outer(np.arange(64), np.arange(64) ** 2 / 64).astype(np.uint8)
        >>> hashes = perceptual_hashes(image)
        >>> bool((perceptual_hashes(image[:, ::-1])[0] == hashes[4]).all())
        True
    """
    whole = Image.fromarray(grey)
    side = grey.shape[0]
    inner = round(side * _WINDOW)
    views = [whole if turn is None else whole.transpose(turn) for turn in _TURNS]
    for across, down in _CORNERS:
        left, top = round((side - inner) * across), round((side - inner) * down)
        views.append(whole.crop((left, top, left + inner, top + inner)))
    return np.stack([_perceptual_hash(view) for view in views])


def _perceptual_hash(image: Image.Image) -> np.ndarray:
    """Of 32 x 32 pixels the 8 x 8 lowest frequencies, above their median or not; the hashes of `imagehash.phash`."""
    low = dctn(np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS), float))[:8, :8]
    return np.packbits(low > np.median(low))


def candidates(hashes: np.ndarray, signatures: np.ndarray, mirrored: np.ndarray, embedding: np.ndarray | None) -> Pairs:
    """Pairs that some search finds near each other; every other pair is never looked at.

    Args:
        hashes: (n, 13, 8) from `perceptual_hashes`.
        signatures: (n, f) from `SignatureSpace.vectors`.
        mirrored: (n, f) the same of the mirrored images.
        embedding: (n, f) of a backbone, or None.

    Returns:
        The pairs, each once (and once more mirrored, where that was found), sorted.
    """
    parts = [_by_hash(hashes), _by_vector(signatures, signatures, 12, False), _by_vector(signatures, mirrored, 6, True)]
    if embedding is not None:
        centred = embedding - embedding.mean(0)
        found = _by_vector(centred, centred, 6, False)
        parts += [found, (found[0], found[1], ~found[2])]
    first, second, flipped = (np.concatenate(column) for column in zip(*parts, strict=True))
    low, high = np.minimum(first, second), np.maximum(first, second)
    n = len(hashes)
    keys = np.unique(((low.astype(np.int64) * n + high) * 2 + flipped)[low != high])
    return Pairs(keys // 2 // n, keys // 2 % n, keys % 2 == 1)


def alike(embedding: np.ndarray, k: int, least: float) -> Pairs:
    """Pairs that an embedding finds near each other, as they are and mirrored.

    Args:
        embedding: (n, f) of a backbone.
        k: neighbours of each image.
        least: cosine of the centred vectors from which a pair counts.

    Returns:
        The pairs, each once as it is and once mirrored, the most alike first.
    """
    centred = embedding - embedding.mean(0)
    found, distance = search(centred, centred, k + 1)
    query, place = np.nonzero((found >= 0) & (distance <= 1 - least))
    other = found[query, place]
    low, high = np.minimum(query, other), np.maximum(query, other)
    order = np.argsort(distance[query, place], kind="stable")
    order = order[(low != high)[order]]
    _, once = np.unique(low[order] * len(embedding) + high[order], return_index=True)
    kept = np.repeat(order[np.sort(once)], 2)
    return Pairs(low[kept], high[kept], np.arange(len(kept)) % 2 == 1)


_Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def _by_hash(hashes: np.ndarray) -> _Columns:
    n, views, _ = hashes.shape
    found, distance = search(hashes[:, 0], hashes.reshape(n * views, -1), 4, HASH_BITS, "hamming", "b1")
    query, place = np.nonzero((found >= 0) & (distance <= _NEAR_BITS))
    return query // views, found[query, place], _MIRRORED[query % views]


def _by_vector(vectors: np.ndarray, queries: np.ndarray, k: int, mirrored: bool) -> _Columns:
    # One more, since most images find themselves first.
    found, distance = search(vectors, queries, k + 1)
    query, place = np.nonzero((found >= 0) & (distance <= 1 - _NEAR_COSINE))
    return query, found[query, place], np.full(len(query), mirrored)


def search(
    stored: np.ndarray,
    queries: np.ndarray,
    k: int,
    width: int | None = None,
    metric: str = "cos",
    scalar: str = "f32",
) -> tuple[np.ndarray, np.ndarray]:
    """The stored vectors nearest to each query: exactly where they are few, else from an index.

    Args:
        stored: (n, f).
        queries: (m, f).
        k: how many.
        width: of a vector, in bits where `scalar` is "b1".
        metric, scalar: as usearch calls them.

    Returns:
        (m, min(k, n)) rows of the nearest stored vectors, -1 where fewer are found, and their distances.
    """
    from usearch.index import BatchMatches, Index

    n, asked = len(stored), len(queries)
    queries = np.repeat(queries, 2, axis=0) if asked == 1 else queries  # one alone comes back in another shape
    index = Index(ndim=width or stored.shape[1], metric=metric, dtype=scalar, expansion_add=128, expansion_search=96)
    index.add(np.arange(n), np.ascontiguousarray(stored), threads=1)  # one: the same graph every time
    k = min(k, n)
    matches = index.search(np.ascontiguousarray(queries), k, exact=n <= _EXACT)
    assert isinstance(matches, BatchMatches), "there are several queries"
    rows = np.full((len(queries), k), -1, np.int64)
    distance = np.full((len(queries), k), np.inf, np.float32)
    known = np.arange(k) < matches.counts[:, None]
    rows[known] = matches.keys[known].astype(np.int64)
    distance[known] = matches.distances[known]
    return rows[:asked], distance[:asked]
