"""The truth table: what each kind of DICOM pixel must become, worked out value by value with fractions.

The files are written here byte by byte and the formulas are those of PS3.3 C.11.1 (modality), C.11.2 (VOI) and
C.7.6.3.1.2 (photometric interpretation), so nothing is shared with what is tested.
"""

import itertools
import struct
from fractions import Fraction
from math import exp, floor

import numpy as np
import pytest

from medclf.errors import MedclfError, ReadError
from medclf.images.reading import probe, read_pixels

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
SHORT = {"CS", "DS", "IS", "LO", "SS", "UI", "US", "PN"}


def element(tag: int, vr: str, *values: object) -> bytes:
    """One element in Explicit VR Little Endian (PS3.5 7.1.2)."""
    if vr in ("US", "SS"):
        data = struct.pack(f"<{len(values)}{'H' if vr == 'US' else 'h'}", *values)
    elif vr in ("OW", "OB", "SQ"):
        data = values[0]
    else:
        data = "\\".join(str(value) for value in values).encode()
        data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    length = struct.pack("<H", len(data)) if vr in SHORT else struct.pack("<HI", 0, len(data))
    return head + length + data


def sequence(tag: int, *items: bytes) -> bytes:
    return element(tag, "SQ", b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items))


def dicom(elements: dict[int, bytes], syntax: str = EXPLICIT_LITTLE) -> bytes:
    meta = element(0x00020010, "UI", syntax)
    body = b"".join(elements[tag] for tag in sorted(elements))
    return (
        b"\0" * 128 + b"DICM" + element(0x00020000, "UL", "")[:6] + b"\4\0" + struct.pack("<I", len(meta)) + meta + body
    )


def image(stored, *, bits, signed=False, photometric="MONOCHROME2", frames=1, high_bit=None, extra=()) -> bytes:
    """A DICOM file around bit patterns of shape (frames, rows, columns[, 3])."""
    stored = np.asarray(stored)
    allocated = 8 if bits <= 8 else 16
    colour = stored.ndim == 4
    elements = {
        0x00280002: element(0x00280002, "US", 3 if colour else 1),
        0x00280004: element(0x00280004, "CS", photometric),
        0x00280008: element(0x00280008, "IS", frames),
        0x00280010: element(0x00280010, "US", stored.shape[1]),
        0x00280011: element(0x00280011, "US", stored.shape[2]),
        0x00280100: element(0x00280100, "US", allocated),
        0x00280101: element(0x00280101, "US", bits),
        0x00280102: element(0x00280102, "US", bits - 1 if high_bit is None else high_bit),
        0x00280103: element(0x00280103, "US", int(signed)),
        0x7FE00010: element(0x7FE00010, "OW", stored.astype("<u2" if allocated == 16 else "u1").tobytes()),
    }
    if colour:
        elements[0x00280006] = element(0x00280006, "US", 0)
    for part in extra:
        group, number = struct.unpack("<HH", part[:4])
        elements[group << 16 | number] = part
    return dicom(elements)


