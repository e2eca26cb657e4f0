"""Hostile image files: each is refused by a ReadError, quickly, in little memory, and starts nothing."""

import gzip
import importlib.util
import io
import json
import pickle
import struct
import subprocess
import sys
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SLICE = {"dicom": 400, "png": 400, "jpeg": 400, "tiff": 400}


def benchmark():
    spec = importlib.util.spec_from_file_location("hostile_images", ROOT / "benchmarks" / "hostile_images.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", SLICE)
@pytest.mark.filterwarnings("ignore")
def test_mutants_raise_read_errors_alone(kind):
    import torchvision  # noqa: F401 - so that JPEGs take the fast path

    hostile = benchmark()
    outcomes = [hostile.outcome(hostile.mutant(kind, number)) for number in range(SLICE[kind])]
    words = {word for word, _ in outcomes}
    assert words == {"read", "refused"}, words  # both, or the mutants are no test
    assert max(seconds for _, seconds in outcomes) < hostile.SLOW


# ------------------------------------------------------------------------------------------ bombs

EXPLICIT, DEFLATED, RLE = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_BASELINE, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"


def element(tag: int, vr: bytes, data: bytes) -> bytes:
    long = vr in (b"OB", b"OW", b"SQ", b"UT")
    size = struct.pack("<HI", 0, len(data)) if long else struct.pack("<H", len(data))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr + size + data


def dicom_head(syntax: str) -> bytes:
    uid = syntax.encode() + b"\0" * (len(syntax) % 2)
    return b"\0" * 128 + b"DICM" + element(0x00020010, b"UI", uid)


def image_elements(rows: int, columns: int, frames: int = 1) -> bytes:
    return b"".join(
        [
            element(0x00280002, b"US", struct.pack("<H", 1)),
            element(0x00280004, b"CS", b"MONOCHROME2 "),
            element(0x00280008, b"IS", str(frames).encode().ljust(10)),
            element(0x00280010, b"US", struct.pack("<H", rows)),
            element(0x00280011, b"US", struct.pack("<H", columns)),
            element(0x00280100, b"US", struct.pack("<H", 8)),
            element(0x00280101, b"US", struct.pack("<H", 8)),
            element(0x00280103, b"US", struct.pack("<H", 0)),
        ]
    )


def encapsulated(*fragments: bytes) -> bytes:
    items = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(part)) + part for part in (b"", *fragments))
    head = struct.pack("<HH", 0x7FE0, 0x0010) + b"OB" + struct.pack("<HI", 0, 0xFFFFFFFF)
    return head + items + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)


def packed(first: bytes, zeros: int) -> bytes:
    """A deflate stream of `first` and as many zeros: one megabyte is compressed, and its block repeated."""
    opening, packer = zlib.compressobj(9, zlib.DEFLATED, -15), zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    start = opening.compress(first + bytes(zeros % (1 << 20))) + opening.flush(zlib.Z_FULL_FLUSH)
    return start + block * (zeros >> 20) + b"\x03\0"


def deflated(megabytes: int) -> bytes:
    head = struct.pack("<HH", 0x0009, 0x0010) + b"OB" + struct.pack("<HI", 0, megabytes << 20)
    return dicom_head(DEFLATED) + packed(head, megabytes << 20)


def nested(depth: int, tag: int, defined: bool) -> bytes:
    """A sequence of `depth` levels before an image, with delimiters or with stated lengths."""
    opening = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0"
    item, undefined = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<I", 0xFFFFFFFF)
    if defined:
        levels = []
        for level in range(depth):  # from the outermost: each holds 20 bytes a level inside it
            inside = 20 * (depth - level - 1)
            levels.append(opening + struct.pack("<I", inside + 8) + item + struct.pack("<I", inside))
        whole = b"".join(levels)
    else:
        end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        whole = (opening + undefined + item + undefined) * depth + end * depth
    pixels = element(0x7FE00010, b"OB", bytes(4))
    return dicom_head(EXPLICIT) + whole + image_elements(2, 2) + pixels


