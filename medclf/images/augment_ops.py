"""The same augmentation on the bytes of the store, for processors: one homography and one table of colours an image.

OpenCV samples 8-bit pixels several times as fast as torch does floating ones. The result has 8 bits again, so it equals
that of `medclf.learn.augment` within rounding. Without OpenCV torch does it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cache

import numpy as np

_EPS = 1e-7  # fastai's, of the logit
_BORDERS = {"reflection": "BORDER_REFLECT_101", "border": "BORDER_REPLICATE", "zeros": "BORDER_CONSTANT"}


@cache
def is_available() -> bool:
    """Whether OpenCV is installed (`pip install "medclf[fast]"`)."""
    return importlib.util.find_spec("cv2") is not None


def augment_bytes(
    images: np.ndarray,
    matrices: np.ndarray,
    size: Sequence[int] | None,
    pad_mode: str = "reflection",
    offset: np.ndarray | None = None,
    factor: np.ndarray | None = None,
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """Resample and light a batch.

    Args:
        images: (n, height, width, channels) uint8.
        matrices: (n, 3, 3) homographies from the result's coordinates to the source's, both in [-1, 1].
        size: (height, width) of the result; the images' own where None.
        pad_mode: "reflection", "border" or "zeros".
        offset, factor: (n,) brightness and contrast on the logits of the pixels; None leaves the light as it is.
        colours: (n, 3, 3) colour matrices on the logits, or None.

    Returns:
        (n, *size, channels) uint8.
    """
    import cv2

    height, width = size or images.shape[1:3]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = getattr(cv2, _BORDERS[pad_mode])
    in_pixels = to_pixels(images.shape[1:3]) @ matrices.astype(np.float64) @ np.linalg.inv(to_pixels((height, width)))
    result = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    in_colour = colours is not None and images.shape[3] == 3
    tables = None
    if offset is not None and factor is not None:
        tables = _logits(offset, factor) if in_colour else _light(offset, factor)

    for i in range(len(images)):  # OpenCV's own threads share each image
        moved = cv2.warpPerspective(images[i], in_pixels[i], (width, height), flags=flags, borderMode=border)
        moved = moved.reshape(result.shape[1:])
        if tables is None:
            result[i] = moved
        elif in_colour and colours is not None:
            logits = cv2.transform(cv2.LUT(moved, tables[i]), colours[i])
            cv2.exp(-logits, logits)
            np.divide(255, logits + 1, out=logits)
            result[i] = np.rint(logits, out=logits)
        else:
            cv2.LUT(moved, tables[i], dst=result[i])
    return result


def to_pixels(shape: Sequence[int]) -> np.ndarray:
    """The matrix from coordinates in [-1, 1], whose ends are the centres of the outer pixels, to pixels.

    Example:
        >>> (to_pixels((3, 5)) @ [-1, 1, 1]).tolist()
        [0.0, 2.0, 1.0]
    """
    y, x = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    return np.array([[x, 0, x], [0, y, y], [0, 0, 1]])


def _logits(offset: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(n, 256) float32: for each image, the logit of each byte after brightness and contrast."""
    share = (np.arange(256) / 255).clip(_EPS, 1 - _EPS)
    return np.asarray(((np.log(share / (1 - share)) + offset[:, None]) * factor[:, None]).astype(np.float32))


def _light(offset: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """(n, 256) uint8: for each image, each byte after brightness and contrast."""
    return np.rint(255 / (1 + np.exp(-_logits(offset, factor).astype(np.float64)))).astype(np.uint8)
