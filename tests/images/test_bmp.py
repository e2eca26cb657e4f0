"""BMP: every layout beside values worked out by hand, and Pillow's own files."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images.reading import Probe, format_of, probe, read_pixels

GREY_RAMP = [(17 * level,) * 3 for level in range(16)]


def bmp(rows, bits, *, width, palette=(), masks=(), compression=0, top_down=False, header=40, entry=4, colours=None):
    """A BMP of rows that are bytes already, the lowest first; palette in RGB."""
    table = b"".join(bytes(colour[::-1]) + b"\0" * (entry - 3) for colour in palette)
    held = b"".join(struct.pack("<I", mask) for mask in masks)
    height = -len(rows) if top_down else len(rows)
    if header == 12:
        info = struct.pack("<I4H", 12, width, len(rows), 1, bits)
    else:
        n = len(palette) if colours is None else colours
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, compression, 0, 0, 0, n, 0)
        info = (info + held).ljust(header, b"\0") if header > 40 else info + held
    start = 14 + len(info) + len(table)
    data = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + info + table + data


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_files_of_pillow_come_back_as_they_were(mode):
    photo = Image.effect_mandelbrot((61, 43), (-2, -1.5, 1, 1.5), 80)
    image = photo.convert("RGB").convert(mode) if mode == "P" else photo.convert(mode)
    file = io.BytesIO()
    image.save(file, "BMP")
    wanted = np.asarray(image.convert("L" if mode in ("1", "L") else "RGB"))
    assert format_of(file.getvalue()) == "BMP"
    found = read_pixels(file.getvalue())
    assert np.array_equal(found if found.ndim == wanted.ndim else np.stack([found] * 3, 2), wanted)


def test_a_mask_of_eight_bits_and_two_colours():
    """Pillow takes such a file for one bit a pixel."""
    data = bmp([bytes([0, 1, 1]), bytes([1, 0, 0])], 8, width=3, palette=[(0, 0, 0), (255, 255, 255)])
    assert read_pixels(data).tolist() == [[255, 0, 0], [0, 255, 255]]
    assert probe(data) == Probe("BMP", 3, 2, 8, 1, 1)


def test_four_bits_with_a_grey_ramp_and_an_odd_width():
    data = bmp([b"\x0f\x80"], 4, width=3, palette=GREY_RAMP)
    assert read_pixels(data).tolist() == [[0, 255, 136]]


def test_an_inverted_palette_is_obeyed():
    data = bmp([bytes([0, 255])], 8, width=2, palette=[(255 - level,) * 3 for level in range(256)])
    assert read_pixels(data).tolist() == [[255, 0]]


def test_rows_can_begin_at_the_top_and_headers_can_be_old():
    rows = [b"\x01\x02\x03", b"\x04\x05\x06"]  # blue, green, red
    assert read_pixels(bmp(rows, 24, width=1, top_down=True)).tolist() == [[[3, 2, 1]], [[6, 5, 4]]]
    assert read_pixels(bmp(rows, 24, width=1, header=12)).tolist() == [[[6, 5, 4]], [[3, 2, 1]]]
    old = bmp([b"\x01\x00"], 8, width=2, palette=[(9, 9, 9)] * 255 + [(1, 1, 1)], header=12, entry=3)
    assert read_pixels(old).tolist() == [[9, 9]]


def test_sixteen_bits_by_default_and_by_masks():
    green_555, green_565 = (struct.pack("<H", 31 << 5), struct.pack("<H", 63 << 5))
    assert read_pixels(bmp([green_555], 16, width=1)).tolist() == [[[0, 255, 0]]]
    masks = (0xF800, 0x7E0, 0x1F)
    assert read_pixels(bmp([green_565], 16, width=1, masks=masks, compression=3)).tolist() == [[[0, 255, 0]]]


def test_the_fourth_byte_counts_where_a_mask_says_so_and_it_is_not_blank():
    opaque, half, blank = (bytes([10, 20, 200, alpha]) for alpha in (255, 128, 0))
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    read = lambda rows, **options: read_pixels(bmp([rows], 32, width=len(rows) // 4, **options)).tolist()  # noqa: E731
    assert read(blank) == [[[200, 20, 10]]], "without masks it means nothing"
    assert read(opaque + half, masks=masks, compression=3, header=108) == [[[200, 20, 10], [100, 10, 5]]]
    assert read(blank, masks=masks, compression=3, header=108) == [[[200, 20, 10]]], "a writer left it blank"


@pytest.mark.parametrize(
    ("compression", "bits", "word"),
    [(1, 8, "run-length"), (2, 4, "run-length"), (4, 24, "JPEG"), (5, 24, "PNG"), (0, 2, "2 bits"), (3, 8, "8 bits")],
)
def test_what_is_not_read_is_called_so(compression, bits, word):
    data = bmp([bytes(8)], bits, width=2, palette=GREY_RAMP[:4], compression=compression)
    with pytest.raises(UnsupportedFormat, match=word):
        read_pixels(data)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(UnsupportedFormat, match="colours"):
        read_pixels(bmp([bytes(4)], 32, width=1, masks=(0, 0, 0), compression=3))
    with pytest.raises(ReadError):
        read_pixels(bmp([bytes(2)], 16, width=1, masks=(0xFF0000, 0xFF00, 0xFF), compression=3))


def test_missing_pixels_and_impossible_sizes():
    whole = bmp([bytes(300)] * 100, 24, width=100)
    with pytest.raises(ReadError, match="truncated: 12 bytes"):
        read_pixels(whole[:-12])
    with pytest.raises(ReadError, match="header"):
        read_pixels(whole[:40])
    with pytest.raises(TooLarge):
        read_pixels(bmp([b""], 24, width=2**31 - 1))
    with pytest.raises(ReadError, match="empty"):
        read_pixels(bmp([], 24, width=1))
    with pytest.raises(UnsupportedFormat):
        read_pixels(b"BMI of all patients of the study, in kg")


def test_stretch_spreads_grey():
    data = bmp([bytes([100, 110])], 8, width=2, palette=[(level,) * 3 for level in range(256)])
    assert read_pixels(data, window="stretch").tolist() == [[0, 255]]
