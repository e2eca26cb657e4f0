"""Zip files are read in memory and within limits; damage and encryption are named."""

from __future__ import annotations

import io
import zipfile

import pytest

from medclf.errors import DataError
from medclf.inference.zipped import open_zip, read_members


def _zip(**files: bytes) -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return body.getvalue()


def test_members_come_in_order_and_hidden_ones_do_not() -> None:
    body = _zip(**{"b/2.png": b"2", "a/1.png": b"1", "__MACOSX/._1.png": b"x", ".DS_Store": b"x", "../out.png": b"3"})
    with open_zip(body) as archive:
        found = dict(read_members(archive, "x.zip"))
    assert found == {"a/1.png": b"1", "b/2.png": b"2"}


@pytest.mark.parametrize("limits", [{"most_bytes": 999}, {"most_files": 1}])
def test_what_unpacks_to_too_much_is_refused_before_it_is_read(limits: dict[str, int]) -> None:
    with open_zip(_zip(a=bytes(1000), b=b"x")) as archive, pytest.raises(DataError, match=r"more than|holds 2 files"):
        list(read_members(archive, "x.zip", **limits))


def test_a_damaged_member_is_named() -> None:
    body = bytearray(_zip(**{"a.png": bytes(range(256)) * 40}))
    body[40:60] = bytes(20)
    with open_zip(bytes(body)) as archive, pytest.raises(DataError, match=r"a\.png cannot be unpacked"):
        list(read_members(archive, "x.zip"))


def test_what_is_no_zip_file_is_refused() -> None:
    with pytest.raises(DataError, match="the upload is no zip file"):
        open_zip(b"PK but no more")


def _changed(at: bytes, offset: int, value: bytes, packing: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of one member, with these bytes behind the last place where `at` stands."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", packing) as archive:
        archive.writestr("axx.png", bytes(range(256)))
    changed = bytearray(body.getvalue())
    start = changed.rindex(at) + offset
    changed[start : start + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize(
    "body",
    [
        _changed(b"PK\x05\x06", 16, b"\xff" * 4),  # says that the true offset is elsewhere
        _changed(b"PK\x01\x02", 46, b"\xff\xfe").replace(b"\x14\x03\x14\x00\x00\x00", b"\x14\x03\x14\x00\x00\x08"),
        _changed(b"PK\x03\x04", 50, b"\xff" * 15, zipfile.ZIP_LZMA),
        _changed(b"PK\x01\x02", 24, b"\xff\0\0\0"),
        _changed(b"PK\x01\x02", 8, b"\1"),
    ],
    ids=["offset", "name that is no text", "lzma", "size", "encrypted"],
)
def test_whatever_is_odd_in_an_archive_is_one_kind_of_error(body: bytes) -> None:
    with pytest.raises(DataError), open_zip(body) as archive:
        list(read_members(archive, "x.zip"))


def test_two_files_of_one_name_are_refused() -> None:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        for content in (b"1", b"2"):
            archive.writestr("a.png", content)
    with open_zip(body.getvalue()) as archive, pytest.raises(DataError, match=r"2 files of the name a\.png"):
        list(read_members(archive, "x.zip"))
