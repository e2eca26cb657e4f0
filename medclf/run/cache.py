"""What medclf keeps in the user's cache folder, and how it is removed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from medclf.dataset.image_cache import FEATURES, KEPT, STORES, cache_folder, list_stores, prune_stores


def describe_cache() -> Iterator[str]:
    """Lines for the terminal: what is kept, how much of it, and where."""
    for store in list_stores():
        held = "damaged" if store.n_images is None else f"{store.n_images} images"
        yield f"{store.megabytes:8.0f} MB, {held}, used {store.days_ago:.0f} days ago: {store.folder}"
    for name, what in KEPT.items():
        folder = cache_folder() / name
        if name != STORES and (n_bytes := _size(folder)):
            yield f"{n_bytes / 1e6:8.0f} MB, {what}: {folder}"


def clear_cache() -> Iterator[str]:
    """Remove all of it and say how much that was; what medclf did not put there stays."""
    freed = 0
    for name, what in KEPT.items():
        folder = cache_folder() / name
        before = _size(folder)
        if name == STORES:
            prune_stores(0)  # what another process is building stays
        else:
            shutil.rmtree(folder, ignore_errors=True)
        gone = before - _size(folder)
        freed += gone
        if gone:
            yield f"{gone / 1e6:.1f} MB of {what} removed"
    yield f"{freed / 1e6:.0f} MB freed"


def prune_cache(older_than_days: float) -> Iterator[str]:
    """Remove decoded images and features that were not used for some days; data sets stay."""
    stale = [file for file in (cache_folder() / FEATURES).glob("*.npz") if _days_ago(file) >= older_than_days]
    freed = prune_stores(older_than_days) + sum(map(_size, stale))
    for file in stale:
        file.unlink(missing_ok=True)
    yield f"{freed / 1e6:.0f} MB freed"


def _days_ago(file: Path) -> float:
    return (time.time() - file.stat().st_mtime) / 86400


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
