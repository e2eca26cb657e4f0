"""Which files routinely have a patient's name written into the pixels themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medclf.errors import ReadError, UnsupportedFormat
from medclf.images.dicom import origin, safe_header
from medclf.images.preprocessing import Preprocessing
from medclf.images.reading import probe, read_pixels
from medclf.images.windowing import STRETCH

Reader = Callable[[Mapping[str, Any]], "np.ndarray | None"]

_ULTRASOUND = {"US", "IVUS", "BDUS"}
_ULTRASOUND_CLASSES = ("1.2.840.10008.5.1.4.1.1.3.1", "1.2.840.10008.5.1.4.1.1.6")
CAPTURE = "a secondary capture"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def why_withheld(path: str | Path) -> str:
    """Why a report should not show an image's pixels unless it is told to: "" where nothing speaks against it.

    Ultrasound and secondary captures (screens, scanned film) routinely carry the patient's name as pixels, and some
    files say that they do. That a DICOM file does not say so proves nothing, and other files cannot say it.

    Args:
        path: an image file.

    Returns:
        "ultrasound", "its burned-in flag is YES", "a secondary capture" (CAPTURE), or "".

    Raises:
        ReadError: a DICOM file whose header cannot be read.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> why_withheld(get_testdata_file("examples_palette.dcm")), why_withheld(get_testdata_file("CT_small.dcm"))
        ('ultrasound', '')
    """
    try:
        header = safe_header(path)
    except UnsupportedFormat:
        return ""  # no DICOM file
    kind = origin(path).sop_class
    if header["modality"] in _ULTRASOUND or kind.startswith(_ULTRASOUND_CLASSES):
        return "ultrasound"
    if header["burned_in_annotation"] == "YES":
        return "its burned-in flag is YES"
    return CAPTURE if kind == _SECONDARY_CAPTURE or kind.startswith(f"{_SECONDARY_CAPTURE}.") else ""


def withheld_among(root: Path, paths: Iterable[str]) -> dict[int, str]:
    """{place in `paths`: why} of the images that a report does not show unless it is told to.

    Raises:
        ReadError: a DICOM file whose header cannot be read.
    """
    reasons = {row: why_withheld(root / path) for row, path in enumerate(paths)}
    return {row: reason for row, reason in reasons.items() if reason}


class Withheld(ReadError):
    """A picture that is not shown although it could be read; `reason` says why."""


def read_picture(root: Path, how: Preprocessing, show_burned_in: bool, row: Mapping[str, Any]) -> np.ndarray:
    """The pixels of a row's image, (H, W) or (H, W, 3) uint8.

    Args:
        root: the data's folder.
        how: the run's; of it the window, frame and channels count.
        show_burned_in: whatever `why_withheld` says.
        row: its `path` is relative to `root`.

    Raises:
        Withheld: the image often carries the patient's name.
        ReadError: it cannot be read, or lies outside `root`.
    """
    return Pictures(root, how, show_burned_in)(row)


@dataclass(frozen=True)
class Pictures:
    """The `Reader` of a table's images.

    Args:
        root: as in `read_picture`, like the next two.
        how: see there.
        show_burned_in: see there.
        elsewhere: absolute paths that are read although they lie outside `root`.
        check: raises a ReadError where the image of a path is not the one that is meant.
    """

    root: Path
    how: Preprocessing
    show_burned_in: bool
    elsewhere: frozenset[str] = frozenset()
    check: Callable[[str], None] | None = None

    def __call__(self, row: Mapping[str, Any]) -> np.ndarray:
        """See `read_picture`."""
        return self.how.read(self._file(row))

    def all_bits(self, row: Mapping[str, Any]) -> np.ndarray | None:
        """All that a grey file of more than 8 bits holds, whatever the window; None of other files.

        Returns:
            (H, W) uint16, spread so that the smallest value is 0 and the largest 65535.

        Raises:
            Withheld, ReadError: as `read_picture`.
        """
        path = self._file(row)
        if probe(path).bits <= 8:
            return None
        pixels = read_pixels(path, window=STRETCH, frame=self.how.frame)
        return pixels if pixels.ndim == 2 and pixels.dtype == np.uint16 else None

    def _file(self, row: Mapping[str, Any]) -> Path:
        relative = Path(str(row["path"]))
        if str(relative) not in self.elsewhere and (relative.is_absolute() or ".." in relative.parts):
            raise ReadError(relative, "it is outside the data's folder")
        reason = "" if self.show_burned_in else why_withheld(self.root / relative)
        if reason:
            raise Withheld(relative, reason)
        if self.check:
            self.check(str(relative))
        return self.root / relative
