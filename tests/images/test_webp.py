"""WebP: the pixels that went in, and nothing before its header was checked."""

import io

import numpy as np
import pytest
from PIL import Image

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images.reading import Probe, probe, read_pixels

PHOTO = Image.effect_mandelbrot((61, 43), (-2, -1.5, 1, 1.5), 80).convert("RGB")


def webp(image=PHOTO, **options):
    file = io.BytesIO()
    image.save(file, "WEBP", **options)
    return file.getvalue()


def test_lossless_is_exact_and_lossy_is_near():
    assert np.array_equal(read_pixels(webp(lossless=True)), np.asarray(PHOTO))
    near = np.abs(read_pixels(webp(quality=95)).astype(int) - np.asarray(PHOTO))
    assert near.mean() < 5
    assert probe(webp()) == Probe("WebP", 61, 43, 8, 1, 3)


def test_what_is_hidden_lies_on_black():
    image = PHOTO.copy()
    image.putalpha(Image.new("L", image.size, 0))
    assert not read_pixels(webp(image, lossless=True, exact=True)).any()


def test_exif_turns_it():
    exif = Image.Exif()
    exif[274] = 6
    data = webp(lossless=True, exif=exif)
    assert np.array_equal(read_pixels(data), np.rot90(np.asarray(PHOTO), -1))
    assert probe(data)[1:3] == (43, 61)


def test_an_animation_is_refused():
    with pytest.raises(UnsupportedFormat, match="animation"):
        read_pixels(webp(save_all=True, append_images=[PHOTO.rotate(90)]))


@pytest.mark.parametrize("lossless", [True, False])
def test_a_broken_file_is_one_read_error(lossless):
    data = webp(lossless=lossless)
    for end in (13, 20, 29, 60, len(data) // 2):
        with pytest.raises(ReadError):
            read_pixels(data[:end])


def test_a_small_file_cannot_declare_a_huge_image():
    data = bytearray(webp(lossless=True))
    at = data.index(b"VP8L") + 9
    data[at : at + 4] = (16382 | 16382 << 14).to_bytes(4, "little")
    with pytest.raises(TooLarge):
        read_pixels(bytes(data))
    with pytest.raises(TooLarge):
        read_pixels(webp(Image.new("RGB", (4000, 4000)), lossless=True), max_megapixels=10)


def test_other_riff_files_are_no_images():
    with pytest.raises(UnsupportedFormat):
        read_pixels(b"RIFF\x24\x08\0\0WAVEfmt " + bytes(40))
