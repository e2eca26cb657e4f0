"""The one door: resizing, eight bits, threads, and what it must not import."""

import io
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file

from medclf.errors import MedclfError, ReadError
from medclf.images.reading import (
    IMAGE_SUFFIXES,
    eight_bit,
    prepare,
    probe,
    read_display,
    read_pixels,
    resize_pixels,
    with_channels,
)

PHOTO = np.asarray(Image.effect_mandelbrot((301, 203), (-2, -1.5, 1, 1.5), 60).convert("RGB"))


def saved(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


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


def test_unknown_choices_are_named():
    for call in (
        lambda: resize_pixels(PHOTO, 32, "stretch"),
        lambda: with_channels(PHOTO, 2),
        lambda: read_pixels(saved(PHOTO), frame="centre"),
    ):
        with pytest.raises(MedclfError, match=r"choose|must be"):
            call()


def test_eight_bits_round_and_never_clip():
    every = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(eight_bit(every), np.rint(every / 257).astype(np.uint8))
    # fastai's own reading puts 94 % and more of this ramp at 255
    ramp = saved(every.reshape(256, 256))
    levels, counts = np.unique(prepare(ramp, 256, channels=1), return_counts=True)
    assert len(levels) == 256 and counts.max() <= 257


def test_colour_to_grey_is_pillows():
    grey = with_channels(PHOTO, 1)[..., 0]
    np.testing.assert_array_equal(grey, np.asarray(Image.fromarray(PHOTO).convert("L")))
    np.testing.assert_array_equal(with_channels(grey, 3), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["squish", "crop", "pad"])
def test_prepare_is_read_reduce_resize(channels, resize):
    for data in (saved(PHOTO), saved(PHOTO[..., 0].astype(np.uint16) * 200)):
        steps = resize_pixels(read_display(data, channels), (40, 60), resize)
        found = prepare(data, (40, 60), resize=resize, channels=channels)
        assert found.shape == (40, 60, channels) and found.dtype == np.uint8
        np.testing.assert_array_equal(found, with_channels(steps, channels))


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


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"\0" * 128 + b"DICM"]),
)
def test_any_bytes_are_read_or_refused(tail, magic):
    for function in (read_pixels, probe):
        try:
            found = function(magic + tail)
        except ReadError as error:
            assert error.problem
        else:
            assert min(found.shape if function is read_pixels else (found.height, found.width)) > 0


def test_threads_give_what_one_thread_gives(tmp_path):
    paths = [
        get_testdata_file(name) for name in ("CT_small.dcm", "MR_small_RLE.dcm", "SC_rgb_jpeg.dcm", "JPEG2000.dcm")
    ]
    for number, kind in enumerate(("PNG", "JPEG", "TIFF")):
        path = tmp_path / f"{number}.{kind.lower()}"
        path.write_bytes(saved(PHOTO[number:], kind))
        paths.append(path)
    alone = [prepare(path, 96) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda path: prepare(path, 96), paths * 6))
    for index, found in enumerate(together):
        np.testing.assert_array_equal(found, alone[index % len(paths)])


def test_decoding_and_resizing_leave_other_threads_running():
    import torchvision  # noqa: F401 - so that the fast path is the one tested

    large = saved(np.tile(PHOTO, (20, 20, 1)), "JPEG")
    worker = threading.Thread(target=prepare, args=(large, 224))
    ticks = 0
    worker.start()
    while worker.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 10  # a decoder that held the interpreter would leave one or two


def test_prepare_needs_neither_fastai_nor_matplotlib():
    code = (
        "import sys, io, numpy as np, PIL.Image\n"
        "from medclf.images.reading import prepare\n"
        "file = io.BytesIO(); PIL.Image.new('L', (9, 9)).save(file, 'PNG')\n"
        "prepare(file.getvalue(), 4)\n"
        f"prepare({get_testdata_file('CT_small.dcm')!r}, 4)\n"
        "print([name for name in ('fastai', 'fastcore', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_suffixes_and_contents_are_two_things(tmp_path):
    assert {".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".dcm", ".dicom", ".ima"} < IMAGE_SUFFIXES
    misnamed = tmp_path / "really.a.jpeg.png"
    misnamed.write_bytes(saved(PHOTO, "JPEG"))
    assert probe(misnamed).format == "JPEG"
    np.testing.assert_array_equal(read_pixels(misnamed), read_pixels(misnamed.read_bytes()))
