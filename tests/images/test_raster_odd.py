"""PNG, JPEG and TIFF files that are whole but unusual, written byte by byte."""

import io
import itertools
import re
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medclf.errors import ReadError, UnsupportedFormat
from medclf.images.raster_pixels import pixels_of
from medclf.images.reading import probe, read_pixels

sys.path.insert(0, str(Path(__file__).parent))
from test_raster import PHOTO, png, png_of, saved

GREY = np.add.outer(np.arange(12) * 5, np.arange(16) * 9).astype(np.uint8)


def tiff(*pages: tuple[bytes, dict], order: str = "<") -> bytes:
    """A TIFF of pages (strip, {tag: values}), TIFF 6.0 section 2."""
    out = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    link = 4
    for strip, tags in pages:
        place = len(out)
        out += strip + bytes(len(strip) % 2)
        entries = []
        for tag, value in sorted({273: place, 279: len(strip), 259: 1, 277: 1, **tags}.items()):
            values = value if isinstance(value, tuple) else (value,)
            data = struct.pack(f"{order}{len(values)}H", *values) if tag != 273 else struct.pack(order + "I", place)
            if len(data) > 4:
                data, spot = struct.pack(order + "I", len(out)), data
                out += spot + bytes(len(spot) % 2)
            entries.append(struct.pack(order + "HHI", tag, 4 if tag == 273 else 3, len(values)) + data.ljust(4, b"\0"))
        out[link : link + 4] = struct.pack(order + "I", len(out))
        out += struct.pack(order + "H", len(entries)) + b"".join(entries)
        link = len(out)
        out += bytes(4)
    return bytes(out)


def page(values: np.ndarray, **more: int) -> tuple[bytes, dict]:
    bits = values.dtype.itemsize * 8
    tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 262: 1, 278: values.shape[0]}
    return values.tobytes(), tags | {int(tag[1:]): value for tag, value in more.items()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [1, 2])
@pytest.mark.parametrize("bits", [8, 16])
def test_white_is_zero_in_every_layout(order, planar, bits):
    values = GREY.astype(f"{order}u2") * 257 if bits == 16 else GREY
    top = np.iinfo(values.dtype).max
    stored = (top - values).astype(values.dtype.newbyteorder(order))
    found = read_pixels(tiff(page(stored, t262=0, t284=planar), order=order))
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("dtype", "form", "word"),
    [("i1", 2, "signed"), ("<i2", 2, "signed"), ("<f8", 3, "floating"), ("<f2", 3, "floating"), ("<u8", 1, "32-bit")],
)
def test_values_without_a_range_are_called_unsupported(dtype, form, word):
    with pytest.raises(UnsupportedFormat, match=word):
        read_pixels(tiff(page(GREY.astype(dtype), t339=form)))


def test_samples_and_compressions_without_a_decoder_are_called_unsupported():
    with pytest.raises(UnsupportedFormat, match="lie in the file"):
        read_pixels(tiff(page(GREY, t258=7)))
    for compression in (34712, 50001):  # JPEG 2000, WebP
        with pytest.raises(UnsupportedFormat, match=f"compression {compression}"):
            read_pixels(tiff(page(GREY, t259=compression)))
    planes = np.stack([GREY, GREY, GREY])
    layout = {"t256": 16, "t257": 12, "t277": 3, "t258": (8, 8, 8), "t278": 12, "t284": 2}
    with pytest.raises(UnsupportedFormat, match="separate planes"):
        read_pixels(tiff(page(planes, t262=6, **layout)))


def test_a_tiff_that_leaves_out_what_its_readers_take_for_granted():
    """Without tag 262 it came out inverted, without tag 259 it was "compression 0"."""
    for tag in (259, 262):
        entry, another = (struct.pack("<HHIH", number, 3, 1, 1) for number in (tag, 65000))
        file = tiff(page(GREY)).replace(entry, another)
        assert entry not in file
        np.testing.assert_array_equal(read_pixels(file), GREY)


def test_grey_that_is_multiplied_by_its_alpha_lies_on_black():
    """It was called broken."""
    alpha = np.full_like(GREY, 255)
    alpha[:4] = 0
    both = np.dstack([np.where(alpha, GREY, 0).astype(np.uint8), alpha])
    file = tiff(page(both, t258=(8, 8), t277=2, t338=1))
    np.testing.assert_array_equal(read_pixels(file), both[..., 0])


