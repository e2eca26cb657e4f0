"""Sizes as Pillow gives them, at the depth of the file; grey as Pillow makes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medclf.images.resize import resize_pixels, with_channels

PHOTO = np.asarray(Image.effect_mandelbrot((301, 203), (-2, -1.5, 1, 1.5), 60).convert("RGB"))


@pytest.mark.parametrize("size", [(64, 64), (50, 200), (203, 301), (400, 500)])
@pytest.mark.parametrize("array", [PHOTO, PHOTO[..., 0].copy()])
def test_squish_equals_pillows_antialiased_resize(array, size):
    ours = resize_pixels(array, size).astype(int)
    pillows = np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - pillows).max() <= 1
    assert ours.shape == (*size, *array.shape[2:])


def test_deep_pixels_are_resized_at_full_depth():
    deep = PHOTO[..., 0].astype(np.uint16) * 257
    expected = np.asarray(Image.fromarray(deep.astype(np.float32)).resize((64, 48), Image.Resampling.BILINEAR))
    found = resize_pixels(deep, (48, 64))
    assert found.dtype == np.uint16
    np.testing.assert_allclose(found, expected, atol=1)


def test_crop_keeps_the_middle_and_its_shape():
    wide = np.zeros((100, 300), np.uint8)
    wide[:, 100:200] = np.tile(np.arange(0, 200, 2, dtype=np.uint8), (100, 1))
    np.testing.assert_array_equal(resize_pixels(wide, 100, "crop"), wide[:, 100:200])
    tall = np.ascontiguousarray(wide.T)
    np.testing.assert_array_equal(resize_pixels(tall, 100, "crop"), tall[100:200])
    assert resize_pixels(wide, (50, 150), "crop").shape == (50, 150)


def test_pad_keeps_everything_and_adds_black():
    white = np.full((100, 300, 3), 255, np.uint8)
    found = resize_pixels(white, 150, "pad")
    assert found.shape == (150, 150, 3)
    assert (found[50:100] == 255).all() and not found[:50].any() and not found[100:].any()


def test_colour_to_grey_is_pillows():
    grey = with_channels(PHOTO, 1)[..., 0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(PHOTO).convert("L")))
    np.testing.assert_array_equal(with_channels(grey, 3), np.stack([grey] * 3, axis=2))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["squish", "crop", "pad"]),
    st.sampled_from([(), (1,), (3,)]),
    st.sampled_from([np.uint8, np.uint16]),
)
def test_resize_gives_the_size_asked_for_and_invents_no_level(rows, columns, height, width, resize, tail, kind):
    array = np.random.default_rng(rows).integers(50, 200, (rows, columns, *tail)).astype(kind)
    found = resize_pixels(array, (height, width), resize)
    assert found.shape == (height, width, *tail) and found.dtype == kind
    seen = found[found > 0] if resize == "pad" else found
    assert not seen.size or (seen.min() >= array.min() and seen.max() <= array.max())
