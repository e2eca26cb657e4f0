"""DICOM files that break habits: windows, padding, tables, coded colours, bits above those stored; beside dcmtk too."""

import io
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, encapsulate_extended, get_frame
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from medclf.errors import ReadError, UnsupportedFormat
from medclf.images.reading import read_pixels
from medclf.images.resize import eight_bit

sys.path.insert(0, str(Path(__file__).parent))
from test_dicom_truth import dicom, element, grey_file, image, sequence

RAMP = np.arange(0, 4096, 16).reshape(16, 16)


def levels(file: bytes, **how) -> np.ndarray:
    return eight_bit(read_pixels(file, **how)).astype(int)


def spread(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min()) * 255


@pytest.mark.parametrize("width", [0.5, 0.99])
def test_windows_narrower_than_one_are_read_as_exact(width):
    rescale = [element(0x00281052, "DS", 0), element(0x00281053, "DS", 0.0005)]
    window = [element(0x00281050, "DS", 0.7), element(0x00281051, "DS", width)]
    expected = np.clip((RAMP * 0.0005 - 0.7) / width + 0.5, 0, 1) * 255  # PS3.3 C.11.2.1.3.2
    file = image(RAMP[None], bits=12, extra=[*rescale, *window])
    np.testing.assert_allclose(levels(file), expected, atol=1)
    bare = image(RAMP[None], bits=12, extra=rescale)
    np.testing.assert_allclose(levels(bare, window=(0.7, width)), expected, atol=1)


@pytest.mark.parametrize(
    ("signed", "pad", "written"),
    [
        (True, -1500, ("SS", -1500)),
        (True, -1500, ("US", 64036)),
        (False, 40000, ("US", 40000)),
        (False, 40000, ("SS", -25536)),
    ],
)
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_however_its_sign_is_written(signed, pad, written, photometric):
    values = RAMP - (1000 if signed else 0)
    stored = np.where(np.arange(16) < 4, pad, values) & 0xFFFF
    extra = [element(0x00280120, written[0], written[1])]
    found = levels(image(stored[None], bits=16, signed=signed, photometric=photometric, extra=extra))
    shown = spread(values[:, 4:])
    assert (found[:, :4] == 0).all()
    np.testing.assert_allclose(found[:, 4:], shown if photometric == "MONOCHROME2" else 255 - shown, atol=1)


@pytest.mark.parametrize(("signed", "pad", "offset"), [(False, 63536, 0), (True, -32768, -1000), (True, -2500, -1000)])
@pytest.mark.parametrize("window", [(), ((1000, 1501),)])
def test_padding_that_the_stored_bits_cannot_hold_is_black(signed, pad, offset, window):
    values = RAMP // 2 + offset
    stored = np.where(np.arange(16) < 4, pad, values) & 0xFFFF
    extra = [element(0x00280120, "SS" if signed else "US", pad)]
    for center, width in window:
        extra += [element(0x00281050, "DS", center), element(0x00281051, "DS", width)]
    found = levels(image(stored[None], bits=12, signed=signed, extra=extra))
    shown = np.clip((values - 999.5) / 1500 + 0.5, 0, 1) * 255 if window else spread(values[:, 4:])
    assert (found[:, :4] == 0).all()
    np.testing.assert_allclose(found[:, 4:], shown[:, -12:], atol=1)


