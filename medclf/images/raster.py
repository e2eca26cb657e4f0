"""PNG, JPEG and TIFF to pixels: every bit depth kept, orientation applied, nothing else opened."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images.guard import MAX_MEGAPIXELS, check_size, quietly, reading

# Pillow's plugin of a format is called by itself: Image.open would try others, some of which start programs.
_PLUGINS: dict[str, Callable[[BinaryIO], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "TIFF": TiffImageFile,
}
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
_MAX_PAGES = 10_000
_MAX_SCANS = 200


class RasterInfo(NamedTuple):
    """What a raster file's header says."""

    width: int
    height: int
    bits: int
    channels: int
    n_frames: int


def raster_format(head: bytes) -> str | None:
    """PNG, JPEG or TIFF by the first bytes of a file, else None.

    Example:
        >>> raster_format(b"\\xff\\xd8\\xff\\xe0"), raster_format(b"GIF89a")
        ('JPEG', None)
    """
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    return None


def raster_info(
    file: BinaryIO, path: str | Path, kind: str, max_megapixels: float = MAX_MEGAPIXELS
) -> RasterInfo:
    """Size, bits and channels from the header, without decoding.

    Raises:
        ReadError: the header cannot be read; TooLarge where it declares more than the limit.
    """
    image = _open(file, path, kind, max_megapixels)
    with reading(path, f"the {kind} header cannot be read"), quietly():
        pages = _count_pages(image, path)
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) > 4:
            width, height = height, width
        return RasterInfo(width, height, _bits(image), _channels(image), pages)


def read_raster(
    file: BinaryIO,
    path: str | Path,
    kind: str,
    page: Callable[[int], int],
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """Decode a PNG, JPEG or TIFF.

    Args:
        file: open for reading, at its start.
        path: for messages.
        kind: PNG, JPEG or TIFF.
        page: the page to read, as a function of how many there are; other pages are not decoded.
        max_megapixels: width x height x channels allowed, in millions.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 (0..65535) where a sample has more than 8 bits; EXIF
        orientation applied; what is transparent lies on black.

    Raises:
        ReadError: broken, or pixels without a range (floating point, 32 bits, signed).
    """
    image = _open(file, path, kind, max_megapixels)
    if kind == "TIFF":
        with reading(path, "the TIFF pages cannot be read"), quietly():
            image.seek(page(_count_pages(image, path)))
    else:
        page(1)
    with reading(path, f"the {kind} pixels cannot be decoded"):
        return _pixels(image, path)


def _open(file: BinaryIO, path: str | Path, kind: str, max_megapixels: float) -> ImageFile:
    if kind == "JPEG":
        _check_scans(file, path)
    with reading(path, f"the {kind} header cannot be read"), quietly():
        image = _PLUGINS[kind](file)
    check_size(path, (image.height, image.width, _channels(image)), max_megapixels)
    pillow_limit = Image.MAX_IMAGE_PIXELS
    if max_megapixels <= MAX_MEGAPIXELS and pillow_limit and image.width * image.height > pillow_limit:
        raise TooLarge(
            path,
            f"declares {image.height} x {image.width} pixels; Pillow takes {pillow_limit} for safe",
            f"if the file is what it says, give max_megapixels= above {MAX_MEGAPIXELS:g}",
        )
    return image


def _check_scans(file: BinaryIO, path: str | Path) -> None:
    """A progressive JPEG of thousands of scans takes minutes; real ones have about ten."""
    scans = file.read().count(b"\xff\xda")
    file.seek(0)
    if scans > _MAX_SCANS:
        raise TooLarge(path, f"a JPEG of {scans} scans, the limit is {_MAX_SCANS}")


def _count_pages(image: ImageFile, path: str | Path) -> int:
    """Pages of a TIFF that have the first one's size; smaller ones are thumbnails or a pyramid's levels."""
    if not isinstance(image, TiffImageFile):
        return 1
    size = image.size
    for number in range(1, _MAX_PAGES + 1):
        try:
            image.seek(number)
        except EOFError:
            break
        if image.size != size:
            break
    else:
        raise TooLarge(path, f"a TIFF of more than {_MAX_PAGES} pages")
    image.seek(0)
    return number


def _bits(image: ImageFile) -> int:
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    if isinstance(image, PngImageFile) and image.tile:
        return 16 if "16" in str(image.tile[0][3]) else 8
    return 8


def _channels(image: ImageFile) -> int:
    return 1 if image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I") else 3


def _pixels(image: ImageFile, path: str | Path) -> np.ndarray:
    rawmode = _rawmode(image)
    if image.mode in ("I", "F"):
        raise UnsupportedFormat(
            path,
            f"its {'floating-point' if image.mode == 'F' else 'signed or 32-bit'} values have "
            "no range that says what is black and what is white",
            "scale them and save them as 16-bit PNG or TIFF",
        )
    if rawmode.startswith(("RGB", "LA", "CMYK")) and ";16" in rawmode:
        return _deep_colour(image, path)
    if image.mode.startswith("I;16"):
        return _deep_grey(image)
    return _shallow(image)


def _rawmode(image: ImageFile) -> str:
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _shallow(image: ImageFile) -> np.ndarray:
    upright = ImageOps.exif_transpose(image)
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        upright = _on_black(upright)
    if upright.mode not in ("L", "RGB"):
        upright = upright.convert("L" if upright.mode == "1" else "RGB")
    return np.asarray(upright)


def _on_black(image: Image.Image) -> Image.Image:
    grey = image.mode in ("L", "LA", "La", "1")
    image = image.convert("RGBA")
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, image).convert("L" if grey else "RGB")


def _deep_grey(image: ImageFile) -> np.ndarray:
    bits = _bits(image)
    white_is_zero = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    orientation = image.getexif().get(_ORIENTATION, 1)
    pixels = np.asarray(image).astype(np.uint16)
    if bits < 16:
        pixels = rescaled(pixels, bits)
    return oriented(~pixels if white_is_zero else pixels, orientation)


def _deep_colour(image: ImageFile, path: str | Path) -> np.ndarray:
    raise UnsupportedFormat(path, "16-bit colour")


def oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels as EXIF orientation 1 to 8 says (TIFF 6.0, tag 274).

    Example:
        >>> oriented(np.array([[1, 2], [3, 4]]), 6)
        array([[3, 1],
               [4, 2]])
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(pixels, flips) if flips else pixels)


def rescaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """Values of `bits` bits to the full range of uint8 (8 or fewer) or uint16, rounded.

    Example:
        >>> rescaled(np.array([0, 2048, 4095]), 12)
        array([    0, 32776, 65535], dtype=uint16)
    """
    top = (1 << bits) - 1
    peak, kind = (65535, np.uint16) if bits > 8 else (255, np.uint8)
    if top == peak:
        return pixels.astype(kind, copy=False)
    return ((pixels.astype(np.uint32) * peak + top // 2) // top).astype(kind)


def from_bytes(data: bytes) -> BinaryIO:
    """A file of bytes that are in memory already."""
    return io.BytesIO(data)


__all__ = ["RasterInfo", "ReadError", "oriented", "raster_format", "raster_info", "read_raster", "rescaled"]