@pytest.mark.parametrize("tags", [{"t254": 1}, {"t255": 2}], ids=["NewSubfileType", "SubfileType"])
def test_thumbnails_and_masks_are_no_pages(tags):
    full, small = page(GREY), page(np.ascontiguousarray(GREY[::4, ::4]), **tags)
    mask = np.packbits(GREY > 90, axis=1).tobytes(), {256: 16, 257: 12, 258: 1, 262: 4, 278: 12, 254: 4}
    for pages in ((small, full), (full, small), (small, full, mask), (mask, full)):
        np.testing.assert_array_equal(read_pixels(tiff(*pages)), GREY)
        assert probe(tiff(*pages))[:6] == ("TIFF", 16, 12, 8, 1, 1)
    other = page(255 - GREY)
    np.testing.assert_array_equal(read_pixels(tiff(small, full, other), frame="last"), 255 - GREY)


def test_a_single_small_page_before_a_larger_one_is_a_thumbnail_though_it_does_not_say_so():
    full, small = page(GREY), page(np.ascontiguousarray(GREY[::4, ::4]))
    np.testing.assert_array_equal(read_pixels(tiff(small, full)), GREY)
    np.testing.assert_array_equal(read_pixels(tiff(full, small)), GREY)
    assert (probe(tiff(small, full)).width, probe(tiff(small, full, full)).n_frames) == (16, 2)
    assert probe(tiff(small, small, full)).n_frames == 2  # a stack, and something else


def test_a_big_endian_bigtiff_is_called_unsupported():
    head = b"MM\0+" + struct.pack(">HHQ", 8, 0, 16) + struct.pack(">QQ", 0, 0)
    with pytest.raises(UnsupportedFormat, match="big-endian BigTIFF"):
        read_pixels(head)


