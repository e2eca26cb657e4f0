"""What a scan says of DICOM objects that are no pictures, of mixed kinds, of black images and of few levels."""

import io
import re
import warnings

import numpy as np
import pydicom
import pytest
from PIL import Image

from medclf.dataset.kinds import other_windows, why_no_picture, window_warnings
from medclf.dataset.scan import inspect, scan
from medclf.errors import MedclfError, MedclfWarning
from medclf.images import dicom
from medclf.images.dicom import Origin
from medclf.images.dicom_layout import read_layout
from medclf.learn.stores import decoding

CT, MR, CAPTURE = (f"1.2.840.10008.5.1.4.1.1.{kind}" for kind in ("2", "4", "7"))


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_PATIENT_KEY", str(tmp_path / "key"))


def write(path, sop_class=CT, modality="CT", seed=0, **values) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = pydicom.Dataset()
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    header.SOPClassUID, header.SOPInstanceUID, header.SeriesInstanceUID = sop_class, f"1.2.{seed}", f"1.3.{seed % 2}"
    header.Modality, header.PatientID, header.PhotometricInterpretation = modality, f"p{seed}", "MONOCHROME2"
    header.Rows = header.Columns = 8
    header.BitsAllocated = header.BitsStored = 16
    header.SamplesPerPixel, header.PixelRepresentation, header.HighBit = 1, 0, 15
    header.PixelData = np.random.default_rng(seed).integers(0, 3000, (8, 8)).astype("<u2").tobytes()
    header["PixelData"].VR = "OW"
    for name, value in values.items():
        setattr(header, name, value)
    file = io.BytesIO()
    header.save_as(file, enforce_file_format=True)
    path.write_bytes(file.getvalue())


def noted(folder, **how):
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        table = scan(folder, progress=False, **how)
    return table, "\n".join(str(one.message) for one in record if issubclass(one.category, MedclfWarning))


@pytest.fixture
def study(tmp_path):
    for seed in range(6):
        hounsfield = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 400, "WindowWidth": 3000}
        write(tmp_path / "set" / "ab"[seed % 2] / f"{seed}.dcm", seed=seed, **hounsfield)
    return tmp_path / "set"


def test_modality_class_and_series_stand_in_the_table(study):
    table, said = noted(study)
    assert said == ""
    assert set(table["modality"]) == {"CT"} and set(table["sop_class"]) == {"CT Image Storage"}
    assert table["series"].nunique() == 2 and not table["series"].str.contains("1.3", regex=False).any()


@pytest.mark.parametrize(
    ("sop_class", "modality", "word"),
    [
        ("66.4", "SEG", "segmentation"),
        ("481.2", "RTDOSE", "dose"),
        ("30", "MR", "parametric"),
        ("66.7", "SEG", "label map"),
    ],
)
def test_what_is_no_picture_is_left_out_by_name(study, sop_class, modality, word):
    write(study / "a" / "odd.dcm", f"1.2.840.10008.5.1.4.1.1.{sop_class}", modality, seed=9)
    for check_pixels in (True, False, decoding(cache=False, progress=False)):
        table, said = noted(study, check_pixels=check_pixels)
        assert word in table.set_index("path")["problem"]["a/odd.dcm"]
        assert "a/odd.dcm" in said and word in said
    assert why_no_picture(Origin("CT", CT, "")) == ""


def test_mixed_kinds_are_told(study):
    write(study / "a" / "mr.dcm", MR, "MR", seed=10)
    write(study / "b" / "screen.dcm", CAPTURE, "CT", seed=11)
    write(study / "b" / "slide.dcm", "1.2.840.10008.5.1.4.1.1.77.1.6", "SM", seed=12)
    _, said = noted(study)
    for word in (
        "mix modalities: 7 CT, 1 MR, 1 SM",
        "1 of 9 DICOM files are secondary captures",
        "b/slide.dcm",
        "tile",
    ):
        assert word in said


