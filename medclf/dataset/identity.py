"""Who and which: patients by pseudonym, DICOM files by their SOP Instance UID; neither is ever shown."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from medclf.dataset.folders import without_ending
from medclf.dataset.spelt_names import without_signs
from medclf.errors import DataError, OutputError, ReadError, argument
from medclf.images.decoding_guard import reading
from medclf.images.dicom_layout import read_layout
from medclf.images.frame_names import file_of

KEY_VARIABLE = "MEDCLF_PATIENT_KEY"
KEY_BYTES = 32
_MANY_FILES = 10  # of one patient, at the least, that are worth a word
_PATIENTS = re.compile(
    r"((id|code)[ _-]?(d[eou][ _-]?)?)?"
    r"(patients?|pacientes?|patienten|pazient[ei]|患者|病人|subjects?|persons?|participants?|individuals?|donors?"
    r"|animals?|lesions?|case(?=.)|mrn|pid)"
    r"[ _-]?(ids?|names?|no|nr|num(m?er)?|number|keys?|uid|codes?|编号)?",
    re.I,
)
_NAMED = re.compile(  # person1_virus_6, video3_frame12
    r"(?<![^\W_])(patient|paciente|pat|person|subject|subj|sub|case|video|vid)[ _-]?\d+(?![^\W_])", re.I
)
_NUMBERED = re.compile(  # CNV-1016042-1, 10_left, 0021_LEFT_CC
    r"(.*[^ _-])[ _-]+(?:(\d+)|(?:frame|slice)[ _-]?\d+|left|right|[lr]|o[ds]|cc|mlo?|ap|pa|lat(?:eral)?|frontal)", re.I
)
_MONTH, _DAY = "(0[1-9]|1[0-2])", r"(0[1-9]|[12]\d|3[01])"
_DATE = re.compile(rf"\D*((19|20)\d\d([ _.-]?){_MONTH}\3{_DAY}|{_DAY}([_.-]){_MONTH}\7(19|20)\d\d)")
_UNTOLD = "a split may part images of one, and intervals come out too narrow"
_SOP_INSTANCE_UID, _PATIENT_ID = 0x00080018, 0x00100020


def pseudonym(patient: str, key: bytes) -> str:
    """What stands for a patient in tables and reports: HMAC-SHA256 of the id, as for DICOM files.

    Args:
        patient: the id that the CSV or file gives.
        key: the project's secret.

    Returns:
        16 hexadecimal digits.

    Example:
        >>> pseudonym("ann", b"k" * 32) == pseudonym("ann", b"k" * 32) != pseudonym("ann", b"l" * 32)
        True
    """
    return hmac.new(key, patient.strip().encode(), hashlib.sha256).hexdigest()[:16]


def project_key(root: Path) -> bytes:
    """The secret that turns patient ids into pseudonyms, made on first use and kept apart from all outputs.

    It lies in a file that only its owner can read: the one that the environment variable
    MEDCLF_PATIENT_KEY names, else one for each data folder in the user's data folder.

    Args:
        root: the data's folder.

    Returns:
        32 bytes.

    Raises:
        OutputError: the file cannot be written.
        DataError: the file is there and is no key.
    """
    path = Path(os.environ.get(KEY_VARIABLE, "") or _key_file(root))
    try:
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
    except OSError as error:
        remedy = f"name another file with the environment variable {KEY_VARIABLE}"
        raise OutputError(f"the patient key {path} cannot be used: {error.strerror}", remedy) from error
    if len(key) != KEY_BYTES:
        raise DataError(f"{path} is not a patient key: it has {len(key)} bytes, not {KEY_BYTES}", "move it away")
    return key


def _key_file(root: Path) -> Path:
    import platformdirs

    name = hashlib.blake2b(os.path.realpath(root).encode(errors="surrogateescape"), digest_size=16).hexdigest()
    return platformdirs.user_data_path("medclf") / "patient-keys" / f"{name}.key"


def _make_key(path: Path) -> None:
    """Write a new key, whole, and never over one that another process has made meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def doubtful_ids(given: Sequence[str], names: Sequence[str | None]) -> list[str]:
    """What is said of DICOM files whose Patient IDs may name one patient in several ways, or nobody; none is shown.

    Args:
        given: the ID of each file as it has it, "" for none.
        names: the same, one for each patient, None for nobody.
    """
    patients, sentences = {*names} - {None}, []
    if without := sum(bool(one) and name is None for one, name in zip(given, names, strict=True)):
        text = "have a word such as 'anonymous' for a Patient ID: they count as without a patient"
        sentences.append(f"{without} of {len(given)} DICOM files {text}")
    if len(patients) == 1 and not without and len(given) >= _MANY_FILES:
        text = "have the same Patient ID. If that was put in for several patients, name those"
        sentences.append(f"all {len(given)} DICOM files {text} in a table with {argument('patient_col')}")
    if alike := len(patients) - len({without_signs(name) for name in patients if name}):
        text = "differ from another one in case or signs alone, and count as further patients. If they are one, name"
        sentences.append(f"{alike} Patient IDs of the DICOM files {text} it in a table with {argument('patient_col')}")
    return sentences


