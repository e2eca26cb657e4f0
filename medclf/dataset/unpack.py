"""A zip file unpacked: no member leaves the folder, links nothing, or grows past its bounds."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from medclf.errors import DataError, OutputError
from medclf.progress import watch

MAX_FILES = 500_000
CHUNK = 1 << 20


def unpack(archive: Path, folder: Path, *, max_bytes: int, progress: bool = True) -> None:
    """Unpack a zip file into a new folder: all of it, or nothing.

    Args:
        archive: the zip file.
        folder: made by this call; it must not exist.
        max_bytes: refuse an archive that grows beyond this.
        progress: show a progress bar.

    Raises:
        DataError: it is no zip file, is damaged, holds a member that would be written outside the folder, a
            link, an encrypted or a repeated member, or is larger than allowed.
        OutputError: the disk is too full, or cannot be written to.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _checked(opened, archive, max_bytes)
            total = sum(member.file_size for member in members)
            if total > shutil.disk_usage(temporary).free:
                raise OutputError(f"{archive.name} needs {total / 1e9:.1f} GB unpacked", "free some space")
            pieces = _write_all(opened, members, temporary, archive)
            for _ in watch(pieces, total, f"Unpacking {archive.stem}", progress=progress, step="bytes"):
                pass
        temporary.chmod(0o755)
        temporary.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise DataError(f"{archive.name} is damaged: {error}", "delete it and fetch it again") from error
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}", "free some space") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _checked(opened: zipfile.ZipFile, archive: Path, max_bytes: int) -> list[zipfile.ZipInfo]:
    members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > max_bytes:
        raise DataError(
            f"{archive.name} holds more than {MAX_FILES} files or {max_bytes / 1e9:.1f} GB",
            "it is not the data set it should be: delete it and fetch it again",
        )
    seen = set()
    for member in members:
        reason = "it is there twice" if member.filename in seen else _objection(member)
        if reason:
            raise DataError(
                f"{archive.name} is not unpacked: member {member.filename!r}: {reason}",
                "do not trust this archive",
            )
        seen.add(member.filename)
    return [member for member in members if "__MACOSX" not in PurePosixPath(member.filename).parts]


def _objection(member: zipfile.ZipInfo) -> str:
    """Why a member must not be unpacked, or nothing."""
    name = member.orig_filename
    path = PurePosixPath(name)
    if "\0" in name or "\\" in name or path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        return "it would be written outside the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return "it is a link or a device"
    return "it is encrypted" if member.flag_bits & 1 else ""


def _write_all(opened: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, archive: Path) -> Iterator[bytes]:
    """Write every member, never more of it than it declares; gives the pieces back to be counted."""
    for member in members:
        target = folder / member.filename
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        with opened.open(member) as source, target.open("xb") as file:
            while piece := source.read(CHUNK):
                written += len(piece)
                if written > member.file_size:
                    raise DataError(f"{archive.name}: {member.filename!r} is larger than it says", "do not trust it")
                file.write(piece)
                yield piece
