"""What a file is that medclf does not read, by its first bytes."""

from __future__ import annotations

_GIT_ANNEX = ("a pointer of git-annex", "fetch the files with: git annex get")
_JPEG_2000 = ("a JPEG 2000 file", "save it as PNG")
_KINDS = {
    b"GIF8": ("a GIF", "save it as PNG"),
    b"\0\0\0\x0cjP  ": _JPEG_2000,
    b"\xff\x4f\xff\x51": _JPEG_2000,
    b"\xff\x0a": ("a JPEG XL file", "save it as PNG"),
    b"\0\0\0\x0cJXL ": ("a JPEG XL file", "save it as PNG"),
    **{b"P%d%c" % (kind, space): ("a PGM, PBM or PPM", "save it as PNG") for kind in range(1, 7) for space in b"\n "},
    b"\0\0\1\0": ("an icon", "save it as PNG"),
    b"\x76\x2f\x31\x01": ("an OpenEXR file", "save it as PNG"),
    b"%!PS": ("PostScript", "save it as PNG"),
    b"8BPS": ("a Photoshop file", "save it as PNG"),
    b"%PDF": ("a PDF", "save its pictures as PNG"),
    b"PK\3\4": ("a ZIP archive", "unpack it"),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
    b"BZh": ("a bzip2 archive", "unpack it"),
    b"\xfd7zXZ": ("an xz archive", "unpack it"),
    b"7z\xbc\xaf": ("a 7-Zip archive", "unpack it"),
    b"Rar!": ("a RAR archive", "unpack it"),
    b"ObjectType": ("a MetaImage header", "save the volume as NIfTI"),
    b"NDims": ("a MetaImage header", "save the volume as NIfTI"),
    b"SIMPLE  =": ("a FITS file", "save it as PNG"),
    b"NRRD": ("an NRRD volume", "save it as NIfTI"),
    b"\x89HDF": ("an HDF5 file", "save its images as PNG"),
    b"\x93NUMPY": ("a NumPy array", "save it as PNG"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the files with: git lfs pull"),
    b"outs:": ("a pointer of DVC", "fetch the files with: dvc pull"),
    b"/annex/objects/": _GIT_ANNEX,
    b"../.git/annex/": _GIT_ANNEX,
    b"<": ("a web page or XML", "get the file again: a server's error may have come in its place"),
}


def what_else(head: bytes) -> tuple[str, str] | None:
    """What a file is, and what to do; None where its first bytes are those of nothing known.

    Example:
        >>> what_else(b"GIF89a"), what_else(b"hello")
        (('a GIF', 'save it as PNG'), None)
    """
    if head[344:348] == b"ni1\0":
        return "the header of a NIfTI volume in two files", "save it as one .nii file"
    if head and not any(head):
        return "a file of zeros", "get it again"
    if head[4:8] == b"ftyp":
        return "a HEIC, an AVIF or a video", "save it as PNG"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((kind for start, kind in _KINDS.items() if head.startswith(start) or text.startswith(start)), None)
