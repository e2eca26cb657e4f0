"""Real DICOM files: those of pydicom and pydicom-data, and the shared ones."""

import hashlib
import hmac
import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.pixels.decoders.base import get_decoder

from medclf.errors import MedclfError, MissingDecoder, ReadError, TooLarge, UnsupportedFormat
from medclf.images import dicom, dicom_frames
from medclf.images.reading import check, probe, read_pixels

# One of each transfer syntax, signedness and colour model that pydicom has a file of
PLAIN = [
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_padded.dcm",
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "JPGExtended.dcm",
    "explicit_VR-UN.dcm",
    "image_dfl.dcm",
    "mlut_18.dcm",
    "vlut_04.dcm",
    "examples_overlay.dcm",
    "MR-SIEMENS-DICOM-WithOverlays.dcm",
    "rtdose_1frame.dcm",
    "JPEG-LL.dcm",
    "693_UNCR.dcm",
]
COLOUR = [
    "examples_rgb_color.dcm",
    "examples_jpeg2k.dcm",
    "GDCMJ2K_TextGBR.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_small_odd.dcm",
    "SC_rgb_small_odd_big_endian.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "SC_ybr_full_uncompressed.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "ExplVR_BigEnd.dcm",
    "color-pl.dcm",
    "US1_UNCI.dcm",
]


def of_pydicom(name: str) -> Path:
    return Path(get_testdata_file(name))


@pytest.fixture(scope="module")
def quiet_pydicom():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def shown_by_pydicom(path: Path) -> np.ndarray:
    """pydicom's own pipeline, as fractions of the display's range; unwindowed values as they are."""
    dataset = pydicom.dcmread(path)
    values = apply_modality_lut(pixel_array(dataset), dataset).astype(np.float64)
    windowed = "WindowCenter" in dataset or "VOILUTSequence" in dataset
    if windowed:
        values = apply_voi_lut(apply_modality_lut(pixel_array(dataset), dataset), dataset).astype(np.float64)
    padding = dataset.get("PixelPaddingValue")
    kept = values[pixel_array(dataset) != padding] if padding is not None and not windowed else values
    whole_range = dataset.BitsStored <= 8 and not windowed and dataset.get("RescaleSlope", 1) == 1
    low, high = (0, 255) if whole_range else (kept.min(), kept.max())
    fraction = ((values - low) / (high - low)).clip(0, 1)
    return 1 - fraction if dataset.PhotometricInterpretation == "MONOCHROME1" else fraction


@pytest.mark.usefixtures("quiet_pydicom")
@pytest.mark.parametrize("name", PLAIN)
def test_grey_files_look_as_pydicoms_own_pipeline_shows_them(name):
    found = read_pixels(of_pydicom(name)).astype(np.float64)
    found /= 65535 if found.max() > 255 else 255
    expected = shown_by_pydicom(of_pydicom(name))
    # pydicom's range after its VOI step may be wider than the display's, so compare up to a straight line
    if expected.std() == 0:
        assert found.std() == 0
    else:
        spread = np.polyfit(expected.ravel(), found.ravel(), 1)
        np.testing.assert_allclose(np.polyval(spread, expected), found, atol=0.01)
        assert spread[0] > 0


@pytest.mark.usefixtures("quiet_pydicom")
@pytest.mark.parametrize("name", COLOUR)
def test_colour_files_equal_pydicoms_rgb(name):
    np.testing.assert_array_equal(read_pixels(of_pydicom(name)), pixel_array(of_pydicom(name)))


@pytest.mark.usefixtures("quiet_pydicom")
@pytest.mark.parametrize(
    "name", ["examples_palette.dcm", "OBXXXX1A_rle.dcm", "gdcm-US-ALOKA-16.dcm", "gdcm-US-ALOKA-16_big.dcm"]
)
def test_palettes_equal_pydicoms(name):
    dataset = pydicom.dcmread(of_pydicom(name))
    expected = apply_color_lut(pixel_array(dataset), dataset)
    np.testing.assert_array_equal(read_pixels(of_pydicom(name)), expected)