@pytest.mark.parametrize(
    ("centers", "widths"), [(("", 2000), ("", 2001)), ((40, 2000, 7), (0, 2001, 9)), ((40, 2000), ("", 2001))]
)
def test_of_several_windows_the_first_that_is_whole_counts(centers, widths):
    extra = [element(0x00281050, "DS", *centers), element(0x00281051, "DS", *widths)]
    expected = np.clip((RAMP - 1999.5) / 2000 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(levels(image(RAMP[None], bits=12, extra=extra)), expected, atol=1)


def test_a_lut_item_without_a_table_says_nothing():
    window = [element(0x00281050, "DS", 2000), element(0x00281051, "DS", 2001)]
    blank = element(0x00283002, "US") + element(0x00283006, "US")
    table = element(0x00283002, "US", 2, 2000, 8) + element(0x00283006, "US", 0, 255)
    windowed = np.clip((RAMP - 1999.5) / 2000 + 0.5, 0, 1) * 255
    for tag in (0x00283000, 0x00283010):
        found = levels(image(RAMP[None], bits=12, extra=[sequence(tag, blank), *window]))
        np.testing.assert_allclose(found, windowed, atol=1)
    found = levels(image(RAMP[None], bits=12, extra=[sequence(0x00283010, blank, table)]))
    np.testing.assert_array_equal(found, (RAMP > 2000) * 255)


def test_a_voi_lut_of_more_bits_than_its_descriptor_says_is_not_clipped():
    item = element(0x00283002, "US", 3, 0, 8) + element(0x00283006, "US", 0, 2000, 4095)
    found = levels(grey_file([0, 1, 2], extra=[sequence(0x00283010, item)]))
    np.testing.assert_allclose(found, [[0, 2000 / 4095 * 255, 255]], atol=1)


def test_a_slope_of_zero_is_passed_over():
    rescale = [element(0x00281052, "DS", -5), element(0x00281053, "DS", 0)]
    np.testing.assert_allclose(levels(image(RAMP[None], bits=12, extra=rescale)), spread(RAMP), atol=1)


@pytest.mark.parametrize(
    "more",
    [
        [element(0x00080060, "CS", "CT")],
        [element(0x00281052, "DS", -1024), element(0x00281053, "DS", 1)],
        [element(0x00080060, "CS", "CT"), element(0x00281053, "DS", 0), element(0x00281052, "DS", 0)],
        [element(0x00080060, "CS", "CT"), element(0x00281052, "DS", 0), element(0x00281054, "LO", "US")],
    ],
    ids=["no rescale", "no modality", "slope 0", "another unit"],
)
def test_named_windows_need_hounsfield_units(more):
    file = image(RAMP[None], bits=12, extra=more)
    with pytest.raises(ReadError, match="Hounsfield"):
        read_pixels(file, window="bone")
    assert levels(file, window=(2000, 3000)).std() > 0


@pytest.mark.parametrize(
    ("tag", "vr", "text", "name"),
    [
        (0x00281050, "DS", "40,5", "Window Center"),
        (0x00281053, "DS", "one", "Rescale Slope"),
        (0x00281052, "DS", "1 024", "Rescale Intercept"),
        (0x00280008, "IS", "1x", "Number of Frames"),
    ],
)
def test_a_number_that_is_none_is_refused_by_name(tag, vr, text, name):
    window = [element(0x00281050, "DS", 1), element(0x00281051, "DS", 100)]
    with pytest.raises(ReadError, match=name) as caught:
        read_pixels(image(RAMP[None], bits=12, extra=[*window, element(tag, vr, text)]))
    assert text not in str(caught.value)


@pytest.mark.parametrize(("bits", "factor"), [(8, 257), (8, 1), (16, 257), (16, 1), (12, 4095 / 255), (10, 1023 / 255)])
def test_the_entries_of_a_palette_tell_their_bits(bits, factor):
    colours = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 3 % 256])
    extra = [element(0x00281101 + one, "US", 256, 0, bits) for one in range(3)]
    extra += [
        element(0x00281201 + one, "OW", np.round(colours[one] * factor).astype("<u2").tobytes()) for one in range(3)
    ]
    index = np.arange(256).reshape(16, 16)
    found = levels(image(index[None], bits=8, photometric="PALETTE COLOR", extra=extra))
    np.testing.assert_array_equal(found, colours.T[index])


# ---- colours and bits of compressed pixels


def coloured(marker: bytes, keep_jfif: bool) -> bytes:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16], picture[16:] = (200, 40, 20), (20, 60, 210)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95, subsampling=0)
    data = file.getvalue()
    start = 4 + int.from_bytes(data[4:6], "big")
    return data[:2] + (data[2:start] if keep_jfif else b"") + marker + data[start:]


