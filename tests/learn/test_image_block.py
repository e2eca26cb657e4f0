"""MedImage as a fastai user meets it."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.vision.all import CategoryBlock, ColReader, DataBlock, IndexSplitter, Resize, TensorImage
from PIL import Image
from pydicom.data import get_testdata_file

import medclf
from medclf.errors import ReadError
from medclf.learn.image_block import MedImage, MedImageBlock, TensorMedImageBW, read_image

RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.fixture
def mixed(tmp_path):
    """Eight files of four kinds, and their labels."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(2):
        colour = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        for name, image in (("a.png", Image.fromarray(RAMP)), ("b.jpg", colour), ("c.tif", colour)):
            path = tmp_path / f"{number}{name}"
            image.save(path)
            rows.append({"path": path, "label": ["x", "y"][number]})
        copy = tmp_path / f"{number}d.dcm"
        copy.write_bytes(open(get_testdata_file("MR_small.dcm"), "rb").read())  # noqa: SIM115, PTH123
        rows.append({"path": copy, "label": ["x", "y"][number]})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_block_made_by_hand_works(mixed, channels):
    import matplotlib

    matplotlib.use("Agg")
    block = DataBlock(
        blocks=(MedImageBlock(channels=channels), CategoryBlock),
        get_x=ColReader("path"),
        get_y=ColReader("label"),
        splitter=IndexSplitter([0, 1, 4, 5]),
        item_tfms=Resize(32),
    )
    loaders = block.dataloaders(mixed, bs=4, num_workers=0)
    images, labels = loaders.one_batch()
    assert images.shape == (4, channels, 32, 32) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert isinstance(images, TensorMedImageBW if channels == 1 else TensorImage)
    assert list(loaders.vocab) == ["x", "y"] and labels.shape == (4,)
    loaders.show_batch(max_n=4)
    assert loaders.test_dl(list(mixed.path[:2])).one_batch()[0].shape == (2, channels, 32, 32)


def test_deep_pixels_are_scaled_not_clipped():
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "PNG")
    image = MedImage.create(file.getvalue())
    assert image.mode == "RGB"
    assert (np.asarray(image) == 255).mean() < 0.01  # fastai's PILImage: 0.996
    np.testing.assert_array_equal(np.asarray(image)[..., 0], np.rint(RAMP / 257))


def test_everything_that_create_takes():
    pixels = np.zeros((5, 6, 3), np.uint8)
    pixels[..., 0] = 200
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    for source in (file.getvalue(), pixels, Image.fromarray(pixels), Image.fromarray(pixels).convert("RGBA")):
        np.testing.assert_array_equal(np.asarray(MedImage.create(source)), pixels)
    assert MedImage.create(pixels, channels=1).mode == "L"
    assert isinstance(MedImage.create(pixels), MedImage)


@pytest.mark.parametrize(
    "given",
    [
        RAMP / 65535,
        RAMP.astype(np.float32),
        RAMP.astype(int),
        RAMP > 0,
        np.zeros((3, 20, 30), np.uint8),
        torch.rand(3, 20, 30),
        np.zeros((0, 30), np.uint8),
    ],
    ids=lambda given: f"{given.dtype}-{given.ndim}",
)
def test_arrays_that_do_not_say_what_is_white_are_refused(given):
    with pytest.raises(ReadError, match="the given array"):
        MedImage.create(given)


def test_a_tensor_may_have_its_channels_first_or_last():
    pixels = torch.arange(20 * 30 * 3).reshape(20, 30, 3).to(torch.uint8)
    for given in (pixels, pixels.permute(2, 0, 1), TensorImage(pixels.permute(2, 0, 1))):
        assert np.array_equal(MedImage.create(given), pixels)
    assert MedImageBlock().type_tfms[0](pixels[..., 0]).size == (30, 20)


def test_read_image_keeps_grey_grey_and_takes_a_window():
    path = get_testdata_file("CT_small.dcm")
    assert read_image(path).mode == "L" and read_image(path, channels=3).mode == "RGB"
    bone, soft = read_image(path, window="bone"), read_image(path, window=(40, 400))
    assert np.asarray(soft).std() > np.asarray(bone).std()
    with pytest.raises(ReadError, match="No such file"):
        read_image("absent.png")


def test_the_public_names_are_these():
    assert medclf.MedImage is MedImage and medclf.read_image is read_image and medclf.MedImageBlock is MedImageBlock
