"""Values of a DICOM header: every one that breaks its value representation is refused by its own name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medclf.errors import ReadError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# Modality, PS3.3 C.7.3.1.1.1: the defined terms and the retired ones
MODALITIES = frozenset(
    "ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT "
    "IVUS KER KO LEN LS M3D MG MR NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG "
    "RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA "
    "XA XAPROTOCOL XC AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF".split()
)
_CODE = re.compile(r"[A-Z0-9 _]{1,16}")  # a Code String, PS3.5 6.2: no room for a sentence


def number(header: Dataset, keyword: str, path: str | Path) -> int | float | None:
    """An element's number, the first where it has several; None where it is absent or empty.

    Args:
        header: the data set, or an item of a sequence.
        keyword: the element, as pydicom calls it.
        path: for messages.

    Raises:
        ReadError: the value is no finite number; the message names the element and quotes nothing of the file.

    Example:
        >>> from pydicom.dataset import Dataset
        >>> header = Dataset()
        >>> header.WindowCenter = [40, 400]
        >>> number(header, "WindowCenter", "a.dcm"), number(header, "WindowWidth", "a.dcm")
        (40, None)
    """
    found = _listed(header, keyword, path)
    return found[0] if found else None


def window(header: Dataset, path: str | Path) -> tuple[float, float] | None:
    """Center and width of the first window that has both, which is the one to show; None where there is none.

    Raises:
        ReadError: as number.
    """
    centers, widths = (_listed(header, keyword, path) for keyword in ("WindowCenter", "WindowWidth"))
    for center, width in zip(centers, widths, strict=False):
        if center is not None and width is not None and width > 0:
            return center, width
    return None


def _listed(header: Dataset, keyword: str, path: str | Path) -> list[int | float | None]:
    """An element's numbers, None for each that is empty."""
    try:
        value = header.get(keyword)
        several = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
        return [None if one in (None, "") else _finite(one) for one in (value if several else [value])]
    except Exception:  # noqa: BLE001 - pydicom raises a dozen kinds at a malformed value
        raise malformed(keyword, path) from None


def _finite(value: Any) -> int | float:
    found = float(value)
    if not math.isfinite(found):
        raise ValueError
    return int(found) if found.is_integer() else found


def integer(header: Dataset, keyword: str, path: str | Path, default: int) -> int:
    """As `number`, of an element that holds whole numbers; `default` where it is absent, empty or 0.

    Raises:
        ReadError: as number, or it is no whole number.
    """
    found = number(header, keyword, path)
    if isinstance(found, float):
        raise malformed(keyword, path)
    return found or default


def numbers(header: Dataset, keyword: str, path: str | Path, n: int) -> tuple[int, ...]:
    """The `n` whole numbers of an element, such as a LUT Descriptor.

    Raises:
        ReadError: it is missing, there are not as many, or they are none.
    """
    if keyword not in header:
        raise malformed(keyword, path, "missing")
    try:
        found = tuple(int(value) for value in header.get(keyword))
    except Exception:  # noqa: BLE001 - as in `number`
        raise malformed(keyword, path) from None
    if len(found) != n:
        raise malformed(keyword, path)
    return found


def code(header: Dataset, keyword: str) -> str | None:
    """An element's Code String; None where it is absent, empty or free text, which could name somebody."""
    value = header.get(keyword)
    text = "" if value is None else str(value).strip()
    return text if _CODE.fullmatch(text) else None


def malformed(element: str | int, path: str | Path, how: str = "malformed") -> ReadError:
    """The error that names an element, given by its keyword or tag.

    Example:
        >>> print(malformed("WindowCenter", "a.dcm"))
        a.dcm: its header element Window Center (0028,1050) is malformed
        correct the element, or export the file again
    """
    from pydicom.datadict import dictionary_description, dictionary_has_tag, tag_for_keyword

    tag = (tag_for_keyword(element) or 0) if isinstance(element, str) else element
    name = f"{dictionary_description(tag)} " if dictionary_has_tag(tag) else ""
    reason = f"its header element {name}({tag >> 16:04x},{tag & 0xFFFF:04x}) is {how}"
    return ReadError(path, reason, "correct the element, or export the file again")
