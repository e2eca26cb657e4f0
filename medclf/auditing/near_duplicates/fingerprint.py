"""What is kept of each image to find its near-duplicates by: one decode an image, about 30 kB."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medclf.auditing.near_duplicates.candidates import HASH_BITS, N_VIEWS, perceptual_hashes
from medclf.auditing.near_duplicates.compare import DETAIL, fine_detail
from medclf.auditing.near_duplicates.keypoints import LENGTH, MOST, SIDE, find_keypoints
from medclf.errors import ReadError
from medclf.images.reading import probe, read_display
from medclf.images.resize import resize_pixels, with_channels
from medclf.images.rim_marks import N_MARKS, measure_marks
from medclf.parallel import map_ahead, n_cores
from medclf.progress import watch

_UNSEARCHED = "", ("", 0, 0), np.zeros(N_MARKS, np.float32), np.zeros((N_VIEWS, HASH_BITS // 8), np.uint8)


class Fingerprint(NamedTuple):
    """What is kept of one image."""

    pixels: str  # hash of the decoded pixels
    depth: tuple[str, int, int]  # format, bits, channels
    marks: np.ndarray
    hashes: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray
    n_keypoints: int
    detail: np.ndarray
    aspect: tuple[float, float]  # height, width, of the longer side


@dataclass
class Fingerprints:
    """The fingerprints of n images as arrays; a row of an unreadable image is all zeros.

    Args:
        pixels: hash of the decoded pixels, "" where unreadable.
        depths: format, bits and channels.
        marks: (n, N_MARKS); see `medclf.images.rim_marks`.
        hashes: (n, views, 8) uint8; see `perceptual_hashes`.
        points, descriptors, counts: keypoints; see `find_keypoints`.
        detail: (n, DETAIL, DETAIL) int8; see `fine_detail`.
        aspect: (n, 2) height and width, of the longer side.
        problems: row -> why the image could not be read.
    """

    pixels: list[str]
    depths: list[tuple[str, int, int]]
    marks: np.ndarray
    hashes: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray
    counts: np.ndarray
    detail: np.ndarray
    aspect: np.ndarray
    problems: dict[int, str]

    @classmethod
    def empty(cls, n: int) -> Fingerprints:
        """Room for n images."""
        return cls(
            pixels=[""] * n,
            depths=[("", 0, 0)] * n,
            marks=np.zeros((n, N_MARKS), np.float32),
            hashes=np.zeros((n, N_VIEWS, HASH_BITS // 8), np.uint8),
            points=np.zeros((n, MOST, 4), np.float32),
            descriptors=np.zeros((n, MOST, LENGTH), np.uint8),
            counts=np.zeros(n, np.int64),
            detail=np.zeros((n, DETAIL, DETAIL), np.int8),
            aspect=np.ones((n, 2), np.float32),
            problems={},
        )

    def put(self, row: int, found: Fingerprint) -> None:
        """Store the fingerprint of one image."""
        self.pixels[row], self.depths[row] = found.pixels, found.depth
        self.marks[row], self.hashes[row] = found.marks, found.hashes
        self.points[row], self.descriptors[row], self.counts[row] = found.points, found.descriptors, found.n_keypoints
        self.detail[row], self.aspect[row] = found.detail, found.aspect


def fingerprint(path: str | Path, *, to_search: bool = True, **reading: Any) -> Fingerprint:
    """Decode one image and keep what its near-duplicates can be found by.

    Args:
        path: the file.
        to_search: also what pairs to compare are found by, and clues (pixels, depth, marks and hashes).
        reading: `window`, `frame` and `max_megapixels` of `read_pixels`.

    Raises:
        ReadError: it cannot be read.
    """
    image = read_display(path, 3, **reading)
    if _is_grey(image[::16, ::16]) and _is_grey(image):
        image = np.ascontiguousarray(image[..., 0])  # grey stored as colour is the same picture
    grey = image if image.ndim == 2 else with_channels(image, 1)[..., 0]
    height, width = grey.shape
    longer = max(height, width)
    small = resize_pixels(grey, DETAIL)
    scaled = max(1, round(height * SIDE / longer)), max(1, round(width * SIDE / longer))
    keypoints = find_keypoints(resize_pixels(grey, scaled))
    pixels, depth, marks, hashes = _UNSEARCHED
    if to_search:
        facts = probe(path)
        pixels, depth = _digest(image), (facts.format, facts.bits, facts.channels)
        marks, hashes = measure_marks(with_channels(image, 3)), perceptual_hashes(small)
    return Fingerprint(
        pixels=pixels,
        depth=depth,
        marks=marks,
        hashes=hashes,
        points=keypoints.points,
        descriptors=keypoints.descriptors,
        n_keypoints=keypoints.n,
        detail=fine_detail(small),
        aspect=(height / longer, width / longer),
    )


def _is_grey(image: np.ndarray) -> bool:
    return image.ndim == 3 and bool((image == image[..., :1]).all())


def _digest(image: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def take_fingerprints(
    paths: Sequence[str | Path], *, to_search: bool = True, progress: bool = True, **reading: Any
) -> Fingerprints:
    """Fingerprints of many images, decoded in threads.

    Args:
        paths: the files.
        to_search: as `fingerprint`; False is enough for `verify`.
        progress: show a progress bar when it lasts.
        reading: as `fingerprint`.

    Returns:
        Arrays in the order of `paths`; files that cannot be read are named in `problems`.
    """

    def attempt(path: str | Path) -> Fingerprint | ReadError:
        try:
            return fingerprint(path, to_search=to_search, **reading)
        except ReadError as error:
            return error

    result = Fingerprints.empty(len(paths))
    found = map_ahead(attempt, paths, threads=n_cores(16))
    for row, one in enumerate(watch(found, len(paths), "Looking for near-duplicates", progress=progress)):
        if isinstance(one, ReadError):
            result.problems[row] = one.reason
        else:
            result.put(row, one)
    return result
