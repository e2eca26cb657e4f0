"""The one door: formats, eight bits, threads, and what it must not import."""

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
from medclf.images.reading import IMAGE_SUFFIXES, prepare, probe, read_display, read_pixels
from medclf.images.resize import eight_bit, resize_pixels, with_channels

PHOTO = np.asarray(Image.effect_mandelbrot((301, 203), (-2, -1.5, 1, 1.5), 60).convert("RGB"))


def saved(array: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


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
