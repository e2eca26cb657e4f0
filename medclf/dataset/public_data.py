"""Public data sets by name: fetched once into the user's cache by pooch, unpacked within bounds."""

from __future__ import annotations

import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from medclf.errors import DataError
from medclf.files import is_hidden, writing

TIMEOUT_S = (10, 60)  # to connect, between two pieces
MAX_FILES = 500_000


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: what `fetch` calls it.
        url: its zip file.
        about: one line on what it holds.
        licence: what its publishers allow.
        citation: what they ask to be cited.
        sha256: of the zip file, where it is published.
        max_unpacked: bytes that it may have when unpacked.
    """

    name: str
    url: str
    about: str
    licence: str
    citation: str
    sha256: str | None = None
    max_unpacked: int = 10_000_000_000


_KVASIR_LICENCE = "research and education only; other use needs the publishers' written permission"
_KVASIR_CITATION = (
    "K. Pogorelov et al. KVASIR: A Multi-Class Image Dataset for Computer Aided Gastrointestinal Disease "
    "Detection. MMSys 2017. doi:10.1145/3083187.3083212"
)

CATALOG = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            name="kvasir-v1",
            url="https://datasets.simula.no/downloads/kvasir/kvasir-dataset.zip",
            about="4,000 endoscopy images, 8 classes of 500",
            licence=_KVASIR_LICENCE,
            citation=_KVASIR_CITATION,
        ),
        DataSet(
            name="kvasir-v2",
            url="https://datasets.simula.no/downloads/kvasir/kvasir-dataset-v2.zip",
            about="8,000 endoscopy images, 8 classes of 1,000",
            licence=_KVASIR_LICENCE,
            citation=_KVASIR_CITATION,
        ),
        DataSet(
            name="hello-world",
            url="https://raw.githubusercontent.com/paras42/Hello_World_Deep_Learning/master/Open_I_abd_vs_CXRs.zip",
            about="77 radiographs, chest against abdomen, with folders TRAIN, VAL and TEST",
            licence="images of Open-I, US National Library of Medicine: see its terms",
            citation="P. Lakhani et al. Hello World Deep Learning in Medical Imaging. J Digit Imaging 2018;31:283-289. "
            "doi:10.1007/s10278-018-0079-6",
            max_unpacked=1_000_000_000,
        ),
    )
}


def describe(name: str) -> DataSet:
    """What is known about a data set.

    Raises:
        DataError: no data set has that name.

    Example:
        >>> describe("kvasir-v2").about
        '8,000 endoscopy images, 8 classes of 1,000'
    """
    if name not in CATALOG:
        raise DataError(f"no data set is named '{name}'", f"choose one of {', '.join(CATALOG)}, or give a folder")
    return CATALOG[name]


def fetch(name: str, folder: str | Path | None = None, progress: bool = True) -> Path:
    """Fetch a data set once; later calls find it there.

    Args:
        name: one of CATALOG.
        folder: where data sets are kept; None for the cache folder (see MEDCLF_CACHE).
        progress: show a progress bar.

    Returns:
        The folder that holds the images, for `scan`.

    Raises:
        DataError: it cannot be fetched, its SHA-256 is another, or it must not be unpacked.
        OutputError: the folder cannot be written to, or the disk is full.
    """
    from medclf.dataset.image_cache import DATASETS, cache_folder

    return fetch_into(describe(name), Path(folder or cache_folder() / DATASETS), progress)


def fetch_into(data_set: DataSet, folder: Path, progress: bool = True) -> Path:
    """As `fetch`, for a data set that need not be in the catalog."""
    unpacked = folder / data_set.name
    if not unpacked.is_dir():
        print(f"{data_set.name}: {data_set.about}. Licence: {data_set.licence}.", file=sys.stderr)
        print(f"Please cite: {data_set.citation}", file=sys.stderr)
        with _part_of(folder) as part:
            unpack(_download(data_set, part, progress), unpacked, max_bytes=data_set.max_unpacked)
    return _top(unpacked)


@contextmanager
def _part_of(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet, beside where it will lie."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as part:
            yield Path(part)


def _download(data_set: DataSet, folder: Path, progress: bool) -> Path:
    import pooch
    from requests import RequestException

    downloader = pooch.HTTPDownloader(
        progressbar=progress and sys.stderr.isatty(),
        chunk_size=1 << 16,
        timeout=TIMEOUT_S,
        hooks={"response": _refuse_unprotected},
    )
    pooch.get_logger().setLevel("WARNING")
    try:
        return Path(
            pooch.retrieve(data_set.url, data_set.sha256, f"{data_set.name}.zip", folder, downloader=downloader)
        )
    except (RequestException, ValueError) as error:  # ValueError: the hash is another
        raise DataError(f"{data_set.url} cannot be fetched: {error}", "check the network and run it again") from error


def _refuse_unprotected(answer: Any, *_args: Any, **_options: Any) -> None:
    """A redirect from https to http lets anyone on the way send another file."""
    if answer.url.startswith("https:") and answer.headers.get("Location", "").startswith("http:"):
        raise DataError(f"{answer.url} redirects to an unprotected address", "try again later")


def _top(folder: Path) -> Path:
    """The first folder that holds more than one folder: archives often wrap everything in one."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return _top(entries[0]) if len(entries) == 1 and entries[0].is_dir() else folder


def unpack(archive: Path, folder: Path, *, max_bytes: int) -> None:
    """Unpack a zip file into a new folder: all of it, or nothing.

    Args:
        archive: the zip file.
        folder: made by this call, unless it is there.
        max_bytes: refuse an archive that grows beyond this; `zipfile` writes no more of a member than it declares.

    Raises:
        DataError: it is no zip file, is damaged, holds a member that would be written outside the folder, a
            link, an encrypted or a repeated member, or is larger than allowed.
        OutputError: the disk is too full, or cannot be written to.
    """
    with _part_of(folder.parent) as part:
        try:
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(part / "whole", _checked(opened, archive.name, max_bytes))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
            raise DataError(f"{archive.name} is damaged: {error}", "fetch it again") from error
        try:
            (part / "whole").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was first
                raise


def _checked(opened: zipfile.ZipFile, name: str, max_bytes: int) -> list[zipfile.ZipInfo]:
    members = [member for member in opened.infolist() if not member.is_dir()]
    if len(members) > MAX_FILES or sum(member.file_size for member in members) > max_bytes:
        reason = f"{name} holds more than {MAX_FILES} files or {max_bytes / 1e9:.1f} GB"
        raise DataError(reason, "it is not the data set it should be: do not trust it")
    seen = set()
    for member in members:
        if reason := "it is there twice" if member.filename in seen else _objection(member):
            raise DataError(f"{name} is not unpacked: member {member.filename!r}: {reason}", "do not trust it")
        seen.add(member.filename)
    return [member for member in members if not any(map(is_hidden, PurePosixPath(member.filename).parts))]


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
