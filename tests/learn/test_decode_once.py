"""Scan and store share one decode, with the same table as a scan that decodes by itself."""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

import medclf.dataset.image_cache as cache
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfWarning, MissingDecoder
from medclf.images import preprocessing
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.stores import decoding

SETTINGS = {"size": 32, "cache": True, "progress": False}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedclfWarning)
        yield


@pytest.fixture
def folder(tmp_path):
    """Twelve images, of which one is cut off in its pixels and one in its header, and one without a label's folder."""
    rng = np.random.default_rng(0)
    root = tmp_path / "data"
    for label in ("normal", "polyp"):
        (root / label).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(root / label / f"{i}.jpg")
    for name, share in (("normal/2.jpg", 0.5), ("polyp/3.jpg", 0.01)):
        data = (root / name).read_bytes()
        (root / name).write_bytes(data[: int(len(data) * share)])
    Image.new("RGB", (9, 9)).save(root / "stray.png")
    return root


def test_the_table_is_the_same_cold_and_warm(folder):
    alone = scan(folder)
    assert sorted(alone.loc[alone["problem"] != "", "path"]) == ["normal/2.jpg", "polyp/3.jpg", "stray.png"]
    for _ in ("cold", "warm"):
        pd.testing.assert_frame_equal(scan(folder, check_pixels=decoding(**SETTINGS)), alone)


def test_each_image_is_decoded_once(folder, monkeypatch):
    read, real = [], preprocessing.read_display
    monkeypatch.setattr(
        preprocessing, "read_display", lambda path, *a, **k: read.append(Path(path).name) or real(path, *a, **k)
    )
    table = scan(folder, check_pixels=decoding(**SETTINGS))
    dls = MedDataLoaders.from_table(table, **SETTINGS)
    assert len(read) == 12  # all but the one without a label
    assert len(dls.train_ds) + len(dls.valid_ds) == 10
    assert len(dls.one_batch()[0]) and len(read) == 12


def test_sizes_and_patients_of_files_whose_header_alone_would_tell(folder):
    """Turned by EXIF, deep, of two pages, of several frames, and DICOM files of a patient."""
    normal, exif = folder / "normal", Image.Exif()
    exif[274] = 6
    Image.new("RGB", (50, 40)).save(normal / "turned.jpg", exif=exif)
    Image.fromarray(np.arange(9 * 11, dtype=np.uint16).reshape(9, 11)).save(normal / "deep.png")
    pages = [Image.new("L", (21, 17)), Image.new("L", (21, 17), 9)]
    pages[0].save(normal / "pages.tif", save_all=True, append_images=pages[1:])
    for name in ("CT_small.dcm", "emri_small.dcm", "SC_rgb_small_odd.dcm"):
        (folder / "polyp" / name).write_bytes(Path(get_testdata_file(name)).read_bytes())
    alone = scan(folder)
    by_path = alone.set_index("path")
    assert list(by_path.loc["normal/turned.jpg", ["width", "height"]]) == [40, 50]
    assert by_path.loc["polyp/CT_small.dcm", "patient"]
    for _ in ("cold", "warm"):
        pd.testing.assert_frame_equal(scan(folder, check_pixels=decoding(**SETTINGS)), alone)


def test_strict_stops(folder):
    with pytest.raises(DataError, match=r"normal/2.jpg.*cannot be decoded"):
        MedDataLoaders.from_folder(folder, strict=True, **SETTINGS)


def test_the_test_images_are_checked_too(folder):
    for side in ("train", "valid", "test"):
        for label in ("normal", "polyp"):
            (folder.parent / "split" / side / label).mkdir(parents=True)
            for i in (0, 1):
                data = (folder / label / f"{i}.jpg").read_bytes()
                (folder.parent / "split" / side / label / f"{i}.jpg").write_bytes(data + side.encode())
    broken = folder.parent / "split" / "test" / "polyp" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:400])
    table = scan(folder.parent / "split", check_pixels=decoding(**SETTINGS))
    assert list(table.loc[table["problem"] != "", "path"]) == ["test/polyp/1.jpg"]


@pytest.mark.parametrize("warm", [False, True])
def test_a_file_that_broke_since_is_left_out_and_the_split_stays(folder, warm):
    table = scan(folder)
    before = MedDataLoaders.from_table(table, **(SETTINGS | {"cache": warm})).table
    path = folder / "polyp" / "1.jpg"
    path.write_bytes(path.read_bytes()[:500])
    table["sha256"] = table["sha256"].where(table["path"] != "polyp/1.jpg", "changed")
    with pytest.warns(MedclfWarning, match=r"1 images cannot be read any more.*polyp/1.jpg"):
        dls = MedDataLoaders.from_table(table, **SETTINGS)
    after = dls.table
    assert after.set_index("path").loc["polyp/1.jpg", "problem"] and len(dls.train_ds) + len(dls.valid_ds) == 9
    others = after["path"] != "polyp/1.jpg"
    assert list(after.loc[others, "partition"]) == list(before.loc[others, "partition"])
    for batch in (*dls.train, *dls.valid):
        assert len(batch[0])


def test_a_decoder_installed_meanwhile_is_noticed(folder, monkeypatch):
    real = preprocessing.read_display

    def lacks(path, *args, **kwargs):
        if Path(path).name == "4.jpg":
            raise MissingDecoder(path, "needs a decoder", "pip install it")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(preprocessing, "read_display", lacks)
    table = scan(folder, check_pixels=decoding(**SETTINGS))
    assert (table["problem"] == "needs a decoder (pip install it)").sum() == 2
    monkeypatch.setattr(preprocessing, "read_display", real)
    assert (scan(folder, check_pixels=decoding(**SETTINGS))["problem"] == "").sum() == 10


def test_nothing_readable_leaves_no_store(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="none of 1 images can be used"):
        MedDataLoaders.from_folder(tmp_path, **SETTINGS)
    assert cache.list_stores() == []
