"""One value says how a file becomes pixels: what it refuses, and that its JSON of 0.1 and of now is read."""

import json

import numpy as np
import pytest
from PIL import Image

from medclf.errors import MedclfWarning, PreprocessingError, ReadError
from medclf.images.preprocessing import Preprocessing, Sampling, Step
from medclf.images.reading import prepare


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"size": 0}, "size=0"),
        ({"size": (10**6, 10)}, "size="),
        ({"size": (32.0, 32)}, "size="),
        ({"size": True}, "size=True"),
        ({"resize": "stretch"}, "squish, crop, pad"),
        ({"resize": ()}, "resize="),
        ({"resize": (Step((10, 10)),)}, "last step"),
        ({"channels": 2}, "channels=2"),
        ({"channels": True}, "channels=True"),
        ({"window": "belly"}, "belly"),
        ({"window": (40, -1)}, "window"),
        ({"frame": "frist"}, "frist"),
        ({"frame": 1.0}, "frame"),
        ({"sampling": Sampling((10, 10), crop=(0, 0, 300, 10))}, "sampling takes"),
        ({"sampling": Sampling((10, 10), crop=(0, 0, 0, 10))}, "sampling takes"),
    ],
)
def test_what_cannot_be_is_refused(values, named):
    with pytest.raises(PreprocessingError, match=named) as refused:
        Preprocessing(**values)
    assert refused.value.remedy


@pytest.mark.parametrize(
    "values",
    [
        {"sice": 3},
        {"resize": [{"size": [9, 9], "method": "melt"}]},
        {"resize": [{"method": "crop"}]},
        {"resize": [3]},
        {"resize": [{"size": [9, 9], "angle": 3}]},
        {"sampling": {"size": [9, 9], "mode": "bicubic"}},
        {"sampling": {"crop": [0, 0, 1, 1]}},
        {"sampling": 3},
    ],
)
def test_json_of_another_kind_is_refused(values):
    with pytest.raises(PreprocessingError):
        Preprocessing.from_dict({"size": [9, 9], **values})


def test_json_of_0_1_is_read_and_written_alike():
    old = {"size": [64, 72], "resize": "pad", "channels": 1, "window": [40, 400], "frame": 3}
    assert Preprocessing.from_dict(old) == Preprocessing((64, 72), "pad", 1, (40, 400), 3)
    assert Preprocessing.from_dict(old).as_dict() == old
    new = Preprocessing(8, (Step((8, 8), "pad", "border", "lanczos"),), sampling=Sampling((4, 4), (0, 0, 8, 6)))
    assert Preprocessing.from_dict(json.loads(json.dumps(new.as_dict()))) == new


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squish", "crop", "pad"])
def test_files_arrays_and_pictures_give_the_same(resize, channels, tmp_path):
    how = Preprocessing((20, 28), resize, channels)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 31, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = prepare(tmp_path / "a.png", (20, 28), resize=resize, channels=channels)
    for item in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), pixels, Image.fromarray(pixels)):
        assert np.array_equal(how.prepare(item), wanted)
    with pytest.raises(ReadError):
        how.prepare(pixels.astype(float))


def test_steps_by_hand():
    """A row of four: the centre of two, the mirror beyond the rim, Pillow's box filter as a mean."""
    row = np.array([[10, 20, 30, 40]], np.uint8)
    assert Step((1, 2), "center").apply(row).tolist() == [[20, 30]]
    assert Step((1, 6), "center", "reflection").apply(row).tolist() == [[20, 10, 20, 30, 40, 30]]
    assert Step((1, 6), "center", "border").apply(row).tolist() == [[10, 10, 20, 30, 40, 40]]
    assert Step((1, 2), "squish", resample="box").apply(row).tolist() == [[15, 35]]
    assert Step((1, 1), "crop").window((3, 7)) == (0, 2, 3, 3)
    assert Step((1, 1), "pad").window((3, 7)) == (-2, 0, 7, 7)


@pytest.mark.parametrize("given", [np.asarray, Image.fromarray])
def test_stored_values_of_fewer_bits_are_told_from_pixels(given, recwarn):
    """A DICOM file's pixel_array of 12 bits was predicted as a nearly black image, without a word."""
    values = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    with pytest.warns(MedclfWarning, match="16-bit values of 0 to 4095, where white is 65535"):
        Preprocessing(8).read(given(values))
    recwarn.clear()
    Preprocessing(8).read(given(values * 16))
    Preprocessing(8).read(given(np.zeros((8, 8), np.uint16)))
    assert not recwarn.list


def test_a_picture_whose_file_was_closed_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pass
    with pytest.raises(ReadError, match="the given image: cannot be loaded"):
        Preprocessing(8).read(picture)


def test_an_open_file_is_read_as_its_bytes(tmp_path):
    """As a web framework gives an upload."""
    file = tmp_path / "a.png"
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file)
    with file.open("rb") as upload:
        assert np.array_equal(Preprocessing(8).prepare(upload), Preprocessing(8).prepare(file))
    with file.open(encoding="latin-1") as text, pytest.raises(ReadError, match="gives no bytes"):
        Preprocessing(8).prepare(text)
