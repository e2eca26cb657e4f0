"""Heat maps brought back to the file's own pixels, boxed and drawn."""

import base64
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from medclf.errors import DataError
from medclf.images.heatmap import Box, at_size, coloured, hottest_box, on_original, overlay, png_uri
from medclf.images.resize import resize_pixels


@pytest.mark.parametrize("resize", ["squish", "crop", "pad"])
@pytest.mark.parametrize("shape", [(90, 160), (160, 90), (64, 64), (201, 77)])
def test_on_original_undoes_the_resize(shape, resize):
    """A smooth picture that went through the preprocessing comes back where it was; what was cut off is 0."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    picture = np.exp(-((rows - 0.4 * shape[0]) ** 2 + (columns - 0.6 * shape[1]) ** 2) / (2 * 12.0**2))
    prepared = resize_pixels(np.round(255 * picture).astype(np.uint8), (56, 64), resize)
    back = on_original(prepared / 255, shape, resize)
    assert back.shape == shape
    shown = on_original(np.ones((56, 64)), shape, resize) > 0
    assert np.abs(back - picture)[shown].max() < 0.06
    assert shown.all() if resize != "crop" else not back[~shown].any()


def test_a_box_is_in_the_files_own_pixels():
    heat = np.zeros((10, 10), np.float32)
    heat[2:4, 5:7] = 1
    box = hottest_box(on_original(heat, (300, 200)), 0.9)
    assert np.allclose(box, (100, 60, 140, 120), atol=12)  # the edges are blurred by the resize


def test_a_smaller_share_makes_a_larger_box_and_none_an_empty_map():
    rows, columns = np.mgrid[0:40, 0:40]
    heat = np.exp(-((rows - 20) ** 2 + (columns - 25) ** 2) / 50)
    boxes = [hottest_box(heat, share) for share in (1.0, 0.9, 0.5, 0.1)]
    assert boxes[0] == Box(25, 20, 26, 21)
    for inner, outer in itertools.pairwise(boxes):
        assert outer.left < inner.left and outer.right > inner.right and outer.top < inner.top
    assert hottest_box(np.zeros((4, 4))) is None


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_that_cannot_be_is_refused(share):
    with pytest.raises(DataError, match="share"):
        hottest_box(np.ones((2, 2)), share)


def test_the_overlay_colours_what_is_hot_and_leaves_the_rest():
    grey = np.full((20, 30), 100, np.uint8)
    heat = np.zeros((20, 30))
    heat[:, 20:] = 1
    shown = overlay(grey, heat, box=Box(0, 0, 10, 10))
    assert shown.shape == (20, 30, 3) and shown.dtype == np.uint8
    assert (shown[12:, :19] == 100).all() and (shown[:, 25, 1] > 180).all()
    assert (shown[0, :10] == 255).all() and (shown[9, :10] == 255).all() and (shown[10, :10] == 100).all()
    with pytest.raises(DataError, match="the image is of float64"):
        overlay(np.ones((4, 4)), np.zeros((2, 2)))
    assert overlay(np.full((4, 4), 65535, np.uint16), np.zeros((2, 2)))[0, 0].tolist() == [255, 255, 255]


def test_a_uri_holds_the_picture():
    rgba = coloured(np.linspace(0, 1, 12).reshape(3, 4))
    head, _, data = png_uri(rgba).partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), rgba)
    assert at_size(np.eye(3), (7, 5)).shape == (7, 5)
