"""One vector an image from its local features, so that copies are near each other however they are turned.

A vector of locally aggregated descriptors (Jegou et al. 2010, "Aggregating local descriptors into a compact image
representation"): each descriptor's difference from the nearest of a few centres, summed by centre, with the
intra-normalisation of Arandjelovic & Zisserman 2013, then reduced and whitened.
"""

from __future__ import annotations

import numpy as np

from medclf.auditing.near_duplicates.keypoints import LENGTH, MOST, UNIT, mirror_order

_CENTRES, _WORD = 64, 32  # centres, and numbers kept of a descriptor
_VECTOR = 256
_FIT_ON = 2000  # images that the centres and axes are fitted on


class SignatureSpace:
    """Centres and axes fitted on a data set's own descriptors; deterministic.

    Args:
        descriptors: (n, MOST, LENGTH) uint8.
        counts: (n,) keypoints of each image.
    """

    def __init__(self, descriptors: np.ndarray, counts: np.ndarray) -> None:
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.decomposition import PCA

        chosen = np.linspace(0, len(counts) - 1, min(len(counts), _FIT_ON)).astype(int)
        words = _sample_words(descriptors[chosen], counts[chosen])
        self.axes = PCA(min(_WORD, *words.shape), random_state=0).fit(words)
        reduced = self.axes.transform(words)
        n_centres = max(1, min(_CENTRES, len(words) // 8))
        self.centres = MiniBatchKMeans(n_centres, random_state=0, n_init=1, batch_size=4096).fit(reduced)
        vectors = self._aggregate(descriptors[chosen], counts[chosen])
        size = max(1, min(_VECTOR, len(chosen) - 1, vectors.shape[1]))
        self.whitening = PCA(size, whiten=True, svd_solver="randomized", random_state=0).fit(vectors)
        # Dividing by the smallest deviations would blow up noise: half way between raw and whitened.
        self.scale = np.sqrt(self.whitening.explained_variance_ + self.whitening.explained_variance_.mean())

    def vectors(self, descriptors: np.ndarray, counts: np.ndarray, *, mirrored: bool = False) -> np.ndarray:
        """(n, size) float32 of length 1; an image without keypoints is all zeros.

        Args:
            descriptors: (n, MOST, LENGTH) uint8.
            counts: (n,) keypoints of each image.
            mirrored: of the mirrored images instead.
        """
        order = mirror_order() if mirrored else np.arange(LENGTH)
        parts = []
        for start in range(0, len(counts), 256):
            rows = slice(start, start + 256)
            vectors = self._aggregate(descriptors[rows][..., order], counts[rows])
            parts.append((vectors - self.whitening.mean_) @ self.whitening.components_.T / self.scale)
        result = np.concatenate(parts).astype(np.float32)
        result[counts == 0] = 0
        return np.asarray(result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-9))

    def _aggregate(self, descriptors: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(n, centres * word) float32: differences from the nearest centre, summed by centre."""
        image, place = np.nonzero(np.arange(MOST) < counts[:, None])
        centres = self.centres.cluster_centers_
        total = np.zeros((len(counts) * len(centres), centres.shape[1]), np.float32)
        if len(image):
            words = self.axes.transform(descriptors[image, place].astype(np.float32) / UNIT)
            nearest = self.centres.predict(words.astype(centres.dtype))
            rest = words - centres[nearest]
            rest /= np.maximum(np.linalg.norm(rest, axis=1, keepdims=True), 1e-9)
            np.add.at(total, image * len(centres) + nearest, rest)
        total /= np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-9)
        whole = total.reshape(len(counts), -1)
        return np.asarray(whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-9))


def _sample_words(descriptors: np.ndarray, counts: np.ndarray, most: int = 30_000) -> np.ndarray:
    """(m, LENGTH) float32: a sample of the descriptors, as they are and mirrored."""
    image, place = np.nonzero(np.arange(MOST) < counts[:, None])
    chosen = np.linspace(0, len(image) - 1, min(len(image), most)).astype(int)
    words = descriptors[image[chosen], place[chosen]].astype(np.float32) / UNIT
    return np.concatenate([words, words[:, mirror_order()]])