def test_files_cut_within_their_header_are_called_truncated():
    bmp = io.BytesIO()
    Image.fromarray(GREY).save(bmp, "BMP")
    for file in (bmp.getvalue()[:100], tiff(page(GREY))[:7]):
        with pytest.raises(ReadError, match="truncated"):
            read_pixels(file)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_has_the_files_own_bits(bits):
    samples = np.tile(np.arange(16) % (1 << bits), (3, 1))
    spread = samples * 255 // ((1 << bits) - 1)
    places = (samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(places.reshape(3, -1).astype(np.uint8), axis=1)
    key = 1
    file = png(rows, 0, bits, (b"tRNS", struct.pack(">H", key)))
    header = struct.pack(">IIBBBBB", 16, 3, bits, 0, 0, 0, 0)  # `png` takes the width of a byte for that of a pixel
    file = file[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + file[33:]
    np.testing.assert_array_equal(read_pixels(file), np.where(samples == key, 0, spread))


def test_profiles_and_texts_of_any_size_are_left_out():
    bulk = zlib.compress(np.random.default_rng(0).bytes(2_000_000), 0)
    for chunk in ((b"iCCP", b"made up\0\0" + bulk), (b"zTXt", b"Comment\0\0" + bulk)):
        np.testing.assert_array_equal(read_pixels(png(PHOTO, 2, 8, chunk)), PHOTO)
        np.testing.assert_array_equal(read_pixels(png(PHOTO, 2, 8, after=[chunk])), PHOTO)


def test_exif_behind_the_pixels_turns_the_size_too():
    exif = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 274, 3, 1, 6, 0) + bytes(4)
    text = b"Raw profile type exif\0\0" + zlib.compress(f"\nexif\n{len(exif):8d}\n{exif.hex()}\n".encode())
    for chunk in ((b"eXIf", exif), (b"zTXt", text)):
        for file in (png(GREY, 0, 8, chunk), png(GREY, 0, 8, after=[chunk])):
            found = probe(file)
            assert (found.height, found.width) == read_pixels(file).shape == (16, 12)
            np.testing.assert_array_equal(read_pixels(file), np.rot90(GREY, -1))


@pytest.mark.parametrize(
    ("marker", "bits", "word"), [(0xC1, 12, "12 bits"), (0xC3, 8, "lossless"), (0xF7, 8, "JPEG-LS")]
)
def test_jpeg_of_other_processes_is_called_unsupported(marker, bits, word):
    data = bytearray(saved(Image.fromarray(GREY), "JPEG"))
    start = data.index(b"\xff\xc0")
    data[start + 1], data[start + 4] = marker, bits
    with pytest.raises(UnsupportedFormat, match=word):
        read_pixels(bytes(data))


def test_windows_of_deep_grey():
    values = np.array([[0, 1000, 2000, 4095]], np.uint16)
    file = saved(Image.fromarray(values), "PNG")
    assert read_pixels(file).tolist() == values.tolist()
    assert read_pixels(file, window=(2048, 4096)).tolist() == np.rint(values / 4095 * 65535).tolist()
    assert read_pixels(file, window="stretch").tolist() == np.rint(values / 4095 * 65535).tolist()
    with pytest.raises(ReadError, match="Hounsfield"):
        read_pixels(file, window="lung")
    shallow = saved(Image.fromarray(GREY), "PNG")
    np.testing.assert_array_equal(read_pixels(shallow, window=(40, 80)), GREY)  # grey levels already
    assert read_pixels(shallow, window="stretch").max() == 255


def test_pil_images_are_read_as_their_files_are():
    deep = Image.fromarray(np.array([[0, 4095]], np.uint16))
    assert pixels_of(deep).tolist() == [[0, 4095]]
    assert pixels_of(deep, "stretch").tolist() == [[0, 65535]]
    for values in (np.array([[0, 0.5]], np.float32), np.array([[0, 70000]], np.int32), np.array([[-1, 5]], np.int32)):
        with pytest.raises(UnsupportedFormat, match="no range"):
            pixels_of(Image.fromarray(values))
    hidden = Image.fromarray(np.array([[[9, 8, 7, 0], [9, 8, 7, 255]]], np.uint8), "RGBA")
    assert pixels_of(hidden).tolist() == [[[0, 0, 0], [9, 8, 7]]]


def test_lab_is_a_kind_of_colour():
    file = io.BytesIO()
    lab = Image.merge("LAB", Image.fromarray(PHOTO).split())
    lab.save(file, "TIFF")
    assert probe(file.getvalue()).channels == 3
    np.testing.assert_array_equal(read_pixels(file.getvalue()), lab.convert("RGB"))


def test_a_png_animation_is_refused():
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True, append_images=[second])
    with pytest.raises(UnsupportedFormat, match="PNG animation"):
        read_pixels(file.getvalue())
    file = io.BytesIO()
    first.save(file, "PNG", save_all=True)  # of one frame
    assert np.array_equal(read_pixels(file.getvalue()), GREY)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("turned", [1, 6])
def test_a_jpeg_whose_pixels_end_early_is_refused_though_its_end_is_there(mode, turned):
    """Decoders fill what is missing with grey and say nothing."""
    ramp = np.add.outer(np.arange(64) * 2, np.arange(48)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turned
    file = io.BytesIO()
    Image.merge(mode, [Image.fromarray(ramp)] * len(Image.new(mode, (1, 1)).getbands())).save(file, "JPEG", exif=exif)
    whole = file.getvalue()
    scan = whole.rindex(b"\xff\xda") + 14
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ReadError, match="end before its last row"):
            read_pixels(whole[: scan + int((len(whole) - scan) * share)] + b"\xff\xd9")
    frame = whole.index(b"\xff\xc0") + 5
    with pytest.raises(ReadError, match="end before its last row"):
        read_pixels(whole[:frame] + (128).to_bytes(2, "big") + whole[frame + 2 :])
    np.testing.assert_array_equal(read_pixels(whole[:-2] + b"\0\1" + whole[-2:]), read_pixels(whole))  # bytes too many


@pytest.mark.parametrize("grey", [0, 90, 255])
def test_a_whole_jpeg_of_one_grey_is_read(grey):
    file = io.BytesIO()
    Image.new("L", (40, 30), grey).save(file, "JPEG")
    assert (read_pixels(file.getvalue()) == grey).all()