def patterns(values, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Two's complement in `bits` bits, with noise in the bits above (overlays of old files lie there)."""
    values = np.asarray(values, np.int64) & ((1 << bits) - 1)
    return values | (rng.integers(0, 16, values.shape) << 12 if bits == 12 else 0)


# What the grey transforms are in this table
SLOPE, INTERCEPT = Fraction(3, 2), -100
CENTER, WIDTH = 60, 101
LUT_FIRST, LUT_BITS = 20, 10
LUT = [int(1023 * (step / 63) ** 2) for step in range(64)]
PALETTE_FIRST = 10
PALETTE = {"red": [0, 65535, 300, 9], "green": [1, 2, 3, 40000], "blue": [65535, 7, 8, 9]}


def extra_elements(transform: str, signed: bool) -> list[bytes]:
    parts = []
    if "rescale" in transform:
        parts += [element(0x00281052, "DS", INTERCEPT), element(0x00281053, "DS", float(SLOPE))]
    if "window" in transform:
        parts += [element(0x00281050, "DS", CENTER, 1), element(0x00281051, "DS", WIDTH, 2)]  # the first counts
    if "lut" in transform:
        item = element(0x00283002, "SS" if signed else "US", len(LUT), LUT_FIRST, LUT_BITS)
        parts.append(sequence(0x00283010, item + element(0x00283006, "US", *LUT)))
    return parts


def truth(values: list[int], *, bits: int, signed: bool, inverted: bool, transform: str) -> list[int]:
    """Grey levels by the standard's formulas, one value at a time."""
    modality = [value * SLOPE + INTERCEPT if "rescale" in transform else Fraction(value) for value in values]
    levels = []
    for value in modality:
        if "window" in transform:  # C.11.2.1.2.1, with ymin 0 and ymax 1
            if value <= Fraction(CENTER) - Fraction(1, 2) - Fraction(WIDTH - 1, 2):
                level = Fraction(0)
            elif value > Fraction(CENTER) - Fraction(1, 2) + Fraction(WIDTH - 1, 2):
                level = Fraction(1)
            else:
                level = (value - (CENTER - Fraction(1, 2))) / (WIDTH - 1) + Fraction(1, 2)
        elif "lut" in transform:  # C.11.2.1.1, C.11.1.1.1
            level = Fraction(LUT[min(max(int(value) - LUT_FIRST, 0), len(LUT) - 1)], 2**LUT_BITS - 1)
        elif bits <= 8 and "rescale" not in transform:
            level = (value + (2 ** (bits - 1) if signed else 0)) / (2**bits - 1)
        else:
            level = (value - min(modality)) / (max(modality) - min(modality))
        levels.append(1 - level if inverted else level)
    peak = 65535 if bits > 8 else 255
    return [floor(level * peak + Fraction(1, 2)) for level in levels]


def sample_values(bits: int, signed: bool, rng: np.random.Generator) -> list[int]:
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    near = [value for value in (-1, 0, 1, 9, 10, 11, 20, 21, 50, 59, 60, 83, 84, 109, 110, 111) if low <= value <= high]
    return [low, high, low + 1, high - 1, *near, *(int(value) for value in rng.integers(low, high + 1, 40))]


BITS, SIGNED, FRAMES = (8, 12, 16), (False, True), (1, 3)
GREY_TRANSFORMS = ("none", "rescale", "window", "lut", "rescale+window")
GREY = list(itertools.product(BITS, SIGNED, ("MONOCHROME1", "MONOCHROME2"), GREY_TRANSFORMS, FRAMES))
# Left out: colour with a modality or VOI transform (C.11.1 and C.11.2 hold for grey alone) and RGB signed (every
# Image IOD with RGB has Pixel Representation 0). Palette indices may be signed (C.7.6.3.1.5).
COLOUR = [*itertools.product(BITS, (False,), ("RGB",), FRAMES), *itertools.product(BITS, SIGNED, ("PALETTE",), FRAMES)]


@pytest.mark.parametrize(("bits", "signed", "photometric", "transform", "frames"), GREY)
def test_grey(bits, signed, photometric, transform, frames):
    rng = np.random.default_rng(bits)
    rows = [sample_values(bits, signed, rng) for _ in range(frames)]
    rows = [row[: min(map(len, rows))] for row in rows]
    stored = patterns(rows, bits, rng)[:, None, :]
    file = image(
        stored,
        bits=bits,
        signed=signed,
        photometric=photometric,
        frames=frames,
        extra=extra_elements(transform, signed),
    )
    for frame, index in (("first", 0), ("middle", frames // 2), ("last", frames - 1)):
        expected = truth(
            rows[index], bits=bits, signed=signed, inverted=photometric == "MONOCHROME1", transform=transform
        )
        found = read_pixels(file, frame=frame)
        assert found.dtype == (np.uint16 if bits > 8 else np.uint8)
        assert found.tolist() == [expected]
    assert probe(file)[:6] == ("DICOM", len(rows[0]), 1, bits, frames, 1)


@pytest.mark.parametrize(("bits", "signed", "photometric", "frames"), COLOUR)
def test_colour(bits, signed, photometric, frames):
    rng = np.random.default_rng(bits)
    peak = 65535 if bits > 8 else 255
    if photometric == "RGB":
        values = rng.integers(0, 2**bits, (frames, 2, 5, 3))
        values[:, 0, 0], values[:, 0, 1] = 0, 2**bits - 1
        file = image(patterns(values, bits, rng), bits=bits, photometric="RGB", frames=frames)
        expected = [
            [[floor(Fraction(int(v) * peak, 2**bits - 1) + Fraction(1, 2)) for v in p] for p in r] for r in values[-1]
        ]
    else:
        low = -(2 ** (bits - 1)) if signed else 0
        values = np.array([[[low, 9, 10, 11], [12, 13, 14, low + 2**bits - 1]]] * frames)
        descriptor = [len(PALETTE["red"]), PALETTE_FIRST, 16]
        extra = []
        for number, entries in enumerate(PALETTE.values()):
            extra.append(element(0x00281101 + number, "SS" if signed else "US", *descriptor))
            extra.append(element(0x00281201 + number, "OW", struct.pack("<4H", *entries)))
        file = image(
            patterns(values, bits, rng),
            bits=bits,
            signed=signed,
            photometric="PALETTE COLOR",
            frames=frames,
            extra=extra,
        )
        peak = 65535
        entries = list(zip(*PALETTE.values(), strict=True))
        expected = [[list(entries[min(max(int(v) - PALETTE_FIRST, 0), 3)]) for v in row] for row in values[-1]]
    found = read_pixels(file, frame="last")
    assert found.dtype == (np.uint16 if peak == 65535 else np.uint8)
    assert found.tolist() == expected
    assert probe(file).channels == 3


def grey_file(values, *, bits=12, signed=False, **options) -> bytes:
    return image(np.array([[values]]) & ((1 << bits) - 1), bits=bits, signed=signed, **options)


def test_exact_and_sigmoid_windows():
    values = [0, 30, 60, 90, 200]
    window = [element(0x00281050, "DS", 60), element(0x00281051, "DS", 100)]
    exact = read_pixels(grey_file(values, extra=[*window, element(0x00281056, "CS", "LINEAR_EXACT")]))
    # C.11.2.1.3.2: (x - c) / w + 0.5, from c - w/2 = 10 to c + w/2 = 110
    assert exact.tolist() == [[0, round(0.2 * 65535), floor(0.5 * 65535 + 0.5), round(0.8 * 65535), 65535]]
    sigmoid = read_pixels(grey_file(values, extra=[*window, element(0x00281056, "CS", "SIGMOID")]))
    # C.11.2.1.3.1
    assert sigmoid.tolist() == [[floor(65535 / (1 + exp(-4 * (v - 60) / 100)) + 0.5) for v in values]]


def test_window_of_the_caller_replaces_the_files_own():
    values = [0, 1000, 2000, 3000]
    computed = element(0x00080060, "CS", "CT")
    file = grey_file(values, extra=[computed, *extra_elements("lut", False), element(0x00281052, "DS", -1000)])
    # Hounsfield units -1000, 0, 1000, 2000; lung: center -600, width 1500: (x + 600.5) / 1499 + 0.5
    lung = [floor(min(max((v - 1000 + 600.5) / 1499 + 0.5, 0), 1) * 65535 + 0.5) for v in values]
    assert read_pixels(file, window="lung").tolist() == [lung]
    assert read_pixels(file, window=(-600, 1500)).tolist() == [lung]
    radiograph = grey_file(values, extra=[element(0x00080060, "CS", "CR")])
    assert read_pixels(radiograph, window=(1500, 3000)).std() > 0
    with pytest.raises(ReadError, match="for CT, and this file's modality is CR"):
        read_pixels(radiograph, window="lung")
    for wrong in ("lungs", (1,), (0, 0), (1, float("nan")), "x"):
        with pytest.raises(MedclfError, match="window"):
            read_pixels(file, window=wrong)


def test_modality_lut_comes_before_the_window_and_hides_the_rescale():
    item = element(0x00283002, "US", 4, 5, 16) + element(0x00283006, "US", 0, 10, 60, 500)
    parts = [sequence(0x00283000, item), element(0x00281050, "DS", 60), element(0x00281051, "DS", 101)]
    found = read_pixels(grey_file([0, 5, 6, 7, 8, 4095], extra=parts))
    modality = [0, 0, 10, 60, 500, 500]
    expected = [floor(min(max((v - 59.5) / 100 + 0.5, 0), 1) * 65535 + 0.5) for v in modality]
    assert found.tolist() == [expected]


def test_voi_lut_with_a_negative_first_value_after_a_rescale():
    # first mapped value -10 as US: 65526; the rescale's output is signed, so it is (C.11.2.1.1)
    item = element(0x00283002, "US", 3, 65526, 8) + element(0x00283006, "US", 0, 100, 255)
    parts = [sequence(0x00283010, item), element(0x00281052, "DS", -20), element(0x00281053, "DS", 1)]
    found = read_pixels(grey_file([0, 10, 11, 12, 100], extra=parts))  # -20, -10, -9, -8, 80
    assert found.tolist() == [[0, 0, round(100 / 255 * 65535), 65535, 65535]]


def test_padding_does_not_stretch_the_range():
    pad = [element(0x00280120, "SS", -2000)]
    found = read_pixels(grey_file([-2000, 0, 50, 100], signed=True, extra=pad))
    assert found.tolist() == [[0, 0, 32768, 65535]]
    limit = [*pad, element(0x00280121, "SS", 0)]
    assert read_pixels(grey_file([-2000, -5, 0, 50, 100], signed=True, extra=limit)).tolist() == [[0, 0, 0, 0, 65535]]


def test_high_bit_above_the_stored_bits():
    values = np.array([[[0, 1, 4095]]])
    file = image(values << 4, bits=12, high_bit=15)
    assert read_pixels(file).tolist() == [[0, 16, 65535]]


def test_constant_image_is_black_and_inverted_white():
    assert read_pixels(grey_file([7, 7])).tolist() == [[0, 0]]
    assert read_pixels(grey_file([7, 7], photometric="MONOCHROME1")).tolist() == [[65535, 65535]]


def test_odd_bit_counts():
    for bits in (1, 5, 7, 9, 10, 13, 15):
        top = (1 << bits) - 1
        stored = np.array([[[0, 1, top]]])
        window = [element(0x00281050, "DS", (top + 1) / 2), element(0x00281051, "DS", top + 1)]
        peak = 65535 if bits > 8 else 255
        found = read_pixels(image(stored, bits=bits, extra=window if bits > 8 else []))
        assert found.tolist() == [[0, floor(peak / top + 0.5), peak]], bits


@pytest.mark.parametrize("full", [True, False])
def test_ybr_becomes_rgb(full):
    # C.7.6.3.1.2: Y = 0.299 R + 0.587 G + 0.114 B, CB = -0.1687 R - 0.3313 G + 0.5 B + 128, CR = 0.5 R - ...
    def ybr(red, green, blue):
        return (
            0.2990 * red + 0.5870 * green + 0.1140 * blue,
            -0.1687 * red - 0.3313 * green + 0.5000 * blue + 128,
            0.5000 * red - 0.4187 * green - 0.0813 * blue + 128,
        )

    colours = [(200, 30, 60), (0, 0, 0), (255, 255, 255), (10, 200, 90)]
    converted = [[round(value) for value in ybr(*colour)] for colour in colours]
    if full:
        file = image(np.array([[converted]]), bits=8, photometric="YBR_FULL")
        expected = colours
    else:  # two luminances share their chrominances: Y1 Y2 CB CR
        pairs = [
            (converted[0][0], converted[0][0], *converted[0][1:]),
            (converted[3][0], converted[3][0], *converted[3][1:]),
        ]
        file = image(np.zeros((1, 1, 4, 3)), bits=8, photometric="YBR_FULL_422")
        raw = bytes(value for pair in pairs for value in pair)
        file = file[: file.index(b"\xe0\x7f\x10\0")] + element(0x7FE00010, "OB", raw)
        expected = [colours[0], colours[0], colours[3], colours[3]]
    np.testing.assert_allclose(read_pixels(file)[0], expected, atol=2)


def test_planes_one_after_another():
    colours = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    file = image(np.moveaxis(colours, 2, 0).reshape(1, 1, 2, 3), bits=8, photometric="RGB")
    planar = element(0x00280006, "US", 1)
    file = file.replace(element(0x00280006, "US", 0), planar)
    np.testing.assert_array_equal(read_pixels(file), colours)


def functional_group(*, window=None, rescale=None) -> bytes:
    parts = b""
    if window:
        item = element(0x00281050, "DS", window[0]) + element(0x00281051, "DS", window[1])
        parts += sequence(0x00289132, item)
    if rescale:
        parts += sequence(0x00289145, element(0x00281052, "DS", rescale[1]) + element(0x00281053, "DS", rescale[0]))
    return parts


def test_enhanced_multi_frame_takes_each_frames_own_window_and_the_shared_rescale():
    stored = np.array([[[0, 100, 200]]] * 3)
    shared = sequence(0x52009229, functional_group(rescale=(2, -100)))
    windows = [(0, 401), (100, 201), (200, 101)]
    own = sequence(0x52009230, *(functional_group(window=window) for window in windows))
    file = image(stored, bits=12, frames=3, extra=[shared, own])
    for frame, (center, width) in enumerate(windows):
        modality = [-100, 100, 300]
        levels = [min(max((v - center + 0.5) / (width - 1) + 0.5, 0), 1) for v in modality]
        assert read_pixels(file, frame=frame).tolist() == [[floor(level * 65535 + 0.5) for level in levels]]
