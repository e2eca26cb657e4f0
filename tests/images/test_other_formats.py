"""Files that are sound and of a kind that is not read: called what they are, not broken."""

import io
import lzma

import pytest
from PIL import Image

from medclf.errors import UnsupportedFormat
from medclf.images.reading import read_pixels


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 6)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (saved("GIF"), "a GIF", "PNG"),
        (saved("JPEG2000"), "JPEG 2000", "PNG"),
        (saved("PDF"), "a PDF", "PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "Git LFS", "git lfs pull"),
        (b"/annex/objects/SHA256E-s1--0.png\n", "git-annex", "git annex get"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page", "get the file again"),
        (b"\0\0\0\x20ftypheic" + bytes(40), "HEIC", "PNG"),
        (saved("PPM"), "a PGM", "PNG"),
        (saved("ICO"), "an icon", "PNG"),
        (saved("EPS"), "PostScript", "PNG"),
        (b"ObjectType = Image\nNDims = 3\n", "MetaImage", "NIfTI"),
        (lzma.compress(b"a"), "an xz archive", "unpack"),
        (bytes(344) + b"ni1\0", "NIfTI volume in two files", "one .nii"),
        (bytes(4096), "zeros", "get it again"),
    ],
    ids="gif jp2 pdf lfs annex html heic pgm ico eps mhd xz hdr zeros".split(),
)
def test_it_is_called_what_it_is(data, what, remedy):
    with pytest.raises(UnsupportedFormat, match=what) as error:
        read_pixels(data)
    assert remedy in error.value.remedy