def png(width: int, height: int, colour_type: int = 0, *chunks: tuple[bytes, bytes]) -> bytes:
    zeros = height * (1 + width * (3 if colour_type == 2 else 1))
    checksum = (zeros % 65521) << 16 | 1  # Adler-32 of zeros
    pixels = b"\x78\x9c" + packed(b"", zeros) + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def jpeg(rows: int = 0, columns: int = 0, scans: int = 1, size: int = 64, **options) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size), 90).save(file, "JPEG", **options)
    data = bytearray(file.getvalue())
    if rows:
        frame = data.index(b"\xff\xc0" if not options else b"\xff\xc2")
        struct.pack_into(">HH", data, frame + 5, rows, columns)
    scan = bytes(data[data.rindex(b"\xff\xda") : -2])
    return bytes(data[:-2]) + scan * (scans - 1) + b"\xff\xd9"


def jpeg_tiff(side: int = 3_000) -> bytes:
    """One strip of one JPEG."""
    file = io.BytesIO()
    Image.new("L", (side, side), 90).save(file, "TIFF", compression="jpeg", tiffinfo={278: side})
    return file.getvalue()


def tiff_with(tags: list[tuple[int, int, int, int]], body: bytes = b"", following: int = 0) -> bytes:
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following) + body


def jpeg_2000(rows: int, columns: int, tile: int) -> bytes:
    size = struct.pack(">HIIIIIIIIH", 0, columns, rows, 0, 0, tile, tile, 0, 0, 1) + b"\x07\x01\x01"
    return b"\xff\x4f\xff\x51" + struct.pack(">H", len(size) + 2) + size + b"\xff\xd9"


BASE = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 8)]
STRIP = [(273, 4, 1, 8), (279, 4, 1, 64)]


def overlapping_exif() -> bytes:
    """5,000 tags that each claim the whole 60 KB: Pillow would copy 300 MB."""
    return b"Exif\0\0" + tiff_with([(1000 + number, 7, 60_000, 8) for number in range(5000)])