def unnamed_patients(columns: pd.DataFrame) -> list[str]:
    """What is said of a column that looks like the patients' where nobody named one: the one of fewest patients.

    Example:
        >>> unnamed_patients(pd.DataFrame({"patient_id": ["a", "a", "b"]}))[0][:69]
        "column 'patient_id' looks like patients (2 for 3 images), and no colu"
    """
    found = {name: columns[name].dropna() for name in columns if _PATIENTS.fullmatch(str(name).strip())}
    several = {name: cells.nunique() for name, cells in found.items() if 1 < cells.nunique() < len(cells)}
    if not several:
        return []
    name = min(several, key=lambda one: several[one])
    return [
        f"column '{name}' looks like patients ({several[name]} for {len(found[name])} images), and no column of them "
        f"is named: {_UNTOLD}. Name it with "
        f"{argument('patient_col', str(name))}"
    ]


def patients_in_names(paths: Sequence[str]) -> list[str]:
    """What is said of file names that hold an ID which several images share, as those of one patient do.

    Example:
        >>> patients_in_names(["CNV-1016042-1.jpg", "CNV-1016042-2.jpg", "DME-2710-1.jpg", "DME-2710-2.jpg"])[0][:63]
        "4 of 4 file names share an ID, first 'CNV-1016042' (2 images): "
    """
    files = {file_of(Path(path)).as_posix() for path in paths}
    counts = Counter(filter(None, (_id_in(PurePosixPath(without_ending(file)).name) for file in files)))
    shared = {name: n for name, n in counts.items() if n > 1}
    n_shared = sum(shared.values())
    if len(shared) < 2 or 2 * n_shared < len(files):
        return []
    first = min(shared)
    return [
        f"{n_shared} of {len(files)} file names share an ID, first '{first}' ({shared[first]} images): if it is a "
        f"patient's, {_UNTOLD}. Give a table with the patients with {argument('patient_col')}"
    ]


def _id_in(name: str) -> str:
    """What several files of one patient may share of their names; "" where nothing looks like an ID."""
    if named := _NAMED.search(name):
        return named[0]
    found = _NUMBERED.fullmatch(name)
    if not found or _DATE.fullmatch(found[1]):
        return ""
    return found[1] if re.search(r"\d{4}" if found[2] else r"\d", found[1]) else ""


def instance_uid(path: Path) -> str | None:
    """The SOP Instance UID of a DICOM file, or None where it has none or is no DICOM file.

    Only this element is read.
    """
    return _element(path, _SOP_INSTANCE_UID)


def patient_id(path: Path) -> str | None:
    """The Patient ID of a DICOM file, to be compared and never shown; None where it has none or is no DICOM file."""
    return _element(path, _PATIENT_ID)


def _element(path: Path, tag: int) -> str | None:
    try:
        with reading(path, "its header cannot be read"), file_of(path).open("rb") as file:
            header = read_layout(file, path, frozenset({tag})).header
    except ReadError:
        return None
    value = header[8:].rstrip(b"\0 ")  # tag and length, with or without VR, are 8 bytes
    return value.decode(errors="backslashreplace").strip() or None
