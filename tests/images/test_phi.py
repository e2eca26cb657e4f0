"""Files whose pixels may name a patient are known by what their headers say."""

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ImplicitVRLittleEndian

from medclf.errors import ReadError
from medclf.images.phi import why_withheld


@pytest.fixture
def changed(tmp_path):
    def change(**values):
        dataset = dcmread(get_testdata_file("CT_small.dcm"))
        for keyword, value in values.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.save_as(tmp_path / "a.dcm")
        return tmp_path / "a.dcm"

    return change


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, ""),
        ({"BurnedInAnnotation": "NO"}, ""),
        ({"BurnedInAnnotation": "YES"}, "its burned-in flag is YES"),
        ({"Modality": "US"}, "ultrasound"),
        ({"Modality": "IVUS"}, "ultrasound"),
        ({"Modality": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.6.1"}, "ultrasound"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "a secondary capture"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6"}, ""),  # a slide, not a capture
        ({"SOPClassUID": None, "Modality": None}, ""),
    ],
)
def test_by_header(changed, values, reason):
    assert why_withheld(changed(**values)) == reason


def test_implicit_vr(tmp_path):
    dataset = dcmread(get_testdata_file("CT_small.dcm"))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm", implicit_vr=True, little_endian=True)
    assert why_withheld(tmp_path / "a.dcm") == "a secondary capture"


def test_a_png_cannot_say(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.png")
    assert why_withheld(tmp_path / "a.png") == ""


def test_a_header_that_cannot_be_read(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"x" * 20)
    with pytest.raises(ReadError):
        why_withheld(tmp_path / "a.dcm")