def dataset(frame: bytes, syntax: str, **values) -> bytes:
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    header.BitsAllocated = header.BitsStored = 8
    header.SamplesPerPixel, header.PixelRepresentation, header.HighBit = 3, 0, 7
    header.PlanarConfiguration = 0
    for name, value in values.items():
        setattr(header, name, value)
    header.PixelData = encapsulate([frame])
    header["PixelData"].is_undefined_length = True
    header["PixelData"].VR = "OB"
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"])
@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL", "RGB"])
@pytest.mark.parametrize("keep_jfif", [True, False])
def test_a_colour_jpeg_shows_the_colours_of_its_own_file(syntax, photometric, keep_jfif):
    stream = coloured(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\1", keep_jfif)
    file = dataset(stream, syntax, Rows=32, Columns=32, PhotometricInterpretation=photometric)
    np.testing.assert_array_equal(read_pixels(file), np.asarray(Image.open(io.BytesIO(stream))))


def test_a_colour_jpeg_without_markers_is_what_the_header_says():
    stream = coloured(b"", keep_jfif=False)
    ycbcr = Image.open(io.BytesIO(stream))
    ycbcr.draft("YCbCr", ycbcr.size)
    for photometric, expected in (("YBR_FULL", Image.open(io.BytesIO(stream))), ("RGB", ycbcr)):
        file = dataset(stream, "1.2.840.10008.1.2.4.50", Rows=32, Columns=32, PhotometricInterpretation=photometric)
        np.testing.assert_array_equal(read_pixels(file), np.asarray(expected))


@pytest.mark.parametrize("high_bit", [11, 15])
@pytest.mark.parametrize(("tool", "options"), [("dcmcjpls", []), ("dcmcjpeg", ["+e1"]), ("", []), ("dcmcrle", [])])
def test_bits_above_those_stored_are_dropped_from_lossless_pixels(tmp_path, tool, options, high_bit):
    ramp = np.tile(RAMP, (4, 4))
    stored = (ramp << 4 | 0xA) if high_bit == 15 else (ramp | 0xA000)
    window = [element(0x00281050, "DS", 2048), element(0x00281051, "DS", 4096)]
    names = [element(0x00080016, "UI", "1.2.840.10008.5.1.4.1.1.7"), element(0x00080018, "UI", "1.2.3")]
    plain = image(stored[None], bits=12, high_bit=high_bit, extra=[*names, *window])
    if tool:
        if not shutil.which(tool):
            pytest.skip(f"{tool} of dcmtk is not installed")
        (tmp_path / "plain.dcm").write_bytes(plain)
        command = [tool, *options, tmp_path / "plain.dcm", tmp_path / "coded.dcm"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
        coded = (tmp_path / "coded.dcm").read_bytes()
    else:
        coded = j2k(plain)
    assert len(coded) and pydicom.dcmread(io.BytesIO(coded)).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_pixels(coded), read_pixels(plain))
    np.testing.assert_allclose(levels(coded), ramp / 4095 * 255, atol=1)


def j2k(plain: bytes) -> bytes:
    """The same in JPEG 2000 lossless, all 16 bits of each sample coded."""
    encode = pytest.importorskip("openjpeg.utils").encode_array
    header = pydicom.dcmread(io.BytesIO(plain))
    frame = np.frombuffer(header.PixelData, "<u2").reshape(64, 64)
    coded = encode(np.ascontiguousarray(frame), bits_stored=16, photometric_interpretation=2)
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    header.PixelData = encapsulate([coded])
    header["PixelData"].is_undefined_length = True
    header["PixelData"].VR = "OB"
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    return file.getvalue()


# ---- frames of compressed pixels

BASELINE, LOSSLESS_JPEG, JPEG_2000 = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 70, 90))
RLE = "1.2.840.10008.1.2.5"
NOISE = np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8)
GREY = dict(Rows=32, Columns=32, PhotometricInterpretation="MONOCHROME2", SamplesPerPixel=1)


def coded(pixels: np.ndarray, kind: str = "JPEG", **how) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **how)
    return file.getvalue()