# Each with the words its refusal must have. The first three lines are those of the design.
BOMBS = {
    "deflated-813MB.dcm": (lambda: deflated(813), "inflates to more than"),
    "rle-65535x65535.dcm": (
        lambda: dicom_head(RLE) + image_elements(65535, 65535) + encapsulated(bytes(64)),
        "4295 megapixels",
    ),
    "png-169-megapixels.png": (lambda: png(13_000, 13_000), "Pillow takes"),
    "png-169-megapixels-rgb.png": (lambda: png(13_000, 13_000, 2), "507 megapixels"),
    **{
        f"nested-{depth}-{tag:08x}.dcm": (lambda depth=depth, tag=tag: nested(depth, tag, False), "nested more than")
        for depth in (200, 5_000, 100_000)
        for tag in (0x00081140, 0x00283010)
    },
    "nested-200-lengths.dcm": (lambda: nested(200, 0x00283010, True), "nested more than"),
    "nested-100000-lengths.dcm": (lambda: nested(100_000, 0x00283010, True), "nested more than"),
    "rle-17000x17000.dcm": (
        lambda: dicom_head(RLE) + image_elements(17_000, 17_000) + encapsulated(bytes(64)),
        "megabytes of pixels in",
    ),
    "frames-2-billion.dcm": (
        lambda: dicom_head(EXPLICIT) + image_elements(512, 512, 2**31 - 1) + element(0x7FE00010, b"OB", bytes(64)),
        "2147483647 frames",
    ),
    "jpeg-in-dicom-larger-than-its-header.dcm": (
        lambda: dicom_head(JPEG_BASELINE) + image_elements(64, 64) + encapsulated(jpeg(60_000, 60_000)),
        "megabytes of pixels in",
    ),
    "jpeg2000-of-another-size.dcm": (
        lambda: dicom_head(JPEG_2000) + image_elements(64, 64) + encapsulated(jpeg_2000(60_000, 60_000, 60_000)),
        "its header says 64 x 64",
    ),
    "jpeg2000-of-a-million-tiles.dcm": (
        lambda: dicom_head(JPEG_2000) + image_elements(1000, 1000) + encapsulated(jpeg_2000(1000, 1000, 1)),
        "1000000 tiles",
    ),
    "jpeg-65500x65500.jpg": (lambda: jpeg(65_500, 65_500), "megabytes of pixels in"),
    "jpeg-9400x9400-in-nothing.jpg": (lambda: jpeg(9_400, 9_400), "megabytes of pixels in"),
    "jpeg-of-5000-scans.jpg": (lambda: jpeg(scans=5_000, progressive=True), "scans"),
    "jpeg-of-150-large-scans.jpg": (
        lambda: jpeg(9_000, 9_000, 150, size=512, progressive=True),
        "JPEG scans",
    ),
    "jpeg-of-400-scans-in-a-tiff.tif": (lambda: jpeg_tiff() + b"\xff\xda\0\x08\1" * 400, "JPEG scans"),
    "jpeg-of-fill-bytes.jpg": (lambda: b"\xff\xd8" + b"\xff" * 30_000_000, "no scan follows"),
    "jpeg-of-markers.jpg": (lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 5_000_000, "markers"),
    "exif-overlapping.jpg": (lambda: jpeg(exif=overlapping_exif()), "tags"),
    "png-of-chunks.png": (
        lambda: png(8, 8)[:33] + (struct.pack(">I", 0) + b"prIv" + bytes(4)) * 1_000_000,
        "chunks",
    ),
    "exif-overlapping.png": (lambda: png(8, 8, 0, (b"eXIf", overlapping_exif()[6:])), "tags"),
    "tiff-tags-overlapping.tif": (
        lambda: tiff_with([*BASE, *STRIP, *((2000 + n, 7, 900_000, 8) for n in range(900))], bytes(1_000_000)),
        "claim more bytes",
    ),
    "tiff-tile-65535.tif": (
        lambda: tiff_with([*BASE, (322, 4, 1, 65_535), (323, 4, 1, 65_535), (324, 4, 1, 8), (325, 4, 1, 64)]),
        "4295 megapixels",
    ),
    "tiff-65535x65535.tif": (
        lambda: tiff_with([(256, 4, 1, 65_535), (257, 4, 1, 65_535), *BASE[2:], *STRIP]),
        "megabytes of pixels in",
    ),
    "tiff-of-strips.tif": (
        lambda: tiff_with([*BASE, (273, 4, 500_000, 200), (279, 4, 1, 1)], bytes(2_000_200)),
        "strips or tiles",
    ),
    "text.png": (lambda: png(8, 8, 0, (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000)))), "read"),  # left out
    "exif-text.png": (
        lambda: png(8, 8, 0, (b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(200_000_000)))),
        "metadata",
    ),
    "not-a-number-of-frames.dcm": (
        lambda: (
            dicom_head(EXPLICIT)
            + image_elements(2, 2).replace(b"1         ", b"1e400     ")
            + element(0x7FE00010, b"OB", bytes(4))
        ),
        "Number of Frames",
    ),
}

CHILD = r"""
import json, resource, sys, time
from medclf.errors import ReadError
from medclf.images.reading import read_pixels
import medclf.images.dicom, pydicom.filereader, pydicom.pixels.decoders.base
# behind the imports: urllib3, which pydicom imports, binds a socket to learn whether there is IPv6
started = []
EVENTS = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "socket.")
sys.addaudithook(lambda event, arguments: started.append(event) if event.startswith(EVENTS) else None)
for path in json.loads(sys.stdin.read()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(3):  # the best of three: on a machine that others use, caches are cold and clocks slow at times
        clock = time.process_time()
        try:
            read_pixels(path)
            outcome = "read"
        except ReadError as error:
            outcome = f"{type(error).__name__}: {error.reason}"
        seconds.append(time.process_time() - clock)
    seconds = min(seconds)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps([path, outcome, seconds, grown]), flush=True)
print(json.dumps(started))
"""


