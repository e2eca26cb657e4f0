"""The drawn CT set: real DICOM files, patients in their headers, names where they are said to be."""

import numpy as np
from pydicom import dcmread

from medclf.dataset.scan import scan
from medclf.demo_dicom import draw_ct
from medclf.images.phi import withheld_among
from medclf.images.reading import read_pixels


def test_a_scan_finds_patients_labels_and_what_is_withheld(tmp_path):
    folder = draw_ct(tmp_path / "ct", n_patients=10, n_slices=2, size=48)
    table = scan(folder, labels=folder / "labels.csv", path_col="file")
    assert not table["problem"].any() and set(table["modality"]) == {"CT"}
    assert table["patient"].nunique() == table["series"].nunique() == 10
    assert (table.groupby("patient")["label"].nunique() == 1).all()
    assert table["label"].value_counts().to_dict() == {"clear": 10, "nodule": 10}
    withheld = table.iloc[list(withheld_among(folder, table["path"]))]
    assert set(withheld["path"].str[:10]) == {"patient-00", "patient-09"} and set(withheld["label"]) == {
        "clear",
        "nodule",
    }


def test_pixels_are_hounsfield_units_and_a_seed_draws_the_same(tmp_path):
    folder, again = (draw_ct(tmp_path / name, n_patients=2, n_slices=1) for name in ("a", "b"))
    files = [folder / f"patient-0{number}/1.dcm" for number in (0, 1)]
    assert [file.read_bytes() for file in files] == [(again / file.relative_to(folder)).read_bytes() for file in files]
    units = dcmread(files[1]).pixel_array.astype(int) - 1024
    assert units[0, 0] < -900 and abs(np.median(units[30:34, 12:26]) + 850) < 60  # air, lung
    shown = read_pixels(files[1], window="lung") / 65535  # from -1350 to 150
    assert abs(shown[:4, :4].mean() - 350 / 1500) < 0.03 and abs(shown[30:34, 30:34].mean() - 1390 / 1500) < 0.03