@pytest.mark.usefixtures("quiet_pydicom")
@pytest.mark.parametrize(
    "name",
    [
        "emri_small.dcm",
        "emri_small_RLE.dcm",
        "emri_small_big_endian.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
        "rtdose_rle.dcm",
        "rtdose_expb.dcm",
        "liver.dcm",
        "examples_ybr_color.dcm",
    ],
)
def test_each_frame_is_the_one_asked_for(name):
    path = of_pydicom(name)
    frames = pixel_array(path)
    for frame, index in ((0, 0), ("middle", len(frames) // 2), ("last", len(frames) - 1)):
        found, stored = read_pixels(path, frame=frame), frames[index]
        if stored.ndim == 3:  # baseline JPEG: Pillow's decoder here, libjpeg's there
            np.testing.assert_allclose(found, stored.astype(int), atol=4)
        elif stored.std():
            assert np.corrcoef(found.ravel(), stored.ravel().astype(float))[0, 1] > 0.98
    with pytest.raises(ReadError, match="has no frame"):
        read_pixels(path, frame=len(frames))


def test_lossless_encodings_of_one_image_give_one_result():
    raw = read_pixels(of_pydicom("MR_small.dcm"))
    for form in ("RLE", "bigendian", "implicit", "jp2klossless", "jpeg_ls_lossless", "expb"):
        np.testing.assert_array_equal(read_pixels(of_pydicom(f"MR_small_{form}.dcm")), raw)


def test_only_the_chosen_frame_is_decoded():
    dataset = pydicom.dcmread(of_pydicom("emri_small_jpeg_2k_lossless.dcm"))
    frames = list(generate_frames(dataset.PixelData, number_of_frames=10))
    broken = [frame if index == 5 else b"\xff\x4f\xff\x51broken" for index, frame in enumerate(frames)]
    dataset.PixelData = encapsulate(broken)
    file = io.BytesIO()
    dataset.save_as(file)
    np.testing.assert_array_equal(
        read_pixels(file.getvalue(), frame=5), read_pixels(of_pydicom("emri_small_jpeg_2k_lossless.dcm"), frame=5)
    )
    with pytest.raises(ReadError):
        read_pixels(file.getvalue(), frame=4)


def test_a_long_loop_is_as_large_as_one_of_its_frames():
    """Breast tomosynthesis and cine loops hold more pixels than one image may, of which one frame's are decoded."""
    file = get_testdata_file("rtdose.dcm")  # 15 frames of 10 x 10
    assert read_pixels(file, max_megapixels=200 / 1e6).shape == (10, 10)
    with pytest.raises(TooLarge, match="10 x 10 x 1"):
        read_pixels(file, max_megapixels=99 / 1e6)


def test_missing_decoder_names_the_syntax_and_the_pip_line(monkeypatch):
    syntax = pydicom.uid.JPEGLSLossless
    monkeypatch.setattr(get_decoder(syntax), "_available", {})
    with pytest.raises(MissingDecoder) as caught:
        read_pixels(of_pydicom("MR_small_jpeg_ls_lossless.dcm"))
    assert "JPEG-LS Lossless" in caught.value.reason
    assert 'pip install "medclf[dicom]"' in caught.value.remedy


def test_without_pylibjpeg_pillow_reads_what_it_can_and_names_the_rest(monkeypatch):
    for syntax in (pydicom.uid.JPEGExtended12Bit, pydicom.uid.JPEGBaseline8Bit):
        decoder = get_decoder(syntax)
        monkeypatch.setattr(decoder, "_available", {"pillow": decoder._available["pillow"]})
    assert read_pixels(of_pydicom("SC_rgb_jpeg.dcm")).shape == (256, 256, 3)
    with pytest.raises(MissingDecoder, match="JPEG Extended"):
        read_pixels(of_pydicom("JPGExtended.dcm"))


def test_video_is_refused_by_name():
    dataset = pydicom.dcmread(of_pydicom("SC_rgb_rle.dcm"))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG4HP41
    file = io.BytesIO()
    dataset.save_as(file)
    with pytest.raises(UnsupportedFormat, match="MPEG-4"):
        read_pixels(file.getvalue())


def test_files_without_an_image_say_so():
    for name, words in (
        ("rtplan.dcm", "without pixels"),
        ("MR_truncated.dcm", "truncated"),
        ("nested_priv_SQ.dcm", "it lacks Rows"),
        ("rtplan_truncated.dcm", "truncated"),
    ):
        with pytest.raises(ReadError, match=words):
            read_pixels(of_pydicom(name))
    with pytest.raises(ReadError, match="without pixels"):
        probe(of_pydicom("rtplan.dcm"))


def test_every_shared_file_reads(shared_data):
    read = 0
    for path in sorted(shared_data.glob("dicom/*/*.dcm")):
        if path.parent.name == "siim-cxr35" and path.stem not in ("1", "20"):
            continue
        pixels = read_pixels(path)
        found = probe(path)
        assert pixels.shape[:2] == (found.height, found.width)
        assert pixels.dtype == (np.uint16 if found.bits > 8 else np.uint8)
        assert pixels.std() > 0
        read += 1
    assert read > 20


def test_lossless_files_of_one_radiograph_agree_and_lossy_ones_come_near(shared_data):
    folder = shared_data / "dicom" / "syntaxes"
    reference = read_pixels(folder / "RG3_RLE.dcm").astype(float)
    for name in ("J2KR", "JLSL", "JPLL"):
        np.testing.assert_array_equal(read_pixels(folder / f"RG3_{name}.dcm"), reference)
    for name in ("J2KI", "JLSN", "JPLY"):
        assert np.abs(read_pixels(folder / f"RG3_{name}.dcm") - reference).mean() < 0.01 * 65535, name


def test_monochrome1_is_the_monochrome2_file_turned_round(shared_data):
    folder = shared_data / "dicom" / "cr-chest"
    plain = read_pixels(next(folder.glob("siim*")))
    np.testing.assert_array_equal(read_pixels(folder / "xrv_Fake_MONOHR1.dcm"), 255 - plain)


def test_segmented_palette_is_expanded():
    # PS3.3 C.7.9.2: opcode 0 discrete (length, values), opcode 1 linear (length, last value)
    dataset = pydicom.dcmread(of_pydicom("examples_palette.dcm"))
    segments = struct.pack("<7H", 0, 2, 0, 1000, 1, 4, 5000)
    for colour in ("Red", "Green", "Blue"):
        del dataset[f"{colour}PaletteColorLookupTableData"]
        setattr(dataset, f"Segmented{colour}PaletteColorLookupTableData", segments)
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [6, 0, 16])
    dataset.Rows, dataset.Columns, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 8, 8, 8, 7
    dataset.PixelData = bytes(range(8))
    file = io.BytesIO()
    dataset.save_as(file)
    expected = [0, 1000, 2000, 3000, 4000, 5000, 5000, 5000]
    assert read_pixels(file.getvalue())[0, :, 1].tolist() == expected


MARKER = "ZZCANARY"


def marked(path: Path) -> bytes:
    """The file with a marker in every text attribute that can hold one, beside those that make the image."""
    dataset = pydicom.dcmread(path)
    for element in dataset:
        if element.tag.group not in (0x0028, 0x7FE0) and element.VR in ("LO", "SH", "PN", "ST", "LT", "UT", "CS"):
            element.value = MARKER + " HELLO" if element.VR != "CS" else MARKER
    dataset.PatientID, dataset.PatientName = MARKER + "ID", MARKER + "^NAME"
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
def test_safe_header_lets_out_its_list_alone():
    found = dicom.safe_header(of_pydicom("CT_small.dcm"))
    assert found == {
        "modality": "CT",
        "body_part": None,
        "view_position": None,
        "photometric_interpretation": "MONOCHROME2",
        "burned_in_annotation": None,
        "rows": 128,
        "columns": 128,
        "frames": None,
        "bits_allocated": 16,
        "bits_stored": 16,
        "rescale_slope": 1,
        "rescale_intercept": -1024,
        "window_center": None,
        "window_width": None,
    }
    dataset = pydicom.dcmread(of_pydicom("CT_small.dcm"))
    dataset.BodyPartExamined, dataset.ViewPosition = f"chest of {MARKER} Doe", "PA"
    file = io.BytesIO()
    dataset.save_as(file)
    found = dicom.safe_header(file.getvalue())
    assert (found["body_part"], found["view_position"]) == (None, "PA")


def test_pydicoms_log_and_warnings_stay_quiet(caplog, recwarn):
    # where a number should stand pydicom quotes what stands there instead, in a warning and in its log
    frames = struct.pack("<HH2sH", 0x0028, 0x0008, b"IS", 2) + b"15"
    whole = of_pydicom("rtdose_rle.dcm").read_bytes()
    wrong = frames[:6] + struct.pack("<H", len(MARKER)) + MARKER.encode()
    assert frames in whole
    caplog.set_level("DEBUG")
    with pytest.raises(ReadError) as caught:
        read_pixels(whole.replace(frames, wrong))
    assert MARKER not in f"{caught.value!r} {caplog.text} {[str(warning.message) for warning in recwarn]}"


def test_patient_key_is_an_hmac_of_the_id():
    key = bytes(range(32))
    found = dicom.patient_key(of_pydicom("CT_small.dcm"), key)
    identifier = pydicom.dcmread(of_pydicom("CT_small.dcm")).PatientID
    assert found == hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:16]
    assert dicom.patient_key(of_pydicom("CT_small.dcm"), key[::-1]) != found
    with pytest.raises(MedclfError, match="16 bytes"):
        dicom.patient_key(of_pydicom("CT_small.dcm"), b"short")
    with pytest.raises(UnsupportedFormat, match="not a DICOM"):
        dicom.patient_key(b"\x89PNG\r\n\x1a\n" + bytes(200), key)
    dataset = pydicom.dcmread(of_pydicom("CT_small.dcm"))
    dataset.PatientID = "  "
    file = io.BytesIO()
    dataset.save_as(file)
    assert dicom.patient_key(file.getvalue(), key) is None


