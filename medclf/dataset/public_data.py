"""Public data sets by name: fetched once into the user's cache, checked, unpacked safely."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from medclf.dataset.download import download
from medclf.dataset.scan import file_hash
from medclf.dataset.unpack import unpack
from medclf.errors import DataError
from medclf.files import write_json


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: what `fetch` calls it.
        url: its zip file.
        about: one line on what it holds.
        licence: what its publishers allow.
        citation: what they ask to be cited.
        bytes: size of the zip file, where it is published.
        max_unpacked: bytes that it may have when unpacked.
    """

    name: str
    url: str
    about: str
    licence: str
    citation: str
    bytes: int | None = None
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
            bytes=2_489_312_085,
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
        >>> describe("kvasir-v2").bytes
        2489312085
    """
    if name not in CATALOG:
        raise DataError(f"no data set is named '{name}'", f"choose one of {', '.join(CATALOG)}, or give a folder")
    return CATALOG[name]


def fetch(name: str, folder: str | Path | None = None, progress: bool = True) -> Path:
    """Fetch a data set once; later calls find it there.

    Its SHA-256 is recorded on first use (no checksum is published) and compared whenever it is fetched again.

    Args:
        name: one of CATALOG.
        folder: where data sets are kept; None for the cache folder (see MEDCLF_CACHE).
        progress: show progress bars.

    Returns:
        The folder that holds the images, for `scan`.

    Raises:
        DataError: it cannot be fetched, is not what was fetched before, or must not be unpacked.
        OutputError: the folder cannot be written to, or the disk is full.
    """
    from medclf.dataset.image_cache import cache_folder

    return fetch_into(describe(name), Path(folder or cache_folder() / "datasets"), progress)


def fetch_into(data_set: DataSet, folder: Path, progress: bool = True) -> Path:
    """As `fetch`, for a data set that need not be in the catalog."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    unpacked, record_file = folder / data_set.name, folder / f"{data_set.name}.json"
    with FileLock(folder / f".{data_set.name}.lock"):
        record = _read_record(record_file)
        if unpacked.is_dir() and record.get("url") == data_set.url:
            _compare(unpacked, record, record_file)
            return _top(unpacked)
        if unpacked.exists():
            raise DataError(f"{unpacked} is there and was not fetched by medclf", "move it away or choose a folder")
        print(f"{data_set.name}: {data_set.about}. Licence: {data_set.licence}.", file=sys.stderr)
        print(f"Please cite: {data_set.citation}", file=sys.stderr)
        archive = folder / f"{data_set.name}.zip"
        if not archive.exists():  # a kill while unpacking leaves it whole
            download(data_set.url, archive, size=data_set.bytes, progress=progress)
        sha256 = file_hash(archive)
        _check_first_use(data_set, archive, sha256, record, record_file)
        size = archive.stat().st_size
        try:
            unpack(archive, unpacked, max_bytes=data_set.max_unpacked, progress=progress)
        except DataError:
            archive.unlink()
            raise
        write_json(record_file, {"url": data_set.url, "sha256": sha256, "bytes": size, **_measure(unpacked)})
        archive.unlink()
    return _top(unpacked)


def _read_record(path: Path) -> dict[str, object]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _check_first_use(
    data_set: DataSet, archive: Path, sha256: str, record: dict[str, object], record_file: Path
) -> None:
    if record.get("url") == data_set.url and record.get("sha256") not in (None, sha256):
        archive.unlink()
        raise DataError(
            f"{data_set.url} is not the file fetched before: its SHA-256 is {sha256}, not {record['sha256']}",
            f"if its publishers announced a new version, delete {record_file} and fetch it again",
        )


def _measure(unpacked: Path) -> dict[str, int]:
    sizes = [path.stat().st_size for path in unpacked.rglob("*") if path.is_file()]
    return {"unpacked_files": len(sizes), "unpacked_bytes": sum(sizes)}


def _compare(unpacked: Path, record: dict[str, object], record_file: Path) -> None:
    for what, number in _measure(unpacked).items():
        if record.get(what) != number:
            raise DataError(
                f"{unpacked} was changed: {what} is {number}, not {record.get(what)}",
                f"delete it to fetch it again, or delete {record_file} too to start afresh",
            )


def _top(folder: Path) -> Path:
    """The first folder that holds more than one folder: archives often wrap everything in one."""
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return _top(entries[0]) if len(entries) == 1 and entries[0].is_dir() else folder
