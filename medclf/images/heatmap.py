"""Heat maps over images: laid over the picture, brought back to the file's own pixels, boxed; no torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medclf.config import Resize
from medclf.errors import DataError, MedclfError, argument
from medclf.images.preprocessing import Preprocessing
from medclf.images.resize import eight_bit, with_channels

_STRENGTH = 0.6  # of the hottest colour over the picture
_LEAST_PLACES = 2  # of a network's feature map, a side: one, stretched over an image, shows no place


class Box(NamedTuple):
    """A region in pixels: `left` and `top` are in it, `right` and `bottom` are the first that are not."""

    left: int
    top: int
    right: int
    bottom: int


def check_places(shape: Sequence[int]) -> None:
    """See that a map, as the network gives it, has enough places to show where it looked.

    Args:
        shape: (..., h, w) of the map.

    Raises:
        MedclfError: it has fewer than 2 x 2.

    Example:
        >>> check_places((1, 1))
        Traceback (most recent call last):
        ...
        medclf.errors.MedclfError: the feature map has 1 x 1 places: too coarse to show where
        use method="occlusion", or train on larger images
    """
    height, width = shape[-2:]
    if min(height, width) < _LEAST_PLACES:
        text = f"the feature map has {height} x {width} places: too coarse to show where"
        raise MedclfError(text, f"use {argument('method', 'occlusion')}, or train on larger images")


def at_size(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map at another size, bilinear.

    Args:
        heat: (h, w) in [0, 1].
        size: height and width.

    Returns:
        (height, width) float32 in [0, 1].

    Example:
        >>> at_size(np.array([[0.0, 1.0]]), (1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    from PIL import Image

    image = Image.fromarray(np.asarray(heat, np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).clip(0, 1)


def on_original(
    heat: np.ndarray,
    shape: tuple[int, ...],
    resize: Preprocessing | Resize = "squish",
    out: tuple[int, int] | None = None,
) -> np.ndarray:
    """A map of the prepared pixels, over the image that they were made of.

    Args:
        heat: (height, width) of the prepared pixels, in [0, 1].
        shape: height and width of the image.
        resize: how the image was prepared; what a crop left out gets 0.
        out: height and width of the result; those of the image where None.

    Returns:
        float32 of `out` in [0, 1].

    Example:
        >>> on_original(np.ones((2, 2)), (2, 4), "crop").tolist()
        [[0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    """
    how = Preprocessing((heat.shape[0], heat.shape[1]), resize) if isinstance(resize, str) else resize
    part, place = how.placement(shape[:2])
    found = np.zeros(out or shape[:2], np.float32)
    target = tuple(_scaled(span, n, side) for span, n, side in zip(part, shape, found.shape, strict=False))
    shown, size = heat[place], found[target].shape
    if shown.size and min(size):
        found[target] = at_size(shown, (size[0], size[1]))
    return found


def _scaled(span: slice, n: int, side: int) -> slice:
    return span if n == side else slice(round(span.start * side / n), round(span.stop * side / n))


def on_prepared(heat: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A map of the network's input, of any size, over the prepared pixels that it was made of.

    Args:
        heat: (h, w) in [0, 1], over the whole input.
        preprocessing: what prepared the pixels; what its sampling left out gets 0.

    Returns:
        float32 of `preprocessing.size` in [0, 1].

    Example:
        >>> on_prepared(np.ones((1, 1)), Preprocessing(2)).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    if preprocessing.sampling is None:
        return at_size(heat, preprocessing.size)
    rows, columns = preprocessing.sampling.part(preprocessing.size)
    found = np.zeros(preprocessing.size, np.float32)
    found[rows, columns] = at_size(heat, (rows.stop - rows.start, columns.stop - columns.start))
    return found


def hottest_box(heat: np.ndarray, share: float = 0.5) -> Box | None:
    """The box around the hottest region: the pixels at least `share` as hot as the hottest, joined to it.

    Args:
        heat: (H, W), not negative.
        share: in (0, 1]; the smaller, the larger the box.

    Returns:
        The box; None where the map is zero everywhere.

    Raises:
        DataError: `share` is not in (0, 1].

    Example:
        >>> heat = np.zeros((4, 6))
        >>> heat[1:3, 2] = 0.8, 1.0
        >>> heat[3, 5] = 0.9                       # as hot, and elsewhere
        >>> hottest_box(heat)
        Box(left=2, top=1, right=3, bottom=3)
    """
    if not 0 < share <= 1:
        raise DataError(f"share={share:g} is not above 0 and at most 1", "0.5 is half as hot as the hottest pixel")
    if not heat.max() > 0:
        return None
    from scipy import ndimage

    regions, _ = ndimage.label(heat >= share * heat.max(), np.ones((3, 3)))
    rows, columns = ndimage.find_objects(regions)[regions.flat[heat.argmax()] - 1]
    return Box(columns.start, rows.start, columns.stop, rows.stop)


def coloured(heat: np.ndarray) -> np.ndarray:
    """A map in [0, 1] as RGBA to lie over a picture: clear through blue to cyan, which neither tissue nor film has.

    Example:
        >>> coloured(np.array([[0.0, 1.0]])).tolist()
        [[[0, 60, 255, 0], [0, 255, 215, 200]]]
    """
    rgba = np.zeros((*heat.shape, 4), np.uint8)
    rgba[..., 1] = np.round(60 + 195 * heat)
    rgba[..., 2] = np.round(255 - 40 * heat)
    rgba[..., 3] = np.round(200 * heat)
    return rgba


def overlay(image: np.ndarray, heat: np.ndarray, *, box: Box | None = None) -> np.ndarray:
    """An image with a map over it, as one picture.

    Args:
        image: (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16.
        heat: in [0, 1], of any size: it is stretched over the whole image.
        box: drawn as a thin frame, in the image's pixels.

    Returns:
        uint8 of (H, W, 3).

    Raises:
        DataError: the image has other values.

    Example:
        >>> overlay(np.zeros((1, 2), np.uint8), np.array([[0.0, 1.0]])).tolist()
        [[[0, 0, 0], [0, 153, 129]]]
    """
    if image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"the image is of {image.dtype}", "give uint8 or uint16, such as read_image gives")
    grey = eight_bit(image)
    picture = with_channels(grey, 3).astype(np.float32)
    colours = coloured(at_size(heat, picture.shape[:2])).astype(np.float32)
    share = colours[..., 3:] / 200 * _STRENGTH
    mixed = np.round((1 - share) * picture + share * colours[..., :3]).astype(np.uint8)
    return mixed if box is None else framed(mixed, [box])


def framed(picture: np.ndarray, boxes: Sequence[Box], colour: str = "white") -> np.ndarray:
    """A picture (H, W, 3) of uint8 with thin frames around boxes in its pixels.

    Example:
        >>> framed(np.zeros((3, 3, 3), np.uint8), [Box(0, 0, 3, 3)])[..., 0].tolist()
        [[255, 255, 255], [255, 0, 255], [255, 255, 255]]
    """
    from PIL import Image, ImageDraw

    drawn = Image.fromarray(picture)
    width = max(1, round(min(picture.shape[:2]) / 150))
    for box in boxes:
        right, bottom = max(box.right - 1, box.left), max(box.bottom - 1, box.top)
        ImageDraw.Draw(drawn).rectangle((box.left, box.top, right, bottom), None, colour, width)
    return np.asarray(drawn)


def png_uri(picture: np.ndarray) -> str:
    """A picture (H, W), (H, W, 1), (H, W, 3) or RGBA as the data: URI of a PNG."""
    from PIL import Image

    file = io.BytesIO()
    plain = picture[..., 0] if picture.shape[2:] == (1,) else picture
    Image.fromarray(plain).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
