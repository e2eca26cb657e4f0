"""Features of files, kept in the user's cache by encoder and content: each image is looked at once, ever."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from medclf.dataset.image_cache import FEATURES, cache_folder
from medclf.errors import OutputError
from medclf.files import replacing


def kept_features(
    encoder: str, digests: Sequence[str], compute: Callable[[list[int]], np.ndarray], *, folder: Path | None = None
) -> np.ndarray:
    """Features of files, computed for those alone that this encoder has not seen.

    Args:
        encoder: what tells it from others: architecture, weights, preprocessing; "" keeps nothing.
        digests: SHA-256 of each file; "" for one that is not kept.
        compute: rows of `digests` -> (rows, f) float32, NaN where a file cannot be read.
        folder: where they are kept; the user's cache folder where None.

    Returns:
        (n, f) float32.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> kept_features("a", ["0f", "1e"], lambda rows: np.ones((len(rows), 3)), folder=folder).shape
        (2, 3)
        >>> kept_features("a", ["1e"], lambda rows: 1 / 0, folder=folder).tolist()
        [[1.0, 1.0, 1.0]]
    """
    name = hashlib.blake2b(encoder.encode(), digest_size=12).hexdigest()
    file = (folder or cache_folder() / FEATURES) / f"{name}.npz"
    known = _read(file) if encoder else {}
    with contextlib.suppress(OSError):  # when it was last used; a cache that others share may be closed to writing
        os.utime(file)
    new = [row for row, digest in enumerate(digests) if digest not in known]
    fresh = np.asarray(compute(new), np.float32) if new else None
    width = fresh.shape[1] if fresh is not None else len(next(iter(known.values())))
    if any(len(vector) != width for vector in known.values()):
        known, new = {}, list(range(len(digests)))
        fresh = np.asarray(compute(new), np.float32)
    place = {row: index for index, row in enumerate(new)}
    found = [
        fresh[place[row]] if fresh is not None and row in place else known[digests[row]] for row in range(len(digests))
    ]
    result = np.stack(found) if found else np.zeros((0, width), np.float32)
    more = {digests[row]: result[row] for row in new if digests[row] and np.isfinite(result[row]).all()}
    if encoder and more:
        with contextlib.suppress(OutputError):  # what cannot be kept is computed again the next time
            _write(file, known | more)
    return result


def _read(file: Path) -> dict[str, np.ndarray]:
    """What is kept; nothing where the file is damaged, since nothing in a cache is worth an error."""
    try:
        with np.load(file, allow_pickle=False) as held:
            return dict(zip(held["digests"].tolist(), held["features"].astype(np.float32), strict=True))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}


def _write(file: Path, vectors: dict[str, np.ndarray]) -> None:
    with replacing(file) as temporary, temporary.open("wb") as handle:
        np.savez(handle, digests=np.array(list(vectors)), features=np.stack(list(vectors.values())))
