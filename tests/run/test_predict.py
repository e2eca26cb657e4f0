"""Which files `medclf predict` reads of a folder."""

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medclf.config import TrainConfig
from medclf.dataset.box_files import read_box_file
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfError, MedclfWarning
from medclf.run.config import check_early
from medclf.run.predict import CsvOutput, images_in, predict, tell_frames
from medclf.run.run import Run


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
    with pytest.warns(MedclfWarning, match="outside.*: naming the files takes it"):
        found = list(images_in([inside, outside / "secret.png"]))
    assert found == [inside / "2.JPG", inside / "IM0001", inside / "b" / "1.png", outside / "secret.png"]


def test_masks_in_a_folder_are_no_images_to_predict(make_images):
    root = make_images("benign (1).png", "benign (1)_mask.png", "masks/benign (1).png", "mask.png")
    with pytest.warns(MedclfWarning, match="2 files are masks or drawings .* left out, .*: name the files to predict"):
        assert list(images_in(root)) == [root / "benign (1).png", root / "mask.png"]
    assert list(images_in(root / "benign (1)_mask.png")) == [root / "benign (1)_mask.png"]


def test_nothing_to_predict_is_said(tmp_path):
    with pytest.raises(DataError, match="holds no image"):
        list(images_in([tmp_path]))
    with pytest.raises(DataError, match="does not exist"):
        list(images_in([tmp_path / "gone.png"]))
    others = (
        (b"PNG", "bytes"),
        ([np.zeros((4, 4))], "ndarray"),
        (None, "NoneType"),
        (3, "int"),
        ({"a.png": 1}, "dict"),
    )
    for given, named in (*others, (pd.DataFrame({"path": ["a.png"]}), "DataFrame")):
        with pytest.raises(DataError, match=f"by their paths, not as {named}"):
            list(images_in(given))


def test_frames_that_are_not_predicted_are_counted(tmp_path, recwarn):
    pages = [Image.new("L", (4, 4), grey) for grey in (1, 2, 3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "one.png")
    tell_frames([tmp_path / "one.png", tmp_path / "stack.tif#0"], "middle")
    assert not recwarn.list
    with pytest.warns(MedclfWarning, match=r"1 of 2 files holds .*stack.tif.: number 1 of each .*the other 2 are not"):
        tell_frames([tmp_path / "one.png", tmp_path / "stack.tif"], 1)


def test_an_address_is_called_so_and_not_a_missing_file(tmp_path):
    address = "https://a.org/polyps"
    (tmp_path / "rows.csv").write_text(f"path,label\n{address}/1.png,a\n{address}/2.png,b\n")
    for read in (
        lambda: predict(address, tmp_path),
        lambda: list(images_in([Path(address)])),
        lambda: scan(address),
        lambda: scan(tmp_path / "rows.csv"),
        lambda: scan(f"{address}.csv"),
        lambda: scan(tmp_path, labels=f"{address}.csv"),
        lambda: Run(address),
        lambda: read_box_file(address),
        lambda: check_early(TrainConfig(str(tmp_path), "o", weights=f"{address}.pth")),
    ):
        with pytest.raises(MedclfError, match="is an address, and only files on this machine are read"):
            read()


@pytest.mark.parametrize(("encoding", "n"), [("ascii", 2), ("latin-1", 1), ("utf-8", 0)])
def test_rows_that_the_output_cannot_encode_are_counted(monkeypatch, recwarn, encoding, n):
    output = io.TextIOWrapper(io.BytesIO(), encoding, "backslashreplace", newline="")
    monkeypatch.setattr(sys, "stdout", output)
    rows = CsvOutput()
    for name in ("a.png", "\xe9.png", "\u03b1.png"):
        rows.write([name, 0.5])
    rows.tell()
    output.flush()
    assert output.buffer.getvalue().startswith(b"a.png,0.5\r\n")
    told = [str(one.message) for one in recwarn]
    assert [text.partition(" ")[0] for text in told] == ([str(n)] if n else [])
    assert all(encoding in text and "PYTHONIOENCODING=utf-8" in text for text in told)