@pytest.mark.parametrize("extended", [True, False])
def test_frames_are_found_by_either_table_of_offsets(extended):
    frames = [coded(NOISE // part, "JPEG2000", no_jp2=True) for part in (1, 2, 3)]
    pixels, *tables = encapsulate_extended(frames) if extended else [encapsulate(frames)]
    header = pydicom.dcmread(io.BytesIO(dataset(frames[0], JPEG_2000, NumberOfFrames=3, **GREY)))
    header.PixelData = pixels
    if extended:
        header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths = tables
    file = io.BytesIO()
    header.save_as(file)
    for number in range(3):
        np.testing.assert_array_equal(read_pixels(file.getvalue(), frame=number), NOISE // (number + 1))


def test_frames_that_are_not_there_are_counted():
    file = dataset(coded(NOISE), BASELINE, NumberOfFrames=3, **GREY)
    assert read_pixels(file, frame=0).shape == (32, 32)
    with pytest.raises(ReadError, match="it holds 1 of its 3 frames"):
        read_pixels(file, frame=2)


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (BASELINE, coded(NOISE)),
        (JPEG_2000, coded(NOISE, "JPEG2000", no_jp2=True)),
        (RLE, struct.pack("<16I", 1, 64, *[0] * 14) + b"".join(bytes([31]) + bytes(row) for row in NOISE)),
    ],
)
def test_compressed_frames_that_the_header_does_not_speak_of_are_refused(syntax, frame, table):
    """The first of them was shown, or another one was the middle."""
    assert read_pixels(dataset(frame, syntax, **GREY)).shape == (32, 32)
    header = pydicom.dcmread(io.BytesIO(dataset(frame, syntax, NumberOfFrames=2, **GREY)))
    for frames in (2, 3):
        header.PixelData = encapsulate([frame] * frames, has_bot=table)
        file = io.BytesIO()
        header.save_as(file)
        if frames == 2:
            assert read_pixels(file.getvalue()).shape == (32, 32)
        else:
            with pytest.raises(ReadError, match="its pixels hold 3 frames, and its header describes 2"):
                read_pixels(file.getvalue())


def test_a_frame_in_several_fragments_is_one():
    frame = coded(NOISE)
    header = pydicom.dcmread(io.BytesIO(dataset(frame, BASELINE, **GREY)))
    header.PixelData = encapsulate([frame], fragments_per_frame=3, has_bot=False)
    file = io.BytesIO()
    header.save_as(file)
    np.testing.assert_array_equal(read_pixels(file.getvalue()), np.asarray(Image.open(io.BytesIO(frame))))


def test_pixels_that_the_header_describes_in_part_are_refused():
    """Half of the rows were shown, or the bytes of 16-bit values as pixels of 8 bits."""
    values = np.arange(96).reshape(1, 8, 12)
    assert read_pixels(image(values, bits=16)).shape == (8, 12)
    for tag, value in ((0x00280010, 4), (0x00280100, 8)):
        extra = [element(tag, "US", value), element(0x00280101, "US", 8)]
        with pytest.raises(ReadError, match="its pixels have 192 bytes, and its header describes 96"):
            read_pixels(image(values, bits=16, extra=extra))


@pytest.mark.parametrize(
    ("photometric", "bits", "values", "word"),
    [
        ("YBR_FULL", 16, np.zeros((1, 4, 4, 3)), "16 bits; up to 8"),
        ("MONOCHROME2", 64, np.zeros((1, 4, 4)), "floating"),
    ],
)
def test_values_that_no_decoder_turns_into_pixels_are_called_unsupported(photometric, bits, values, word):
    """They were called broken, "(ValueError)", or "64 of 64 bits"."""
    extra = [element(0x00280100, "US", bits), element(0x00280101, "US", bits)]
    with pytest.raises(UnsupportedFormat, match=word):
        read_pixels(image(values, bits=16, photometric=photometric, extra=extra))


def test_a_jpeg_without_its_end_is_refused():
    lossless = get_frame(pydicom.dcmread(get_testdata_file("JPEG-LL.dcm")).PixelData, 0, number_of_frames=1)
    sizes = dict(Rows=1024, Columns=256, PixelRepresentation=1, BitsAllocated=16, BitsStored=16, HighBit=15)
    for frame, syntax, form in ((coded(NOISE), BASELINE, {}), (lossless, LOSSLESS_JPEG, sizes)):
        assert read_pixels(dataset(frame, syntax, **(GREY | form))).any()
        with pytest.raises(ReadError, match="truncated"):
            read_pixels(dataset(frame[: len(frame) * 9 // 10], syntax, **(GREY | form)))


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_jpeg_whose_pixels_end_early_is_refused_though_its_end_is_there(syntax, samples):
    ramp = np.add.outer(np.arange(64) * 2, np.arange(48)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp if samples == 1 else np.stack([ramp] * 3, -1)).save(file, "JPEG")
    frame = file.getvalue()
    form = dict(Rows=64, Columns=48, SamplesPerPixel=samples)
    form["PhotometricInterpretation"] = "MONOCHROME2" if samples == 1 else "YBR_FULL_422"
    assert read_pixels(dataset(frame, syntax, **form)).any()
    with pytest.raises(ReadError, match="end before its last row"):
        read_pixels(dataset(frame[: len(frame) - 60] + b"\xff\xd9", syntax, **form))


def test_pixels_of_another_kind_than_the_header_says_are_called_so():
    with pytest.raises(ReadError, match="its pixels are JPEG, its header says JPEG 2000"):
        read_pixels(dataset(coded(NOISE), JPEG_2000, **GREY))
    with pytest.raises(ReadError, match="its pixels are JPEG 2000, its header says JPEG Baseline"):
        read_pixels(dataset(coded(NOISE, "JPEG2000", no_jp2=True), BASELINE, **GREY))


def test_a_jpeg_of_eight_bits_lies_in_words_of_sixteen_but_is_not_of_twelve_bits():
    words = GREY | dict(BitsAllocated=16)
    expected = np.asarray(Image.open(io.BytesIO(coded(NOISE))))
    np.testing.assert_array_equal(levels(dataset(coded(NOISE), BASELINE, **words)), expected)
    with pytest.raises(ReadError, match="holds 8 bits a sample, its header says 12"):
        read_pixels(dataset(coded(NOISE), BASELINE, **(words | dict(BitsStored=12, HighBit=11))))


def test_a_palette_without_one_of_its_tables_is_named():
    extra = [element(0x00281101 + one, "US", 256, 0, 8) for one in range(3)]
    extra += [element(0x00281201 + one, "OW", bytes(range(256))) for one in (0, 2)]
    file = image(np.arange(256).reshape(1, 16, 16), bits=8, photometric="PALETTE COLOR", extra=extra)
    with pytest.raises(ReadError, match=r"Green Palette Color Lookup Table Data \(0028,1202\) is missing"):
        read_pixels(file)


REAL = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "mlut_18.dcm",
    "vlut_04.dcm",
    "rtdose_1frame.dcm",
    "JPEG-LL.dcm",
]


@pytest.mark.skipif(not shutil.which("dcm2pnm"), reason="dcmtk is not installed")
@pytest.mark.parametrize("name", REAL)
def test_real_files_look_as_dcmtk_shows_them(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import dicom_reference

    outcome = dicom_reference.compare(Path(get_testdata_file(name)))
    assert outcome.word == "within two grey levels", outcome


def test_a_windows_function_counts_in_any_case_and_an_unknown_one_is_named():
    window = [element(0x00281050, "DS", 2048), element(0x00281051, "DS", 1000)]

    def of(function):
        return image(RAMP[None], bits=12, extra=[*window, element(0x00281056, "CS", function)])

    sigmoid = 255 / (1 + np.exp(-4 * (RAMP - 2048) / 1000))  # PS3.3 C.11.2.1.3.1
    np.testing.assert_allclose(levels(of("Sigmoid")), sigmoid, atol=1)
    with pytest.raises(ReadError, match="VOI LUT Function"):
        read_pixels(of("CUBIC"))
    bare = image(RAMP[None], bits=12, extra=[element(0x00281056, "CS", "CUBIC")])
    np.testing.assert_allclose(levels(bare), spread(RAMP), atol=1)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("shape", "sign"), [("IDENTITY", 1), ("INVERSE", -1)])
def test_the_presentation_lut_shape_says_which_end_is_white(photometric, shape, sign):
    file = image(RAMP[None], bits=12, photometric=photometric, extra=[element(0x20500020, "CS", shape)])
    np.testing.assert_allclose(levels(file), spread(sign * RAMP), atol=1)


def test_the_first_element_tells_explicit_from_implicit_whatever_the_file_says():
    explicit, implicit = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
    said_explicit = image(RAMP[None], bits=12)
    body = pydicom.filebase.DicomBytesIO()
    body.is_implicit_VR, body.is_little_endian = True, True
    pydicom.filewriter.write_dataset(body, pydicom.dcmread(io.BytesIO(said_explicit)))
    for file in (
        said_explicit.replace(explicit.encode() + b"\0", implicit.encode() + b"\0\0\0"),
        dicom({0: body.getvalue()}, explicit),
        dicom({0: body.getvalue()}, implicit),
    ):
        np.testing.assert_allclose(levels(file), spread(RAMP), atol=1)


def saved(data: pydicom.Dataset) -> bytes:
    written = io.BytesIO()
    data.save_as(written, enforce_file_format=True)
    return written.getvalue()


@pytest.mark.parametrize("photometric", ["YBR_FULL", "YBR_FULL_422", "RGB", "YBR_RCT"])
def test_a_jpeg_2000_whose_decoder_gives_rgb_is_not_turned_into_rgb_again(photometric):
    grey = np.kron(RAMP // 16, np.ones((4, 4), int))
    colours = np.stack([grey, 255 - grey, grey // 2], axis=2).astype(np.uint8)
    data = pydicom.dcmread(io.BytesIO(image(colours[None], bits=8, photometric="YBR_RCT")))
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    data.compress(JPEG2000Lossless)
    stream = get_frame(data.PixelData, 0, number_of_frames=1)
    assert stream[stream.find(b"\xff\x52") + 8] == 1  # the codestream's own multiple component transform
    data.PhotometricInterpretation = photometric
    np.testing.assert_array_equal(read_pixels(saved(data)), colours)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, JPEGBaseline8Bit])
def test_planes_that_a_header_speaks_of_do_not_part_compressed_colours(syntax):
    grey = np.kron(RAMP // 16, np.ones((4, 4), int))
    colours = np.stack([grey, 255 - grey, grey // 2], axis=2).astype(np.uint8)
    data = pydicom.dcmread(io.BytesIO(image(colours[None], bits=8, photometric="RGB")))
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    if syntax == JPEGBaseline8Bit:
        file = io.BytesIO()
        Image.fromarray(colours).save(file, "JPEG", quality=100, subsampling=0)
        data.PixelData, data.PhotometricInterpretation = encapsulate([file.getvalue()]), "YBR_FULL"
        data["PixelData"].is_undefined_length, data["PixelData"].VR = True, "OB"
        data.file_meta.TransferSyntaxUID = syntax
    else:
        data.compress(syntax)
    data.PlanarConfiguration = 1
    np.testing.assert_allclose(read_pixels(saved(data)), colours, atol=4 * (syntax == JPEGBaseline8Bit))


def rle(*planes: np.ndarray, order: tuple[int, ...] | None = None, n: int | None = None) -> bytes:
    """A frame of literal runs of up to 128 bytes (PS3.5 G.3), its segments named in `order`."""
    places, coded = [], b""
    for plane in planes:
        places.append(64 + len(coded))
        for row in plane.astype(np.uint8):
            coded += bytes([len(row) - 1]) + row.tobytes()
        coded += b"\0" * (len(coded) % 2)
    places = [places[number] for number in order or range(len(places))]
    return struct.pack("<16I", n or len(planes), *places, *[0] * (15 - len(places))) + coded


def words(values: np.ndarray, frame: bytes, stored: int = 12) -> bytes:
    rows, columns = values.shape
    return dataset(
        frame, RLELossless, Rows=rows, Columns=columns, SamplesPerPixel=1, BitsAllocated=16, BitsStored=stored,
        HighBit=stored - 1, PhotometricInterpretation="MONOCHROME2",
    )  # fmt: skip


def test_rle_segments_that_are_not_the_headers_are_refused():
    high, low = RAMP >> 8, RAMP & 255
    np.testing.assert_allclose(levels(words(RAMP, rle(high, low))), spread(RAMP), atol=1)
    for frame, word in (
        (rle(low, high), "swapped"),
        (rle(high, low, order=(1, 0)), "follow"),
        (rle(high, low, order=(0, 0)), "follow"),
        (rle(low), "1 segments"),
        (rle(high, low, low), "3 segments"),
        (rle(high, low, n=15), "15 segments"),
    ):
        with pytest.raises(ReadError, match=word):
            read_pixels(words(RAMP, frame))


def test_swapped_bytes_are_refused_and_overlays_above_the_stored_bits_are_not():
    with pytest.raises(ReadError, match="swapped"):
        read_pixels(image(RAMP.astype(np.uint16).byteswap()[None], bits=12))
    marked = RAMP + np.where(np.arange(16) < 8, 0x1000, 0)
    np.testing.assert_array_equal(levels(image(marked[None], bits=12)), levels(image(RAMP[None], bits=12)))
    assert not levels(image((marked - RAMP)[None], bits=12)).any()  # on black