def test_a_window_that_some_files_refuse_is_found_with_and_without_a_cache(study, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    write(study / "a" / "mr.dcm", MR, "MR", seed=10)
    for cache in (True, False):
        check = decoding(cache=cache, size=8, window="lung", progress=False)
        table, said = noted(study, check_pixels=check)
        assert list(table.loc[table["problem"] != "", "path"]) == ["a/mr.dcm"] and "a/mr.dcm" in said


def test_black_and_flat_images_are_told(study, tmp_path):
    write(study / "a" / "flat.dcm", seed=13, WindowCenter=-5000, WindowWidth=10, RescaleSlope=1, RescaleIntercept=0)
    assert "show one grey only (a/flat.dcm)" in noted(study)[1]
    Image.new("RGB", (8, 8)).save(study / "b" / "black.png")
    assert "all black (b/black.png)" in noted(study)[1]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize(("low", "high"), [(0, 4095), (32000, 34000), (0, 65535)])
def test_sixteen_bits_that_use_little_of_their_range_are_told(tmp_path, monkeypatch, low, high, cache):
    monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / "cache"))
    for number in range(6):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.linspace(low, high, 4096).reshape(64, 64)
        Image.fromarray(np.roll(values, number).astype(np.uint16)).save(path)
    _, said = noted(tmp_path / "set", check_pixels=decoding(cache=cache, size=64, progress=False))
    narrow = high - low < 5000
    assert ("6 of 6 images hold more than 8 bits" in said) == narrow == (f"from {low} to {high}" in said)
    window = (low + high + 1) / 2, high - low + 1
    for chosen in (window, "stretch"):
        check = decoding(cache=cache, size=64, window=chosen, progress=False)
        assert noted(tmp_path / "set", check_pixels=check)[1] == ""


@pytest.mark.parametrize(("window", "said"), [((40, 400), "window=(40, 400)"), ("lung", 'window="lung"')])
def test_a_window_for_pictures_of_8_bits_is_said_to_change_nothing(tmp_path, window, said):
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    assert window_warnings([tmp_path / "a.png"], window)[0].startswith(f"{said} changes nothing")


def test_a_window_for_deep_images_is_not_spoken_of(tmp_path):
    Image.new("L", (8, 8), 90).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 8), 900, np.uint16)).save(tmp_path / "b.png")
    both = [tmp_path / "a.png", tmp_path / "b.png"]
    assert window_warnings(both, (40, 400)) == [] == window_warnings(both[:1], "stretch") == window_warnings([], (1, 2))


@pytest.mark.parametrize("frame", ["middle", "all"])
def test_volumes_whose_directions_are_guessed_are_named(tmp_path, frame):
    """Their left and right, or front and back, may be the other way round."""
    nib = pytest.importorskip("nibabel")
    for name, affine in (("a", None), ("b", np.diag([1, 1, 3, 1]))):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(0).integers(0, 900, (6, 5, 4)).astype(np.int16)
        nib.save(nib.Nifti1Image(values, affine), tmp_path / name / f"{name}.nii.gz")
    notes = scan(tmp_path, frame=frame, progress=False).attrs["notes"]
    (said,) = (note for note in notes if "in space" in note)
    assert said.startswith("1 of 2 NIfTI volumes does not say how it lies in space (a/a.nii.gz)")


def test_volumes_with_voxels_without_a_value_are_named(tmp_path):
    nib = pytest.importorskip("nibabel")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(0).uniform(0, 1, (6, 5, 4)).astype(np.float32)
        values[0] = np.nan if name == "a" else 0
        nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / name / "1.nii")
    notes = scan(tmp_path, progress=False).attrs["notes"]
    assert any(note.startswith("1 of 2 NIfTI volumes has voxels without a value (NaN) (a/1.nii)") for note in notes)
    whole = (tmp_path / "a" / "1.nii").read_bytes()
    (tmp_path / "a" / "1.nii").write_bytes(whole[:-9])
    assert not any("NaN" in note for note in scan(tmp_path, check_pixels=False, progress=False).attrs["notes"])


