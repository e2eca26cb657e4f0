"""PNG, JPEG, TIFF, BMP and WebP to pixels: every bit depth kept, orientation applied, nothing else opened."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from medclf.errors import ReadError, TooLarge, UnsupportedFormat, by_road
from medclf.images import raster_layout
from medclf.images.bmp import bmp_header, is_bmp, read_bmp
from medclf.images.decoding_guard import MAX_MEGAPIXELS, check_size, quietly, reading
from medclf.images.raster_layout import JpegHeader
from medclf.images.raster_pixels import Opened, TiffPage, bits_of, channels_of, check_whole, decoded, stretched
from medclf.images.windowing import SampleWindow

_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274
_SEPARATE, _RGB, _CMYK = 2, 2, 5
_HUFFMAN_SEQUENTIAL_OR_PROGRESSIVE = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # the last two with arithmetic coding
_AS_PNG = "save it as PNG or TIFF"
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}
_WEBP = 50001  # a compression of TIFF that Pillow names, and whose decoder it comes without


class RasterInfo(NamedTuple):
    """What a file's header says about its image, upright; and whether it is stored turned or mirrored (EXIF)."""

    width: int
    height: int
    bits: int
    channels: int
    n_frames: int
    turned: bool = False


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
    return RasterInfo(width, height, bits_of(image, rawmode), channels_of(image, rawmode), pages, turned)


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
        return stretched(read_bmp(file, path, max_megapixels), window)
    if kind == "JPEG":
        page(1)
        data, header = _jpeg_header(file, path, max_megapixels)
        pixels = _fast_jpeg(data, header)
        if pixels is not None:
            check_whole(data, header, pixels, path)
            return stretched(pixels, window)
        file = io.BytesIO(data)
    opened = _open(file, path, kind, page, max_megapixels)
    with reading(path, f"the {kind} pixels cannot be decoded"):
        pixels = decoded(opened, path, window)
        opened.image.load()  # a PNG's EXIF can stand behind its pixels
        if kind == "JPEG":
            check_whole(data, header, pixels, path)
        elif kind == "PNG":
            raster_layout.check_png(file, path, count=bool((pixels[-1] == pixels[-1, 0]).all()))
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
) -> Opened:
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
    _check_shape(path, image.height, image.width, channels_of(image, rawmode), max_megapixels)
    return Opened(image, pages, rawmode, lambda: _page(file, path, kind, number))


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
        return PngImageFile(file) if kind == "PNG" else TiffPage(file, number)
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
    if page.compression not in COMPRESSION_INFO or page.compression == _WEBP:
        raise UnsupportedFormat(path, f"no decoder for TIFF compression {page.compression}", _AS_PNG)
    if page.planar == _SEPARATE and page.samples > 1 and page.photometric not in (_RGB, _CMYK):
        raise UnsupportedFormat(path, "samples in separate planes that are neither RGB nor CMYK", _AS_PNG)
    if page.pieces < page.needed:
        reason = f"truncated: it has {page.pieces} of the {page.needed} strips or tiles that hold its pixels"
        raise ReadError(path, reason, "get it again from where it came from, or leave it out")


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
