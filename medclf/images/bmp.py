"""BMP to pixels: uncompressed, of 1 to 32 bits a pixel (Microsoft, "Bitmap header types").

Without Pillow, which reads some palettes and masks as though they lay otherwise in the file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from medclf.errors import ReadError, UnsupportedFormat
from medclf.images.decoding_guard import check_size, exactly, reading

_FILE_HEADER, _CORE, _OS2 = 14, 12, 64
_HEADERS = (_CORE, 40, 52, 56, _OS2, 108, 124)
_RAW, _BITFIELDS = 0, 3
_COMPRESSIONS = {1: "run-length coded pixels", 2: "run-length coded pixels", 4: "JPEG pixels", 5: "PNG pixels"}
_MASKS = {16: (0x7C00, 0x3E0, 0x1F, 0), 24: (0xFF0000, 0xFF00, 0xFF, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_AS_PNG = "save it as PNG"


class BmpHeader(NamedTuple):
    """What a BMP's header says; `palette` is (n, 3) RGB, (0, 3) where pixels hold colours, which `masks` tell apart."""

    width: int
    height: int
    top_down: bool
    bits: int
    masks: tuple[int, int, int, int]
    palette: np.ndarray
    start: int

    @property
    def channels(self) -> int:
        """1 where all colours of a palette are grey, else 3."""
        grey = len(self.palette) and (self.palette == self.palette[:, :1]).all()
        return 1 if grey else 3


def is_bmp(head: bytes) -> bool:
    """Whether a file begins as a BMP does; two letters alone would be a weak sign.

    Example:
        >>> is_bmp(b"BM" + bytes(12) + (40).to_bytes(4, "little")), is_bmp(b"BMI of all patients")
        (True, False)
    """
    return head.startswith(b"BM") and len(head) >= 18 and int.from_bytes(head[14:18], "little") in _HEADERS


def bmp_header(file: BinaryIO, path: str | Path, max_megapixels: float) -> BmpHeader:
    """Read a header, leaving the file behind it.

    Raises:
        ReadError: it is truncated; UnsupportedFormat for compressed pixels; TooLarge for more than the limit.
    """
    with reading(path, "the BMP header cannot be read"):
        start, size = struct.unpack("<8xII", exactly(file, 18)[2:])
        fields = exactly(file, size - 4)
        if size == _CORE:
            (width, height, _, bits), compression, colours, entry = struct.unpack("<4H", fields), _RAW, 0, 3
        else:
            width, height, _, bits, compression, *_, colours = struct.unpack_from("<iiHHIIiiI", fields)
            entry = 4
        check_size(path, (abs(height), width), max_megapixels)
        masked = compression == _BITFIELDS and size != _OS2
        if not (bits in (16, 32) if masked else compression == _RAW and bits in (1, 4, 8, 16, 24, 32)):
            said = _COMPRESSIONS.get(compression, f"{bits} bits a pixel")
            raise UnsupportedFormat(path, f"a BMP of {said}", _AS_PNG)
        masks = _MASKS.get(bits, (0, 0, 0, 0))
        if masked:
            held = fields[36:52] if size >= 52 else exactly(file, 12)
            masks = struct.unpack("<4I", held.ljust(16, b"\0"))
        n = min(colours or 1 << bits, 1 << bits) if bits <= 8 else 0
        n = min(n, max(0, start - file.tell()) // entry)
        palette = np.frombuffer(exactly(file, n * entry), np.uint8).reshape(n, entry)[:, 2::-1]
        if (bits <= 8 and not n) or (bits in (16, 32) and not all(masks[:3])):
            raise UnsupportedFormat(path, "a BMP that does not say what its colours are", _AS_PNG)
    header = BmpHeader(width, abs(height), height < 0, bits, masks, palette, start)
    check_size(path, (header.height, width, header.channels), max_megapixels)
    return header


def read_bmp(file: BinaryIO, path: str | Path, max_megapixels: float) -> np.ndarray:
    """Decode a BMP; what is transparent lies on black.

    Returns:
        (H, W) grey or (H, W, 3) RGB, uint8.

    Raises:
        ReadError: as `bmp_header`, or pixels are missing.
    """
    header = bmp_header(file, path, max_megapixels)
    stride = (header.width * header.bits + 31) // 32 * 4  # rows are padded to 32 bits
    with reading(path, "the BMP pixels cannot be read"):
        file.seek(header.start)
        data = file.read(stride * header.height)
        if len(data) < stride * header.height:
            raise ReadError(path, f"truncated: {stride * header.height - len(data)} bytes of its pixels are missing")
        rows = np.frombuffer(data, np.uint8).reshape(header.height, stride)
        pixels = (_indexed if header.bits <= 8 else _coloured)(rows, header)
    return np.ascontiguousarray(pixels if header.top_down else pixels[::-1])


def _indexed(rows: np.ndarray, header: BmpHeader) -> np.ndarray:
    if header.bits == 1:
        rows = np.unpackbits(rows, axis=1)
    elif header.bits == 4:
        rows = np.stack((rows >> 4, rows & 15), axis=2).reshape(len(rows), -1)
    palette = np.zeros((256, 3), np.uint8)  # what has no colour is black
    palette[: len(header.palette)] = header.palette
    return np.asarray((palette[:, 0] if header.channels == 1 else palette)[rows[:, : header.width]])


def _coloured(rows: np.ndarray, header: BmpHeader) -> np.ndarray:
    if header.bits == 24:
        return np.asarray(rows[:, : 3 * header.width].reshape(len(rows), header.width, 3)[..., ::-1])
    values = rows.view("<u2" if header.bits == 16 else "<u4")[:, : header.width]
    *colours, alpha = (_channel(values, mask) for mask in header.masks)
    pixels = np.stack(colours, axis=2)
    if not alpha.any():  # none, or one that its writer left blank
        return pixels
    return np.asarray((pixels.astype(np.uint16) * alpha[..., None] + 127) // 255, np.uint8)


def _channel(values: np.ndarray, mask: int) -> np.ndarray:
    """The bits of a mask as a fraction of 255."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    top = mask >> shift
    held = ((values & values.dtype.type(mask)) >> values.dtype.type(shift)).astype(np.uint64)
    return np.asarray((held * 255 + top // 2) // top, np.uint8)
