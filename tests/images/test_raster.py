"""PNG, JPEG and TIFF against files written byte by byte, by tifffile, or by Pillow at 8 bits."""

import io
import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images import raster
from medclf.images.reading import probe, read_pixels

RNG = np.random.default_rng(0)
DEEP_GREY = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
DEEP_RGB = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
DEEP_RGBA = RNG.integers(0, 65536, (5, 7, 4), dtype=np.uint16)
PHOTO = np.asarray(Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 60).convert("RGB"))


def png(samples: np.ndarray, colour_type: int, bits: int, *chunks: tuple[bytes, bytes], after=()) -> bytes:
    """A PNG written by the specification alone: filter 0, one IDAT."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    return png_of(struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0), raw, *chunks, after=after)


def png_of(header: bytes, rows: bytes, *chunks: tuple[bytes, bytes], after=()) -> bytes:
    """A PNG of that header and those rows."""
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), *after, (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def test_deep_grey_png_keeps_every_value():
    pixels = read_pixels(png(DEEP_GREY, 0, 16))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, DEEP_GREY)


def test_deep_rgb_png_keeps_every_value():
    pixels = read_pixels(png(DEEP_RGB, 2, 16))
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels, DEEP_RGB)


def test_deep_rgba_png_lies_on_black():
    expected = np.rint(DEEP_RGBA[..., :3] / 65535 * DEEP_RGBA[..., 3:]).astype(np.uint16)
    np.testing.assert_array_equal(read_pixels(png(DEEP_RGBA, 6, 16)), expected)


def test_deep_grey_with_alpha_lies_on_black():
    samples = DEEP_RGBA[..., :2]
    expected = np.rint(samples[..., 0] / 65535 * samples[..., 1]).astype(np.uint16)
    found = read_pixels(png(samples, 4, 16))
    np.testing.assert_array_equal(found, expected)
    assert probe(png(samples, 4, 16)).channels == 1


def test_transparent_colour_of_deep_png_becomes_black():
    grey, colour = DEEP_GREY.copy(), DEEP_RGB.copy()
    grey[1, 2], colour[3, 4] = 777, (1, 2, 3)
    assert read_pixels(png(grey, 0, 16, (b"tRNS", struct.pack(">H", 777))))[1, 2] == 0
    assert read_pixels(png(colour, 2, 16, (b"tRNS", struct.pack(">HHH", 1, 2, 3))))[3, 4].tolist() == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("rows", [None, 2])
def test_deep_tiff_keeps_every_value(byteorder, compression, rows):
    options = {"byteorder": byteorder, "compression": compression, "rowsperstrip": rows}
    for array, photometric in ((DEEP_GREY, "minisblack"), (DEEP_RGB, "rgb")):
        found = read_pixels(tiff(array, photometric=photometric, **options))
        assert found.dtype == np.uint16
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_deep_tiff_with_alpha_lies_on_black(compression):
    straight = tiff(DEEP_RGBA, photometric="rgb", extrasamples=["unassalpha"], compression=compression)
    expected = np.rint(DEEP_RGBA[..., :3] / 65535 * DEEP_RGBA[..., 3:]).astype(np.uint16)
    np.testing.assert_array_equal(read_pixels(straight), expected)
    premultiplied = tiff(DEEP_RGBA, photometric="rgb", extrasamples=["assocalpha"], compression=compression)
    np.testing.assert_array_equal(read_pixels(premultiplied), DEEP_RGBA[..., :3])


def test_deep_tiff_in_separate_planes_is_refused_by_name():
    planar = tiff(np.moveaxis(DEEP_RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate")
    with pytest.raises(UnsupportedFormat, match="separate planes"):
        read_pixels(planar)


@pytest.mark.parametrize("array", [DEEP_GREY, (DEEP_GREY >> 8).astype(np.uint8)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero_tiff_is_turned_round(array, compression):
    found = read_pixels(tiff(array, photometric="miniswhite", compression=compression))
    np.testing.assert_array_equal(found, np.iinfo(array.dtype).max - array)


def test_twelve_bit_tiff_is_scaled_to_the_full_range():
    values = np.array([[0, 1, 2048, 4095]])
    packed = np.packbits((values.reshape(-1, 1) >> np.arange(11, -1, -1) & 1).astype(np.uint8).ravel()).tobytes()
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + packed
    assert len(data) - 6 == 122
    assert read_pixels(data).tolist() == [[0, 16, 32776, 65535]]


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int16), np.zeros((2, 2), np.uint32)]
)
def test_values_without_a_range_are_refused_by_name(array):
    with pytest.raises(UnsupportedFormat, match="no range that says what is black"):
        read_pixels(tiff(array))


def test_one_bit_and_palette():
    bits = np.array([[True, False, True]])
    for kind in ("PNG", "TIFF"):
        assert read_pixels(saved(Image.fromarray(bits), kind)).tolist() == [[255, 0, 255]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "TIFF"):
        assert read_pixels(saved(palette, kind)).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert read_pixels(saved(palette, "PNG", transparency=0)).tolist() == [[[0, 0, 0], [40, 50, 60]]]


def test_alpha_lies_on_black():
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], np.uint8)
    expected = [[200, 100, 50], [0, 0, 0], [100, 50, 25]]
    for kind in ("PNG", "TIFF"):
        np.testing.assert_allclose(read_pixels(saved(Image.fromarray(rgba), kind))[0], expected, atol=1)
    grey = png(rgba[..., [0, 3]], 4, 8)
    np.testing.assert_allclose(read_pixels(grey), [[200, 0, 100]], atol=1)


def test_cmyk_becomes_rgb():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    red = read_pixels(saved(cmyk, "TIFF"))[8, 8]
    assert red.tolist() == [255, 0, 0]
    np.testing.assert_allclose(read_pixels(saved(cmyk, "JPEG"))[8, 8], [255, 0, 0], atol=6)


# EXIF orientation n: where the file's first row and column stand (TIFF 6.0, tag 274), by hand
UPRIGHT = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize("deep", [False, True])
def test_orientation_is_applied(orientation, kind, deep):
    exif = Image.Exif()
    exif[274] = orientation
    scale = 40 if kind == "JPEG" else 1
    values = np.array(UPRIGHT[1]) * scale
    if kind == "JPEG":  # blocks of 16 equal pixels survive its compression
        values = values.repeat(16, 0).repeat(16, 1)
    elif deep:
        values = values * 1000
    data = saved(Image.fromarray(values.astype(np.uint16 if deep and kind != "JPEG" else np.uint8)), kind, exif=exif)
    pixels = read_pixels(data)
    found = probe(data)
    assert (found.height, found.width) == pixels.shape
    if kind == "JPEG":
        pixels = pixels[8::16, 8::16]
    unit = 1000 if deep and kind != "JPEG" else scale
    np.testing.assert_array_equal(np.rint(pixels / unit), UPRIGHT[orientation])


def test_exif_behind_the_pixels_of_a_png_counts():
    exif = Image.Exif()
    exif[274] = 6
    for colour_type, samples in ((0, DEEP_GREY), (2, DEEP_RGB)):
        data = png(samples, colour_type, 16, after=[(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))])
        np.testing.assert_array_equal(read_pixels(data), np.rot90(samples, -1))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 2, "quality": 30}])
def test_fast_jpeg_gives_pillows_pixels(monkeypatch, mode, options):
    data = saved(Image.fromarray(PHOTO).convert(mode), "JPEG", **options)
    fast = raster._fast_jpeg(data, raster._jpeg_header(io.BytesIO(data), "a.jpg", 300)[1])
    assert fast is not None, "torchvision must be loaded here"
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision")
    slow = read_pixels(data)
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(slow, np.asarray(Image.open(io.BytesIO(data))))


@pytest.fixture(autouse=True, scope="module")
def _torchvision():
    import torchvision  # noqa: F401


def test_truncated_and_empty_files_are_named(tmp_path):
    for kind in ("PNG", "JPEG", "TIFF"):
        path = tmp_path / f"cut.{kind.lower()}"
        whole = saved(Image.fromarray(PHOTO), kind)
        for part in (0.3, 0.7):
            path.write_bytes(whole[: int(len(whole) * part)])
            with pytest.raises(ReadError) as caught:
                read_pixels(path)
            assert caught.value.path == path and str(path) in str(caught.value)
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    with pytest.raises(UnsupportedFormat, match="empty"):
        read_pixels(empty)
    with pytest.raises(ReadError, match="No such file"):
        read_pixels(tmp_path / "absent.png")
    with pytest.raises(ReadError, match="directory"):
        read_pixels(tmp_path)


def test_pages_of_a_tiff_are_its_frames():
    pages = [np.full((4, 6), value, np.uint8) for value in (10, 20, 30)]
    thumbnail = np.zeros((2, 3), np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for page in (*pages, thumbnail):
            writer.write(page)
    data = file.getvalue()
    assert probe(data).n_frames == 3
    assert [int(read_pixels(data, frame=frame)[0, 0]) for frame in ("first", "middle", "last", 1)] == [
        10,
        20,
        30,
        20,
    ]
    with pytest.raises(ReadError, match="has no frame 3"):
        read_pixels(data, frame=3)


def test_limits_hold_before_decoding():
    grey = saved(Image.new("L", (1000, 1000)), "PNG")
    assert read_pixels(grey, max_megapixels=1).shape == (1000, 1000)
    for function in (read_pixels, probe):
        with pytest.raises(TooLarge, match="max_megapixels"):
            function(grey, max_megapixels=0.9)
    colour = saved(Image.new("RGB", (1000, 1000)), "JPEG")
    with pytest.raises(TooLarge):
        read_pixels(colour, max_megapixels=2.9)


def test_probe_reads_no_pixels():
    whole = png(DEEP_RGB, 2, 16)
    assert probe(whole[: whole.index(b"IDAT") + 8])[:6] == ("PNG", 7, 5, 16, 1, 3)