def read_in_a_child(paths: list[Path]) -> tuple[dict[str, tuple[str, float, float]], list[str]]:
    """Outcome, seconds of processor time and megabytes grown for each file, and what was started or connected."""
    names = json.dumps([str(path) for path in paths])
    done = subprocess.run([sys.executable, "-c", CHILD], input=names, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *rows, started = map(json.loads, done.stdout.splitlines())
    return {Path(path).name: (outcome, seconds, grown) for path, outcome, seconds, grown in rows}, started


def test_bombs_are_refused_at_once(tmp_path):
    for name, (make, _) in BOMBS.items():
        (tmp_path / name).write_bytes(make())
    sound = tmp_path / "sound.dcm"
    sound.write_bytes(dicom_head(EXPLICIT) + image_elements(2, 2) + element(0x7FE00010, b"OB", bytes(4)))
    results, _ = read_in_a_child([sound, *(tmp_path / name for name in BOMBS)])
    for name, (outcome, seconds, grown) in results.items():
        print(f"{name}: {seconds:.3f} s, {grown:.0f} MB, {outcome[:60]}")
    assert results.pop("sound.dcm")[0] == "read"
    problems = [
        f"{name}: {results[name]}"
        for name, (_, words) in BOMBS.items()
        if words not in results[name][0] or results[name][1] > 0.2 or results[name][2] > 50
    ]
    assert not problems, "\n".join(problems)


def test_the_bombs_would_go_off():
    """Sound in themselves: small ones of the same make are read, so size alone is what is refused."""
    from medclf.images.reading import read_pixels

    assert read_pixels(png(1300, 1300)).shape == (1300, 1300)
    inflated = zlib.decompress(packed(b"head", 5 << 20), -15)
    assert inflated == b"head" + bytes(5 << 20)
    assert read_pixels(jpeg(scans=3, progressive=True)).shape == (64, 64)
    assert read_pixels(jpeg(scans=9, size=4000, progressive=True)).shape == (4000, 4000)
    assert read_pixels(jpeg_tiff()).shape == (3000, 3000)


@pytest.mark.parametrize(("side", "grey_levels"), [(2_800, 1), (3_600, 4)])
def test_sound_deflated_images_are_read(side, grey_levels):
    """8 MB of nothing, which packs a thousandfold; 13 MB of noise."""
    from medclf.images.reading import read_pixels

    pixels = np.random.default_rng(0).integers(0, grey_levels, (side, side), dtype=np.uint8)
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    dataset = image_elements(side, side) + element(0x7FE00010, b"OB", pixels.tobytes())
    whole = dicom_head(DEFLATED) + packer.compress(dataset) + packer.flush()
    assert read_pixels(whole).shape == (side, side)


@pytest.mark.parametrize("defined", [True, False])
def test_sequences_as_deep_as_real_ones_are_read(defined):
    from medclf.images.reading import read_pixels

    assert read_pixels(nested(10, 0x00081140, defined)).shape == (2, 2)


# -------------------------------------------------------------------------------- foreign formats


def foreign_files() -> dict[str, bytes]:
    picture = Image.new("RGB", (8, 8), "red")
    made = {}
    for kind in ("GIF", "ICO", "EPS", "PDF", "PPM", "TGA", "JPEG2000"):
        file = io.BytesIO()
        picture.save(file, kind)
        made[kind] = file.getvalue()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", b"x")
    made["ZIP"] = file.getvalue()
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 1, 8000, 1, "NONE", ""))
        sound.writeframes(b"0")
    made["WAV"] = file.getvalue()
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    made["NPY"] = file.getvalue()
    made["ELF"] = Path(sys.executable).resolve().read_bytes()[:4096]
    made["GZIP"] = gzip.compress(b"x" * 400)
    made["SVG"] = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    made["PSD"] = b"8BPS\0\1" + bytes(200)
    made["HDF5"] = b"\x89HDF\r\n\x1a\n" + bytes(200)
    made["FITS"] = b"SIMPLE  =                    T".ljust(2880)
    made["PICKLE"] = pickle.dumps({"a": 1})
    made["SCRIPT"] = b"#!/bin/sh\necho hacked\n"
    made["SQLITE"] = b"SQLite format 3\0" + bytes(500)
    return made


def test_other_formats_are_refused_and_start_nothing(tmp_path):
    foreign = foreign_files()
    assert len(foreign) >= 12
    paths = []
    for kind, data in foreign.items():
        for suffix in (".png", ".dcm"):
            paths.append(tmp_path / f"{kind}{suffix}")
            paths[-1].write_bytes(data)
    results, started = read_in_a_child(paths)
    wrong = {name: outcome for name, (outcome, *_) in results.items() if not outcome.startswith("UnsupportedFormat")}
    assert not wrong
    assert started == []
