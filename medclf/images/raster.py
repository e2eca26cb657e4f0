"""PNG, JPEG, TIFF, BMP and WebP to pixels: every bit depth kept, orientation applied, nothing else opened."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from medclf.config import Window
from medclf.errors import ReadError, TooLarge, UnsupportedFormat, by_road
from medclf.images import raster_layout
from medclf.images.bmp import bmp_header, is_bmp, read_bmp
from medclf.images.decoding_guard import MAX_MEGAPIXELS, check_size, quietly, reading
from medclf.images.raster_layout import JpegHeader
from medclf.images.windowing import STRETCH, SampleWindow, is_hounsfield, resolve_window, voi_window

_ORIENTATION, _BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _PLANAR = 274, 258, 262, 277, 284
_WIDTH, _HEIGHT, _COLOUR_MAP = 256, 257, 320
_WHITE_IS_ZERO, _SEPARATE, _RGB, _CMYK = 0, 2, 2, 5
_HUFFMAN_SEQUENTIAL_OR_PROGRESSIVE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # the last two with arithmetic coding
_AS_PNG = "save it as PNG or TIFF"
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


class _Tiff(TiffImageFile):
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
        self.white_is_zero = self.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        if self.white_is_zero:
            self.tag_v2[_PHOTOMETRIC] = 1
        if self.tag_v2.get(_SAMPLES_PER_PIXEL, 1) == 1:
            self.tag_v2[_PLANAR] = 1
        colours = self.tag_v2.get(_COLOUR_MAP, ())
        if colours and max(colours) < 256:  # of 8 bits, against the specification
            self.tag_v2[_COLOUR_MAP] = tuple(colour * 257 for colour in colours)
        super()._setup()


class RasterInfo(NamedTuple):
    """What a file's header says about its image, upright; and whether it is stored turned or mirrored (EXIF)."""

    width: int
    height: int
    bits: int
    channels: int
    n_frames: int
    turned: bool = False


class _Opened(NamedTuple):
    """An image whose header has been checked, not decoded yet; `reopen` gives another like it.

    `rawmode` says in Pillow's words how the samples lie in the file, which Pillow forgets once it decoded.
    """

    image: ImageFile
    pages: int
    rawmode: str
    reopen: Callable[[], ImageFile]


def raster_format(head: bytes) -> str | None:
    """PNG, JPEG, TIFF, BMP or WebP by the first bytes of a file, else None.

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
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return "BMP" if is_bmp(head) else None


def raster_info(file: BinaryIO, path: str | Path, kind: str, max_megapixels: float = MAX_MEGAPIXELS) -> RasterInfo:
    """Size, bits and channels from the header, without decoding.

    Raises:
        ReadError: the header cannot be read; TooLarge where it declares more than the limit.
    """
    if kind == "BMP":
        header = bmp_header(file, path, max_megapixels)
        return RasterInfo(header.width, header.height, 8, header.channels, 1)
    if kind == "JPEG":
        _jpeg_header(file, path, max_megapixels)
    image, pages, rawmode, _ = _open(file, path, kind, None, max_megapixels)
    width, height = image.size
    with reading(path, "its EXIF cannot be read"), quietly():
        orientation = _orientation(image, path)
        if isinstance(image, TiffImageFile):  # whose size is turned already, or not, as Pillow's version is
            width, height = (int(image.tag_v2[tag]) for tag in (_WIDTH, _HEIGHT))
            orientation = image.tag_v2.get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    turned = orientation in range(2, 9)
    return RasterInfo(width, height, _bits(image, rawmode), _channels(image, rawmode), pages, turned)


def read_raster(
    file: BinaryIO,
    path: str | Path,
    kind: str,
    page: Callable[[int], int],
    max_megapixels: float = MAX_MEGAPIXELS,
    window: SampleWindow = None,
) -> np.ndarray:
    """Decode a PNG, JPEG, TIFF, BMP or WebP.

    JPEG goes through torchvision where that is loaded already (its pixels are those of Pillow's decoder,
    in half the time) and the file is a plain one; all others go through Pillow.

    Args:
        file: open for reading, at its start.
        path: for messages.
        kind: PNG, JPEG, TIFF, BMP or WebP.
        page: the page to read, as a function of how many there are; other pages are not decoded.
        max_megapixels: width x height x channels allowed, in millions.
        window: for grey of more than 8 bits: (center, width) in the file's own values; for any grey: "stretch",
            which spreads the smallest to the largest value; None spreads the range of the file's bits.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 (0..65535) where a sample has more than 8 bits; EXIF
        orientation applied; what is transparent lies on black.

    Raises:
        ReadError: broken, or pixels without a range (floating point, 32 bits, signed).
    """
    if kind == "BMP":
        page(1)
        return _stretched(read_bmp(file, path, max_megapixels), window)
    if kind == "JPEG":
        page(1)
        data, header = _jpeg_header(file, path, max_megapixels)
        pixels = _fast_jpeg(data, header)
        if pixels is not None:
            return _stretched(pixels, window)
        file = io.BytesIO(data)
    opened = _open(file, path, kind, page, max_megapixels)
    with reading(path, f"the {kind} pixels cannot be decoded"):
        pixels = _pixels(opened, path, window)
        opened.image.load()  # a PNG's EXIF can stand behind its pixels
    with reading(path, "its EXIF cannot be read"), quietly():
        return oriented(pixels, _orientation(opened.image, path))


def _jpeg_header(file: BinaryIO, path: str | Path, max_megapixels: float) -> tuple[bytes, JpegHeader]:
    with reading(path, "the JPEG header cannot be read"):
        limit = int(max_megapixels * 1e6)
        data = file.read(limit + 1)
        file.seek(0)
        if len(data) > limit:
            raise TooLarge(path, f"a JPEG of more than {limit >> 20} MB")
        header = raster_layout.jpeg_header(data, path)
    if header.process in _LOSSLESS or header.process == 0xF7:
        kind = "JPEG-LS" if header.process == 0xF7 else "lossless JPEG"
        raise UnsupportedFormat(path, f"{kind}, which is read within DICOM files only", _AS_PNG)
    if header.bits != 8 or header.process not in _HUFFMAN_SEQUENTIAL_OR_PROGRESSIVE:
        said = f"{header.bits} bits a sample" if header.bits != 8 else "a hierarchical process"
        raise UnsupportedFormat(path, f"a JPEG of {said}, where 8 bits, sequential or progressive, are read", _AS_PNG)
    _check_shape(path, header.rows, header.columns, 1 if header.samples == 1 else 3, max_megapixels)
    return data, header


def _fast_jpeg(data: bytes, header: JpegHeader) -> np.ndarray | None:
    """torchvision's pixels, or None where Pillow might see other ones (EXIF, CMYK, Adobe, broken)."""
    plain = header.bits == 8 and header.samples in (1, 3) and header.process in (0xC0, 0xC1, 0xC2)
    if not plain or {1, 14} & set(header.applications) or "torchvision" not in sys.modules:
        return None
    try:
        import torch
        from torchvision.io import decode_jpeg

        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    except (ImportError, RuntimeError, Warning):  # broken; or gone from torchvision, which calls it deprecated
        return None
    return np.asarray(pixels[0] if header.samples == 1 else pixels.permute(1, 2, 0).contiguous())


