"""PIXELS -> the size, bits and channels that are asked for, the same wherever an image is prepared."""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from medclf.config import Resize
from medclf.errors import MedclfError, argument
from medclf.images.resample import resample


def resize_pixels(array: np.ndarray, size: int | tuple[int, int], resize: Resize = "squish") -> np.ndarray:
    """Resize with an antialiasing triangle filter, the same as Pillow's BILINEAR.

    Args:
        array: (H, W) or (H, W, C), uint8 or uint16.
        size: one number for a square, or (height, width).
        resize: "squish", "crop" or "pad", as prepare.

    Returns:
        The same dtype and number of dimensions.

    Example:
        >>> resize_pixels(np.array([[0, 0, 90, 90]], np.uint8), (1, 2))
        array([[13, 77]], dtype=uint8)
    """
    height, width = (size, size) if isinstance(size, int) else size
    part, place = placement(array.shape[:2], (height, width), resize)
    shown = _squish(array[part], place[0].stop - place[0].start, place[1].stop - place[1].start)
    if shown.shape[:2] == (height, width):
        return shown
    padded = np.zeros((height, width, *array.shape[2:]), array.dtype)
    padded[place] = shown
    return padded


def placement(
    shape: tuple[int, ...], size: tuple[int, int], resize: Resize = "squish"
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Which part of an image a resize shows, and where that lies in the result.

    Args:
        shape: height and width of the image.
        size: height and width of the result.
        resize: "squish", "crop" or "pad", as prepare.

    Returns:
        (rows, columns) of the image, and (rows, columns) of the result.

    Raises:
        MedclfError: `resize` is none of those.

    Example:
        >>> placement((30, 40), (20, 20), "crop")
        ((slice(0, 30, None), slice(5, 35, None)), (slice(0, 20, None), slice(0, 20, None)))
    """
    (rows, columns), (height, width) = shape, size
    part, place = (rows, columns), (height, width)
    if resize == "crop":
        scale = min(rows / height, columns / width)
        part = max(1, round(height * scale)), max(1, round(width * scale))
    elif resize == "pad":
        scale = max(rows / height, columns / width)
        place = max(1, min(height, round(rows / scale))), max(1, min(width, round(columns / scale)))
    elif resize != "squish":
        raise MedclfError(f"{argument('resize')} must be squish, crop or pad, not {resize!r}")
    return _middle(part, shape), _middle(place, size)


def _middle(box: tuple[int, int], shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, left = (shape[0] - box[0]) // 2, (shape[1] - box[1]) // 2
    return slice(top, top + box[0]), slice(left, left + box[1])


def _squish(array: np.ndarray, height: int, width: int) -> np.ndarray:
    if array.shape[:2] == (height, width):
        return np.ascontiguousarray(array)
    if array.dtype == np.uint8 and "torch" not in sys.modules:  # the same to the bit; its import takes a second
        return resample(array, height, width)
    import torch
    from torch.nn import functional

    planes = array if array.ndim == 3 else array[..., None]
    deep = array.dtype != np.uint8
    writable = np.require(planes, np.float32 if deep else np.uint8, ["C", "W"])  # torch takes no others
    source = torch.from_numpy(writable).permute(2, 0, 1)[None]
    resized = functional.interpolate(source, (height, width), mode="bilinear", antialias=True)
    result = resized[0].permute(1, 2, 0).contiguous().numpy()
    if deep:
        result = np.floor(result + 0.5).clip(0, 65535).astype(array.dtype)
    return result if array.ndim == 3 else result[..., 0]


def eight_bit(array: np.ndarray) -> np.ndarray:
    """uint16 scaled to uint8, rounded; uint8 as it is.

    Example:
        >>> eight_bit(np.array([0, 128, 129, 65535], np.uint16))
        array([  0,   0,   1, 255], dtype=uint8)
    """
    if array.dtype == np.uint8:
        return array
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def with_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8 as (H, W, channels); RGB becomes grey as in ITU-R 601, as Pillow's does.

    Raises:
        MedclfError: `channels` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise MedclfError(f"channels={channels!r}", "choose 1 or 3")
    if array.ndim == 2:
        array = array[..., None]
    if array.shape[2] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=2)
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).convert("L"))[..., None]
