"""Images in a zip file, read in memory: nothing is unpacked to disk, and what would grow too large is refused."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath

from medclf.dataset.layouts import masks_among
from medclf.errors import DataError, ReadError
from medclf.files import is_hidden

MOST_FILES = 10_000
MOST_BYTES = 4 * 2**30  # of all members
MOST_BYTES_OF_ONE = 512 * 2**20


def open_zip(file: Path | bytes) -> closing[zipfile.ZipFile]:
    """The archive, to be closed by `with`.

    Raises:
        DataError: it is no zip file, or a damaged one.
    """
    try:
        return closing(zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file))
    except Exception as error:  # zipfile raises a dozen kinds on a damaged archive
        name = "the upload" if isinstance(file, bytes) else str(file)
        raise DataError(f"{name} is no zip file that can be read: {error}", "make it again") from error


def read_members(
    archive: zipfile.ZipFile, name: str, *, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES
) -> Iterator[tuple[str, bytes | ReadError]]:
    """Name and content of each file in it, in the order of their names; hidden files are left out.

    A mask or drawing of another image has a `ReadError` in the place of its content, as `masks_among` knows it.

    Args:
        archive: an open one.
        name: what to call it in errors.
        most_bytes: that all members may have.
        most_files: that it may hold.

    Raises:
        DataError: it holds no file, too many, too much, or two of one name; a member is encrypted or damaged.
    """
    members = [one for one in archive.infolist() if not one.is_dir() and not _hidden(one.filename)]
    if not members:
        raise DataError(f"{name} holds no file", "put the images of the unit into it")
    if len(members) > most_files:
        raise DataError(f"{name} holds {len(members):,} files, more than {most_files:,}", "give fewer")
    if sum(one.file_size for one in members) > most_bytes or any(one.file_size > MOST_BYTES_OF_ONE for one in members):
        raise DataError(f"{name} unpacks to more than {most_bytes // 2**20:,} MB, or has one file that is too large")
    twice, n = Counter(one.filename for one in members).most_common(1)[0]
    if n > 1:
        raise DataError(f"{name} holds {n} files of the name {twice}", "give each image a name of its own")
    masks = set(masks_among([one.filename for one in members]))
    for one in sorted(members, key=lambda one: one.filename):
        mask = ReadError(one.filename, "left out as a mask or drawing of another image, by its name", "rename it")
        yield one.filename, mask if one.filename in masks else _content(archive, one, name)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> bytes:
    """At most as many bytes as the archive declares."""
    if member.flag_bits & 1:
        raise DataError(f"{name}: {member.filename} cannot be unpacked: it is encrypted", "make it without a password")
    try:
        with archive.open(member) as file:
            content = file.read(member.file_size + 1)
    except Exception as error:  # each way of packing raises kinds of its own
        raise DataError(f"{name}: {member.filename} cannot be unpacked: {error}", "make the archive again") from error
    if len(content) != member.file_size:
        raise DataError(f"{name}: {member.filename} is not of the size that it declares", "make the archive again")
    return content


def _hidden(name: str) -> bool:
    return any(map(is_hidden, PurePosixPath(name).parts))
