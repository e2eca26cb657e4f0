"""Which files `medclf predict` reads of a folder."""

import shutil

import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medclf.errors import DataError, MedclfWarning
from medclf.run.predict import images_in, tell_frames


def test_images_and_dicom_files_without_a_suffix_and_nothing_behind_links(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "b").mkdir(parents=True)
    outside.mkdir()
    for path in (inside / "b" / "1.png", inside / "2.JPG", outside / "secret.png"):
        Image.new("L", (4, 4)).save(path)
    shutil.copy(get_testdata_file("CT_small.dcm"), inside / "IM0001")
    (inside / "notes.txt").write_text("")
    (inside / "link.png").symlink_to(outside / "secret.png")
    (inside / "folder").symlink_to(outside)
    (inside / "round").symlink_to(inside)
    with pytest.warns(MedclfWarning, match="outside"):
        found = list(images_in([inside, outside / "secret.png"]))
    assert found == [inside / "2.JPG", inside / "IM0001", inside / "b" / "1.png", outside / "secret.png"]


def test_nothing_to_predict_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        list(images_in([tmp_path]))
    with pytest.raises(DataError, match="does not exist"):
        list(images_in([tmp_path / "gone.png"]))


def test_frames_that_are_not_predicted_are_counted(tmp_path, recwarn):
    pages = [Image.new("L", (4, 4), grey) for grey in (1, 2, 3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.png")
    tell_frames([tmp_path / "one.png", tmp_path / "stack.tif#0"], "middle")
    assert not recwarn.list
    with pytest.warns(MedclfWarning, match=r"1 of 2 files holds .*stack.tif.: number 1 of each .*the other 2 are not"):
        tell_frames([tmp_path / "one.png", tmp_path / "stack.tif"], 1)