def scans(data: bytes) -> list[bytes]:
    """A JPEG's headers, and each of its scans with the tables before it."""
    starts = [place.start() for place in re.finditer(b"\xff\xda", data)]
    cuts = [max(data.rfind(b"\xff\xc4", before, start), 0) or start for before, start in itertools.pairwise(starts)]
    return [data[start:end] for start, end in itertools.pairwise([0, *cuts, len(data) - 2])]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_progressive_jpeg_without_its_last_scans_is_refused(mode):
    parts = scans(saved(Image.fromarray(PHOTO).convert(mode), "JPEG", progressive=True))
    assert len(parts) > 3
    assert read_pixels(b"".join(parts) + b"\xff\xd9").shape[:2] == PHOTO.shape[:2]
    for held in range(1, len(parts)):
        with pytest.raises(ReadError, match="last scans"):
            read_pixels(b"".join(parts[:held]) + b"\xff\xd9")


def test_a_jpeg_without_the_scans_of_its_colours_is_refused():
    """Each component in a scan of its own, as grey JPEGs of the same tables have them."""
    planes = [saved(Image.fromarray(np.full((16, 16), grey, np.uint8)), "JPEG") for grey in (90, 200, 40)]
    start, scan = (planes[0].index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    frame = struct.pack(">2sHBHHB", b"\xff\xc0", 17, 8, 16, 16, 3) + bytes([1, 17, 0, 2, 17, 0, 3, 17, 0])
    head = planes[0][:start] + frame + planes[0][start + 13 : scan]
    coded = [bytes([*b"\xff\xda\0\x08\1", number, 0, 0, 63, 0]) + plane[scan + 10 : -2]
             for number, plane in enumerate(planes, 1)]  # fmt: skip
    expected = Image.merge("YCbCr", [Image.new("L", (16, 16), grey) for grey in (90, 200, 40)]).convert("RGB")
    np.testing.assert_allclose(read_pixels(head + b"".join(coded) + b"\xff\xd9"), np.asarray(expected, int), atol=1)
    with pytest.raises(ReadError, match="last scans"):
        read_pixels(head + b"".join(coded[:2]) + b"\xff\xd9")


def rows_of(values: np.ndarray, interlaced: bool) -> bytes:
    """The rows of a grey PNG without a filter (PNG, section 8.2)."""
    parts = [values]
    if interlaced:
        parts = [values[::8, ::8], values[::8, 4::8], values[4::8, ::4], values[::4, 2::4]]
        parts += [values[2::4, ::2], values[::2, 1::2], values[1::2]]
    return b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(12, 16), (3, 5), (1, 1), (9, 2)])
def test_a_png_of_fewer_rows_than_its_header_says_is_refused(interlaced, size):
    values = np.ascontiguousarray(np.resize(GREY, size) + 1)

    def file(rows: bytes) -> bytes:
        header = struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, interlaced)
        return png_of(header, rows)

    whole = rows_of(values, interlaced)
    np.testing.assert_array_equal(read_pixels(file(whole)), values)
    black = np.zeros_like(values)
    np.testing.assert_array_equal(read_pixels(file(rows_of(black, interlaced))), black)
    for cut in {1, len(whole) // 2} - {len(whole)}:
        with pytest.raises(ReadError, match=r"last row|truncated"):
            read_pixels(file(whole[:-cut]))


def test_a_png_whose_coded_pixels_were_damaged_is_refused():
    whole = saved(Image.fromarray(PHOTO), "PNG")
    half = len(whole) // 2
    for damaged in (whole[:half] + bytes(len(whole) - half), whole[: half - 40] + bytes(40) + whole[half:]):
        with pytest.raises(ReadError):
            read_pixels(damaged)


@pytest.mark.parametrize("rows", [4, 5, 12])
def test_a_tiff_of_fewer_strips_than_its_rows_need_is_refused(rows):
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "TIFF", tiffinfo={278: rows})
    data = file.getvalue()
    np.testing.assert_array_equal(read_pixels(data), GREY)
    taller = data.replace(struct.pack("<HHII", 257, 4, 1, 12), struct.pack("<HHII", 257, 4, 1, 20))
    assert taller != data
    with pytest.raises(ReadError, match="strips or tiles that hold its pixels"):
        read_pixels(taller)
