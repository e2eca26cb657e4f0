"""What a service remembers of the images it answered: sketches, without pixels, names or patients."""

from __future__ import annotations

import json
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from medclf.errors import MedclfWarning
from medclf.files import is_number, writing
from medclf.metrics.ood import OodDetector

FOLDER, FILE, OLDER = "watch", "sketches.jsonl", "sketches-older.jsonl"
MAX_BYTES = 16 * 2**20
TAGS = ("modality", "view_position", "photometric_interpretation", "scanner")  # of DICOM; no other is kept
_AXES = 8
WHEN = "%Y-%m-%dT%H:%MZ"


def measures_of(detector: OodDetector | None, features: np.ndarray, pixels: np.ndarray) -> list[dict[str, float]]:
    """A few numbers an image: where its features lie, how bright and how rich in contrast it is.

    Args:
        detector: the bundle's, whose main axes say where; random projections where None.
        features: (n, f) pooled features.
        pixels: (n, H, W, C) uint8, prepared.

    Returns:
        n dicts of the same names.

    Example:
        >>> found = measures_of(None, np.ones((2, 16)), np.zeros((2, 8, 8, 3), np.uint8))
        >>> len(found), found[0]["brightness"]
        (2, 0.0)
    """
    values = np.asarray(features, np.float64)
    if detector is None:
        axes = np.random.default_rng(0).normal(size=(_AXES, values.shape[1])) / np.sqrt(values.shape[1])
        places, unlike = values @ axes.T, np.zeros(len(values))
    else:
        places = (values - detector.mean) @ detector.axes[:_AXES].T / np.sqrt(detector.spread[:_AXES])
        unlike = detector.score(values)
    grey = pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float64).mean(2)
    found = []
    for place, score, levels in zip(places, unlike, grey, strict=True):
        numbers = {f"feature axis {axis}": round(float(value), 3) for axis, value in enumerate(place, 1)}
        if detector is not None:
            numbers["distance from the training images"] = round(float(score), 4)
        numbers |= {"brightness": round(float(levels.mean()), 2), "contrast": round(float(levels.std()), 2)}
        found.append(numbers)
    return found


def sketch(
    prediction: Any, measures: Mapping[str, float], file: Mapping[str, Any], model: str, *, when: str | None = None
) -> dict[str, Any]:
    """One image as it is kept.

    Args:
        prediction: its probs and flags.
        measures: of `measures_of`.
        file: width, height and tags of the file; of tags only those of `TAGS`.
        model: hash of the bundle.
        when: UTC to the minute; now where None.
    """
    tags = file.get("tags") or {}
    kinds = {name: str(tags[name])[:48] for name in TAGS if tags.get(name)}
    if file.get("width"):
        kinds["size"] = f"{int(file['width'])}x{int(file['height'])}"
    probs = {label: round(float(p), 4) for label, p in prediction.probs.items()}
    same = hash((*measures.values(), *probs.values())) & 0xFFFFFFFF
    return {
        "id": secrets.token_hex(4),
        "when": when or datetime.now(timezone.utc).strftime(WHEN),
        "model": model[:16],
        "probs": probs,
        "flags": list(prediction.flags),
        "measures": dict(measures),
        "kinds": kinds,
        "image": f"{same:08x}",
    }


class SketchBook:
    """A file of sketches, one a line: whole lines at a kill, and never larger than it may be.

    Args:
        folder: where it lies; made where absent, for its owner alone.
        max_bytes: of both its files together: when the newer has half of that, it takes the older one's place.

    Raises:
        OutputError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> book = SketchBook(tempfile.mkdtemp())
        >>> book.add({"id": "0a"})
        >>> [row["id"] for row in book.rows()]
        ['0a']
    """

    def __init__(self, folder: str | Path, max_bytes: int = MAX_BYTES) -> None:
        self.folder, self._half = Path(folder), max_bytes // 2
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
            self._mend()

    def _open(self) -> int:
        return os.open(self.folder / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def _mend(self) -> None:
        """End a line that a kill cut short, so that the next one stands alone."""
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            os.write(self._file, b"\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a sketch in one write."""
        line = json.dumps(row, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        if os.fstat(self._file).st_size + len(line) > self._half:
            (self.folder / FILE).replace(self.folder / OLDER)
            os.close(self._file)
            self._file = self._open()
        os.write(self._file, line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def rows(self) -> list[dict[str, Any]]:
        """See `read_sketches`."""
        return read_sketches(self.folder)


def read_sketches(folder: str | Path) -> list[dict[str, Any]]:
    """The sketches of a folder, in the order in which they came; a damaged line is left out, with a warning."""
    found: list[dict[str, Any]] = []
    damaged = 0
    for name in (OLDER, FILE):
        file = Path(folder) / name
        lines: Sequence[str] = file.read_text(encoding="ascii", errors="replace").splitlines() if file.is_file() else ()
        for line in lines:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and "id" in row:
                found.append(row)
            else:
                damaged += 1
    if damaged:
        which = "1 line is" if damaged == 1 else f"{damaged} lines are"
        warnings.warn(f"{folder}: {which} damaged, and left out", MedclfWarning, stacklevel=2)
    return found


def is_whole(row: Mapping[str, Any], vocab: Sequence[str]) -> bool:
    """Whether a line has all that a sketch has, as `sketch` writes it.

    Example:
        >>> is_whole({"id": "0a"}, ["normal", "polyp"])
        False
    """
    try:
        datetime.strptime(row["when"], WHEN)
        probs, measures = [row["probs"][label] for label in vocab], [*row["measures"].values()]
        texts = [row["image"], *row["kinds"].values(), *row["flags"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
    numbers = bool(measures) and all(map(is_number, [*probs, *measures]))
    return numbers and all(0 <= p <= 1 for p in probs) and all(isinstance(text, str) for text in texts)