@pytest.mark.filterwarnings("ignore")
def test_no_error_warning_or_log_quotes_the_header(recwarn, caplog):
    caplog.set_level("DEBUG")
    whole = marked(of_pydicom("MR_small.dcm"))
    caplog.clear()
    rng = np.random.default_rng(0)
    messages = []
    recwarn.clear()
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(132, 2000, 4):
            data[place] = rng.integers(256)
        try:
            dicom.safe_header(bytes(data))
            dicom.patient_key(bytes(data), bytes(32))
            check(bytes(data))
        except ReadError as error:
            messages.append(f"{error!r} {error.__cause__} {'' if error.__suppress_context__ else error.__context__}")
    messages += [str(warning.message) for warning in recwarn] + [caplog.text]
    assert len(messages) > 20
    assert MARKER not in " ".join(messages)


def test_reading_leaves_the_warning_filters_alone():
    before = list(warnings.filters)
    read_pixels(of_pydicom("CT_small.dcm"))
    assert warnings.filters == before


def test_pydicom_parses_only_what_is_listed(monkeypatch):
    seen = []
    original = dicom._dataset

    def watched(elements, layout, path):
        dataset = original(elements, layout, path)
        seen.append({int(element.tag) for element in dataset})
        return dataset

    monkeypatch.setattr(dicom, "_dataset", watched)
    read_pixels(of_pydicom("CT_small.dcm"))
    assert seen and all(tags <= dicom._IMAGE_TAGS for tags in seen)
    assert dicom_frames.Form.__dataclass_fields__.keys() >= {"rows", "photometric"}