def _open(
    file: BinaryIO,
    path: str | Path,
    kind: str,
    page: Callable[[int], int] | None,
    max_megapixels: float,
) -> _Opened:
    number, pages = 0, 1
    with reading(path, f"the {kind} header cannot be read"):
        if kind == "PNG":
            file = raster_layout.tidy_png(file, path)
        if kind == "WebP":
            file = _webp(file, path, max_megapixels)
        if kind == "TIFF":
            found = raster_layout.tiff_pages(file, path)
            numbers = _choices(found, path, max_megapixels)
            pages = len(numbers)
        index = page(pages) if page else 0
        if kind == "TIFF":
            number = numbers[index]
            _check_supported(found[number], path)
        with quietly():
            image = _page(file, path, kind, number)
        arguments = image.tile[0][3] if image.tile else ""
        rawmode = str(arguments[0] if isinstance(arguments, tuple) else arguments)
    _check_shape(path, image.height, image.width, _channels(image, rawmode), max_megapixels)
    return _Opened(image, pages, rawmode, lambda: _page(file, path, kind, number))


def _webp(file: BinaryIO, path: str | Path, max_megapixels: float) -> BinaryIO:
    """A WebP in memory whose header has been checked: its decoder makes room for the canvas as it begins."""
    data = file.read(int(max_megapixels * 1e6) + 1)
    width, height = raster_layout.webp_size(data, path)
    _check_shape(path, height, width, 3, max_megapixels)
    return io.BytesIO(data)


def _page(file: BinaryIO, path: str | Path, kind: str, number: int) -> ImageFile:
    """Pillow's image of a page. The plugin is called by itself: Image.open tries others, some start programs."""
    file.seek(0)
    if kind == "JPEG":
        return JpegImageFile(file)
    if kind == "WebP":
        return WebPImageFile(file)
    try:
        return PngImageFile(file) if kind == "PNG" else _Tiff(file, number)
    except SyntaxError as error:
        if kind == "TIFF" and str(error) in ("unknown pixel mode", "unknown data organization"):
            raise UnsupportedFormat(path, "no decoder for how its samples lie in the file", _AS_PNG) from None
        raise
    except ValueError as error:
        if "MAX_TEXT" in str(error):
            raise TooLarge(path, "its metadata (EXIF or XMP as text) inflates to more than Pillow takes") from None
        raise


