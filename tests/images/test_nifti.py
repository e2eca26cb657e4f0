"""NIfTI volumes as slices: turned as radiologists look at them, scaled alike, and hostile ones named."""

from __future__ import annotations

import gzip
import sys
import zlib

import numpy as np
import pytest

from medclf.errors import MissingDecoder, ReadError, TooLarge, UnsupportedFormat
from medclf.images.reading import probe, read_pixels

nib = pytest.importorskip("nibabel")
SPACING = (2.0, 2.0, 5.0)


def volume(dtype=np.int16):
    """(right, anterior, superior): 100, but for one voxel of 900: right, anterior, second slice from below."""
    values = np.full((10, 8, 4), 100, dtype)
    values[8, 7, 1] = 900
    return values


def save(path, values, affine=None, kind=None, **header):
    image = (kind or nib.Nifti1Image)(values, np.diag([*SPACING, 1]) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def stored_as(values, codes):
    """The same volume with axes in another order and direction, such as LPS, and its affine."""
    image = nib.Nifti1Image(values, np.diag([*SPACING, 1]))
    wanted = nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "PIR"])
@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_an_axial_slice_shows_the_patients_right_on_the_left_and_anterior_at_the_top(tmp_path, codes, name):
    file = save(tmp_path / name, *stored_as(volume(), codes))
    found = read_pixels(file, frame=1)
    assert found.shape == (8, 10) and found.dtype == np.uint16
    assert np.argwhere(found == 65535).tolist() == [[0, 1]]  # anterior is the first row, right among the first columns
    assert not read_pixels(file, frame=0).any()  # the scale is the volume's
    assert probe(file)[:6] == ("NIfTI", 10, 8, 16, 4, 1)


def test_slices_are_cut_across_the_thickest_voxels(tmp_path):
    file = save(tmp_path / "v.nii", volume(), np.diag([6.0, 1.0, 1.0, 1.0]))
    assert probe(file).n_frames == 10
    found = read_pixels(file, frame=8)  # sagittal: the head at the top, anterior on the left
    assert found.shape == (4, 8) and np.argwhere(found == 65535).tolist() == [[2, 0]]


def test_a_window_is_in_the_volumes_values(tmp_path):
    image = nib.Nifti1Image(volume(), np.diag([*SPACING, 1]))
    image.header.set_slope_inter(2, -100)  # values 100 and 1700
    nib.save(image, tmp_path / "v.nii")
    stored = np.asarray(nib.load(tmp_path / "v.nii").dataobj)[0, 0, 0]
    found = read_pixels(tmp_path / "v.nii", frame=1, window=(stored, 1001))
    assert abs(int(found[4, 4]) - 32767) < 70 and found.max() == 65535
    with pytest.raises(ReadError, match="Hounsfield"):
        read_pixels(tmp_path / "v.nii", window="lung")


def test_a_window_of_fractions_is_no_step(tmp_path):
    """A window of width 1 made black and white of values between 0 and 1, as DICOM's does of whole numbers."""
    values = np.linspace(0, 1, 5, dtype=np.float32).reshape(5, 1, 1) * np.ones((1, 4, 3), np.float32)
    found = read_pixels(save(tmp_path / "v.nii", values), window=(0.5, 1))
    assert found[0, ::-1].tolist() == [0, 16384, 32768, 49151, 65535]


def test_bytes_are_grey_levels_already_and_a_second_edition_is_read(tmp_path):
    values = np.arange(80, dtype=np.uint8).reshape(10, 8, 1)
    file = save(tmp_path / "v.nii", values, kind=nib.Nifti2Image)
    np.testing.assert_array_equal(read_pixels(file.read_bytes()), values[::-1, ::-1, 0].T)


def test_several_volumes_and_odd_voxels_are_refused_by_name(tmp_path):
    with pytest.raises(UnsupportedFormat, match="several volumes"):
        read_pixels(save(tmp_path / "4d.nii", np.zeros((4, 4, 4, 3), np.int16)))
    with pytest.raises(UnsupportedFormat, match="complex"):
        read_pixels(save(tmp_path / "c.nii", np.zeros((4, 4, 4), np.complex64)))
    with pytest.raises(ReadError, match="no value"):
        read_pixels(save(tmp_path / "n.nii", np.full((4, 4, 4), np.nan, np.float32)))


@pytest.mark.parametrize("window", [None, "stretch", (50, 100)])
def test_voxels_without_a_value_are_black_and_change_no_other(tmp_path, window):
    values = np.random.default_rng(0).uniform(0, 100, (6, 5, 4)).astype(np.float32)
    whole = read_pixels(save(tmp_path / "w.nii", values), window=window, frame=1)
    values[0, 0] = np.nan  # neither the smallest nor the largest
    found = read_pixels(save(tmp_path / "n.nii", values), window=window, frame=1)
    assert found[-1, -1] == 0
    found[-1, -1] = whole[-1, -1]
    np.testing.assert_array_equal(found, whole)
    values[:, :, 1] = np.nan
    assert not read_pixels(save(tmp_path / "e.nii", values), window=window, frame=1).any()
    values[1, 1, 1] = np.inf
    with pytest.raises(ReadError, match="infinite"):
        read_pixels(save(tmp_path / "i.nii", values))


def test_broken_and_hostile_files_raise_read_errors_alone(tmp_path):
    whole = save(tmp_path / "v.nii", volume()).read_bytes()
    packed = save(tmp_path / "v.nii.gz", volume()).read_bytes()
    huge = bytearray(whole)
    huge[42:48] = np.array([32767] * 3, "<i2").tobytes()
    with pytest.raises(TooLarge):
        read_pixels(bytes(huge))
    rng = np.random.default_rng(0)
    for source in (whole, packed):
        with pytest.raises(ReadError):
            read_pixels(source[: len(source) * 2 // 3])
        for _ in range(150):
            changed = bytearray(source)
            for place in rng.integers(0, min(352, len(source)), 6):
                changed[place] = rng.integers(256)
            try:
                assert read_pixels(bytes(changed)).ndim in (2, 3)
            except ReadError as error:
                assert str(error)


@pytest.mark.parametrize("end", [b"", b"\0" * 8], ids=["cut", "wrong checksum"])
def test_a_packed_volume_is_held_against_its_checksum(tmp_path, end):
    """The voxels end before the checksum, which nobody looked at: a damaged volume was read as a sound one."""
    packed = save(tmp_path / "v.nii.gz", volume()).read_bytes()
    with pytest.raises(ReadError, match="its voxels cannot be read"):
        read_pixels(packed[:-8] + end)


def test_damage_anywhere_in_a_packed_volume_is_found(tmp_path):
    """Where gzip itself refuses the file, also if what it unpacks to is longer than the voxels."""
    values = np.random.default_rng(0).normal(100, 20, (10, 12, 8)).astype(np.float32)
    whole = save(tmp_path / "a.nii.gz", values).read_bytes()
    for place in range(20, len(whole), 41):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        try:
            gzip.decompress(bytes(damaged))
        except (OSError, EOFError, zlib.error):
            with pytest.raises(ReadError):
                read_pixels(bytes(damaged))
    data = gzip.decompress(whole)
    np.testing.assert_array_equal(read_pixels(gzip.compress(data + bytes(100))), read_pixels(whole))


def test_without_nibabel_the_remedy_is_named(tmp_path, monkeypatch):
    file = save(tmp_path / "v.nii", volume())
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(MissingDecoder, match=r"pip install 'medclf\[nifti\]'"):
        read_pixels(file)