def test_a_dicom_image_whose_window_leaves_few_levels_is_told(study):
    write(study / "a" / "narrow.dcm", seed=13, WindowCenter=1500, WindowWidth=300, Rows=8, Columns=8)
    assert "few grey levels of many (a/narrow.dcm)" in noted(study)[1]
    assert "few grey levels" not in noted(study, window="stretch")[1]


def test_windows_of_their_own_are_counted_and_held_against_those_of_a_training(study):
    write(study / "a" / "other.dcm", seed=13, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=400)
    write(study / "b" / "none.dcm", seed=14)
    table, _ = noted(study)
    shown = table.attrs["own_windows"]
    assert shown == {"400,3000": 6, "40,400": 1, "no window": 1}
    assert "own_windows" not in noted(study, window="stretch")[0].attrs
    assert other_windows(shown, shown) == [] == other_windows({}, shown) == other_windows(shown, {})
    (said,) = other_windows({"400,3000": 6}, shown)
    assert said.startswith("2 images are shown") and "no training image had: 40,400, no window; " in said


def test_the_window_for_a_dim_volume_is_in_its_own_values(tmp_path):
    """It was told in the grey levels that the volume had been spread to, which as a window show nothing."""
    nib = pytest.importorskip("nibabel")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        values = np.random.default_rng(0).uniform(-0.5, 0.5, (40, 40, 3)).astype(np.float32)
        values[0, 0, 0] = 50  # one bright voxel, in another slice
        nib.save(nib.Nifti1Image(values, np.diag([1, 1, 3, 1])), tmp_path / name / f"{name}.nii")
    (said,) = (one for one in scan(tmp_path, progress=False).attrs["notes"] if "little of their range" in one)
    low, high = (float(one) for one in re.search(r"from (\S+) to (\S+)\. Use", said).groups())
    assert low == pytest.approx(-0.5, abs=0.01) and high == pytest.approx(0.5, abs=0.01)
    center, width = (float(one) for one in re.search(r"window=\((\S+), (\S+)\) for all", said).groups())
    assert (center, width) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


def test_dicom_images_without_a_window_are_counted(tmp_path):
    """Some were shown through their window and others from their smallest to their largest value, without a word."""
    for k in range(4):
        own = {"WindowCenter": 900, "WindowWidth": 700} if k == 1 else {}
        eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelData": bytes(range(64))} if k == 3 else {}
        write(tmp_path / "ab"[k % 2] / f"{k}.dcm", seed=k, **own, **eight)
    (said,) = (one for one in scan(tmp_path, progress=False).attrs["notes"] if "window" in one)
    assert said.startswith(
        "2 of 4 DICOM images give no window (a/0.dcm, a/2.dcm). Without window= each such image goes"
    )
    assert not any("give no window" in one for one in scan(tmp_path, progress=False, window=(900, 700)).attrs["notes"])
    with pytest.raises(MedclfError, match="no name 'brian'"):
        scan(tmp_path, progress=False, window="brian")


def test_ct_images_of_different_windows_of_their_own_are_told(study):
    """The same Hounsfield value was another grey from file to file without a word."""
    assert "windows of their own" not in noted(study)[1]
    lung = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": -600, "WindowWidth": 1500}
    write(study / "a" / "0.dcm", seed=0, **lung)
    told = "6 CT images are shown through 2 windows of their own: 400,3000 (5 images), -600,1500 (1 image, a/0.dcm). "
    assert told in noted(study)[1] and "such as window=(400, 3000)" in noted(study)[1]
    assert "windows of their own" not in noted(study, window="lung")[1]


def test_windows_of_values_that_are_no_hounsfield_units_are_each_images_own(tmp_path):
    for seed, center in enumerate((300, 900)):
        write(tmp_path / "ab"[seed] / "1.dcm", MR, "MR", seed, WindowCenter=center, WindowWidth=700)
    assert "windows of their own" not in noted(tmp_path)[1]


def test_a_header_is_looked_at_once_beside_the_decoding(study, monkeypatch):
    looks = []
    monkeypatch.setattr(dicom, "read_layout", lambda *given: looks.append(given) or read_layout(*given))
    assert inspect(study / "a" / "0.dcm", "file").window == (400, 3000) and len(looks) == 1
