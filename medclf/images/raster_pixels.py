"""An image file that is open, as pixels: deep grey and colour, alpha, white as zero, windows."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from medclf.config import Window
from medclf.errors import MedclfWarning, ReadError, UnsupportedFormat
from medclf.images.decoding_guard import reading
from medclf.images.raster_layout import JPEG_END, JpegHeader, check_scans
from medclf.images.windowing import STRETCH, SampleWindow, is_hounsfield, resolve_window, voi_window

_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _PLANAR, _COLOUR_MAP = 258, 259, 262, 277, 284, 320
_FAX = (2, 3, 4)  # compressions whose black is one, where a file does not say
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


class TiffPage(TiffImageFile):
    """One page of a TIFF, grey with black as zero: Pillow knows few layouts that count white as zero.

    With one sample a pixel the planar configuration means nothing (TIFF 6.0, tag 284), but Pillow goes by it.
    """

    def __init__(self, file: BinaryIO, number: int = 0) -> None:
        self.wanted, self.white_is_zero = number, False
        super().__init__(file)
        if number:
            self.seek(number)

    def _setup(self) -> None:
        if self.tell() != self.wanted:  # a page that may be of a kind that Pillow does not know
            self._mode, self._size, self.tile = "L", (1, 1), []
            return
        if _PHOTOMETRIC not in self.tag_v2 and self.tag_v2.get(_COMPRESSION) not in _FAX:
            self.tag_v2[_PHOTOMETRIC] = 1  # as libtiff takes it; the tag is required
        self.white_is_zero = self.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        if self.white_is_zero:
            self.tag_v2[_PHOTOMETRIC] = 1
        if self.tag_v2.get(_SAMPLES_PER_PIXEL, 1) == 1:
            self.tag_v2[_PLANAR] = 1
        colours = self.tag_v2.get(_COLOUR_MAP, ())
        if colours and max(colours) < 256:  # of 8 bits, against the specification
            self.tag_v2[_COLOUR_MAP] = tuple(colour * 257 for colour in colours)
        super()._setup()


class Opened(NamedTuple):
    """An image whose header has been checked, not decoded yet; `reopen` gives another like it.

    `rawmode` says in Pillow's words how the samples lie in the file, which Pillow forgets once it decoded.
    """

    image: ImageFile
    pages: int
    rawmode: str
    reopen: Callable[[], ImageFile]


def bits_of(image: ImageFile, rawmode: str) -> int:
    """Of a sample in the file."""
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    return 16 if "16" in rawmode else 8


def channels_of(image: ImageFile, rawmode: str) -> int:
    """1 or 3, alpha left out."""
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;16") or rawmode in ("LA", "LA;16B") else 3


def decoded(opened: Opened, path: str | Path, window: SampleWindow) -> np.ndarray:
    """(H, W) or (H, W, 3), uint8 or uint16, as it lies in the file: not turned.

    Raises:
        UnsupportedFormat: values without a range, or samples that lie as no decoder knows.
    """
    image, bits = opened.image, bits_of(opened.image, opened.rawmode)
    white_is_zero = isinstance(image, TiffPage) and image.white_is_zero
    if image.mode in ("I", "F") and not isinstance(image, PngImageFile):
        raise UnsupportedFormat(path, "its values have no range that says what is black and what is white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = _deep_grey(image, bits, window)
    elif bits > 8:
        return _deep_colour(opened, path)
    else:
        return stretched(_shallow(opened, white_is_zero), window)
    return ~grey if white_is_zero else grey


def check_whole(data: bytes, header: JpegHeader, pixels: np.ndarray, path: str | Path) -> None:
    """Refuse a JPEG without its last scans, and a sequential one whose coded pixels end early.

    Decoders fill the rest in the grey of the last block.

    Codes behind the last ones change the picture only where pixels are missing.

    Args:
        data: the JPEG.
        header: its own.
        pixels: as they were decoded; looked at again where the last ones are of one grey, but black or white.
        path: for messages.

    Raises:
        ReadError: they end early.
    """
    check_scans(data, header, path)
    end = data.find(JPEG_END, header.scan)
    last = pixels[-8:, -8:].reshape(-1, *pixels.shape[2:])
    if header.process > 0xC1 or end < 0 or (last != last[0]).any() or set(last[0].ravel().tolist()) <= {0, 255}:
        return
    further = data[:end] + b"\x55" * 4096 + data[end:]
    with reading(path, "the JPEG pixels cannot be decoded"):
        one, other = (np.asarray(JpegImageFile(io.BytesIO(whole))) for whole in (data, further))
    if not np.array_equal(one, other):
        raise ReadError(path, "truncated: its coded pixels end before its last row")


def _shallow(opened: Opened, white_is_zero: bool) -> np.ndarray:
    image = opened.image
    grey = image.mode in _GREY_MODES
    if "transparency" in image.info and opened.rawmode in ("L;2", "L;4"):  # the key has the file's own bits
        image.load()
        image.info["transparency"] *= 85 if opened.rawmode == "L;2" else 17
    return _on_black(_inverted(image) if white_is_zero and grey else image)


def _on_black(image: Image.Image) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB of an image of 8 bits, black where it is transparent."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.mode == "La":  # of grey, premultiplied alpha lies on black already
        return np.asarray(image.getchannel(0))
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    return np.asarray(image.convert(mode))


def pixels_of(image: Image.Image, window: Window = None) -> np.ndarray:
    """The pixels of a PIL image, as they would be read from its file.

    Args:
        image: upright, or turned as its EXIF says.
        window: as `read_raster`; a named one for CT is for none but 8-bit images, which it leaves as they are.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 where the image holds whole numbers of more than 8 bits.

    Raises:
        UnsupportedFormat: its values have no range: floating point, or whole numbers beyond 16 bits.
        ReadError: a window in Hounsfield units for more than 8 bits.

    Warns:
        MedclfWarning: see `warn_of_dark`.

    Example:
        >>> pixels_of(Image.new("LA", (2, 1), (200, 0))).tolist()  # hidden by its alpha
        [[0, 0]]
    """
    try:
        image.load()
    except (OSError, ValueError, AssertionError) as error:  # Pillow's own asserts, of a file that was closed
        reason = f"cannot be loaded: {str(error) or 'its file is closed'}"
        raise ReadError(
            "the given image", reason, "give its path, or call image.load() while its file is open"
        ) from error
    _check_levels(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode != "I" and not upright.mode.startswith("I;16"):
        return stretched(_on_black(upright), window)
    if is_hounsfield(window):
        raise ReadError("the given image", "holds no Hounsfield units, which its window is in", "give a CT DICOM file")
    samples = np.asarray(upright).astype(np.uint16)
    if window is None:
        warn_of_dark(samples, "the given image")
        return samples
    return _spread(samples, resolve_window(window))


def warn_of_dark(samples: np.ndarray, what: str) -> None:
    """Warn of 16-bit samples in the lowest quarter of their range: most often they are stored values of fewer bits.

    Args:
        samples: as they were given; of another type than uint16 nothing is said.
        what: how the warning calls them.

    Warns:
        MedclfWarning: they are read as nearly black.
    """
    if samples.dtype != np.uint16 or not samples.size or not samples.min() < samples.max() < 2**14:
        return
    text = (
        f"{what} holds 16-bit values of {samples.min()} to {samples.max()}, where white is 65535: it is read as nearly "
        "black. Give the file itself, or scale the values to 0 to 65535"
    )
    warnings.warn(MedclfWarning(text), stacklevel=4)


def _check_levels(image: Image.Image) -> None:
    ends: Any = image.getextrema() if image.mode == "I" else (0, 0)
    low, high = ends
    if image.mode == "F" or low < 0 or high > 65535:
        values = "floating-point values" if image.mode == "F" else f"values of {low} to {high}"
        reason = f"its {values} have no range that says what is black and what is white"
        raise UnsupportedFormat("the given image", reason, 'scale them to 0 to 255, and convert it to mode "L"')


def _inverted(image: Image.Image) -> Image.Image:
    grey = ImageOps.invert(image.getchannel(0).convert("L"))
    return Image.merge("LA", (grey, image.getchannel("A"))) if image.mode == "LA" else grey


def _deep_grey(image: ImageFile, bits: int, window: SampleWindow) -> np.ndarray:
    samples = np.asarray(image).astype(np.uint16)
    pixels = rescaled(samples, bits) if window is None else _spread(samples, window)
    if "transparency" in image.info:
        pixels[samples == image.info["transparency"]] = 0
    return pixels


def stretched(pixels: np.ndarray, window: Window) -> np.ndarray:
    """Pixels of 8 bits, which no other window than "stretch" changes, and that no colours."""
    return _spread(pixels, STRETCH) if pixels.ndim == 2 and window == STRETCH else pixels


def _spread(samples: np.ndarray, window: SampleWindow) -> np.ndarray:
    """Samples through a window, or from the smallest to the largest where it is "stretch"; same dtype."""
    peak = np.iinfo(samples.dtype).max
    if isinstance(window, tuple):
        center, width = window
    else:
        low, high = int(samples.min()), int(samples.max())
        center, width = (low + high + 1) / 2, high - low + 1
    return np.floor(voi_window(samples, center, width) * peak + 0.5).astype(samples.dtype)


def _deep_colour(opened: Opened, path: str | Path) -> np.ndarray:
    """16-bit colour or alpha, of which Pillow keeps 8 bits: decoded once for each byte of a sample."""
    image = opened.image
    layout, _, order = opened.rawmode.partition(";16")
    planar = isinstance(image, TiffImageFile) and image.tag_v2.get(_PLANAR, 1) == _SEPARATE
    if planar or layout not in ("LA", "RGB", "RGBA", "RGBa", "RGBX"):
        raise UnsupportedFormat(
            path,
            "16-bit CMYK, or 16-bit colour in separate planes",
            "save it as 16-bit RGB with interleaved samples",
        )
    if layout == "LA":  # 4 bytes a pixel, big-endian
        grey, grey_low, alpha, alpha_low = np.moveaxis(_raw_bytes(opened.reopen(), "RGBA", "RGBA"), 2, 0)
        samples = np.stack((_joined(grey, grey_low), _joined(alpha, alpha_low)), axis=2)
    else:
        raw = layout.upper()
        first, second = (_raw_bytes(opened.reopen(), image.mode, f"{raw};16{end}") for end in "BL")
        big = order == "B" or (order == "N" and sys.byteorder == "big")
        samples = _joined(first, second) if big else _joined(second, first)
    if layout == "RGB" and "transparency" in image.info:
        samples[(samples == image.info["transparency"]).all(axis=2)] = 0
    return _opaque(samples, premultiplied=layout == "RGBa")


def _raw_bytes(image: ImageFile, mode: str, rawmode: str) -> np.ndarray:
    """Decode with another idea of how the samples lie in the file."""
    image._mode = mode
    tiles: list[Any] = []
    for tile in image.tile:
        args = (rawmode, *tile[3][1:]) if isinstance(tile[3], tuple) else rawmode
        tiles.append(tile._replace(args=args) if hasattr(tile, "_replace") else (*tile[:3], args))
    image.tile = tiles
    return np.asarray(image)


def _joined(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return np.asarray(high.astype(np.uint16) << 8 | low)


def _opaque(samples: np.ndarray, premultiplied: bool) -> np.ndarray:
    """Samples of 16 bits laid on black, where their last channel is alpha; (H, W) where one is left."""
    if samples.shape[2] == 3:
        return samples
    colours, alpha = samples[..., :-1], samples[..., -1:]
    if not premultiplied:
        colours = ((colours.astype(np.uint32) * alpha + 32767) // 65535).astype(np.uint16)
    return colours if colours.shape[2] == 3 else colours[..., 0]


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
    wide: np.ndarray = pixels.astype(np.uint32 if bits <= 16 else np.uint64)
    return ((wide * peak + top // 2) // top).astype(kind)