def _check_supported(page: raster_layout.Page, path: str | Path) -> None:
    """Tell what is whole but of an unknown kind from what is broken (TIFF 6.0, tags 258, 259, 284 and 339)."""
    kinds = {2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
    kind = next((kinds[form] for form in page.formats if form in kinds), "32-bit" if page.bits > 16 else "")
    if kind:
        raise UnsupportedFormat(
            path,
            f"its {kind} values have no range that says what is black and what is white",
            "scale them and save them as 16-bit PNG or TIFF",
        )
    if page.compression not in COMPRESSION_INFO:
        raise UnsupportedFormat(path, f"no decoder for TIFF compression {page.compression}", _AS_PNG)
    if page.planar == _SEPARATE and page.samples > 1 and page.photometric not in (_RGB, _CMYK):
        raise UnsupportedFormat(path, "samples in separate planes that are neither RGB nor CMYK", _AS_PNG)


def _orientation(image: ImageFile, path: str | Path) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # Pillow has turned it
    exif = image.info.get("exif", b"")
    text = image.info.get("Raw profile type exif")  # an older way of PNG writers: in hexadecimal
    if not exif and isinstance(text, str):
        exif = bytes.fromhex("".join(text.split("\n")[3:]))
    if exif:
        raster_layout.check_exif(exif, path)
    found = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PngImageFile's own would decode the image
    return found if found in range(1, 9) else 1


def _choices(pages: list[raster_layout.Page], path: str | Path, max_megapixels: float) -> list[int]:
    """The pages to choose from: those that are images of their own, up to one of another size, as in a pyramid.

    A single page before a larger one is its thumbnail, whether it says so or not.
    """
    own = [number for number, page in enumerate(pages) if not page.part] or [*range(len(pages))]
    if not own:
        raise ReadError(path, "a TIFF without a page")
    runs = [list(run) for _, run in itertools.groupby(own, lambda number: pages[number][:2])]
    largest = max(runs, key=lambda run: pages[run[0]].width * pages[run[0]].height)
    numbers = largest if len(runs[0]) == 1 else runs[0]
    for page in (pages[number] for number in numbers):
        if page.tile_height and page.tile_width:
            check_size(path, (page.tile_height, page.tile_width), max_megapixels)
    return numbers


def _check_shape(path: str | Path, height: int, width: int, channels: int, max_megapixels: float) -> None:
    check_size(path, (height, width, channels), max_megapixels)
    pillow_limit = Image.MAX_IMAGE_PIXELS
    if max_megapixels <= MAX_MEGAPIXELS and pillow_limit and width * height > pillow_limit:
        raise TooLarge(
            path,
            f"declares {height} x {width} pixels; Pillow takes up to {pillow_limit} for safe",
            by_road(
                f"if the file is what it says, give max_megapixels= above {MAX_MEGAPIXELS:g}",
                "if the file is what it says, make it smaller",
            ),
        )


def _bits(image: ImageFile, rawmode: str) -> int:
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))))
    return 16 if "16" in rawmode else 8


def _channels(image: ImageFile, rawmode: str) -> int:
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;16") or rawmode in ("LA", "LA;16B") else 3


def _pixels(opened: _Opened, path: str | Path, window: SampleWindow) -> np.ndarray:
    image, bits = opened.image, _bits(opened.image, opened.rawmode)
    white_is_zero = isinstance(image, _Tiff) and image.white_is_zero
    if image.mode in ("I", "F") and not isinstance(image, PngImageFile):
        raise UnsupportedFormat(path, "its values have no range that says what is black and what is white")
    if image.mode == "I" or image.mode.startswith("I;16"):
        grey = _deep_grey(image, bits, window)
    elif bits > 8:
        return _deep_colour(opened, path)
    else:
        return _stretched(_shallow(opened, white_is_zero), window)
    return ~grey if white_is_zero else grey


def _shallow(opened: _Opened, white_is_zero: bool) -> np.ndarray:
    image = opened.image
    grey = image.mode in _GREY_MODES
    if "transparency" in image.info and opened.rawmode in ("L;2", "L;4"):  # the key has the file's own bits
        image.load()
        image.info["transparency"] *= 85 if opened.rawmode == "L;2" else 17
    return _on_black(_inverted(image) if white_is_zero and grey else image)


def _on_black(image: Image.Image) -> np.ndarray:
    """(H, W) grey or (H, W, 3) RGB of an image of 8 bits, black where it is transparent."""
    mode = "L" if image.mode in _GREY_MODES else "RGB"
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
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

    Example:
        >>> pixels_of(Image.new("LA", (2, 1), (200, 0))).tolist()  # hidden by its alpha
        [[0, 0]]
    """
    _check_levels(image)
    upright = ImageOps.exif_transpose(image)
    if upright.mode != "I" and not upright.mode.startswith("I;16"):
        return _stretched(_on_black(upright), window)
    if is_hounsfield(window):
        raise ReadError("the given image", "holds no Hounsfield units, which its window is in", "give a CT DICOM file")
    samples = np.asarray(upright).astype(np.uint16)
    return samples if window is None else _spread(samples, resolve_window(window))


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


def _stretched(pixels: np.ndarray, window: Window) -> np.ndarray:
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


def _deep_colour(opened: _Opened, path: str | Path) -> np.ndarray:
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
    wide: np.ndarray = pixels.astype(np.uint32 if bits <= 16 else np.uint64)
    return ((wide * peak + top // 2) // top).astype(kind)
