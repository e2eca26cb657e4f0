"""Every image decoded once, kept as a memory-mapped store of pixels at one size."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medclf.dataset.scan import file_hash
from medclf.errors import MedclfWarning, OutputError, ReadError, argument
from medclf.files import write_text
from medclf.images.preprocessing import Preprocessing
from medclf.parallel import map_ahead, n_cores
from medclf.progress import watch

STORES, FEATURES, DATASETS, DRAWN, BUNDLES = "stores", "features", "datasets", "drawn", "bundles"
KEPT = {  # folders of the cache: all that medclf writes there
    STORES: "decoded images",
    FEATURES: "features of images",
    DATASETS: "public data sets",
    DRAWN: "images drawn for the demo",
    BUNDLES: "fetched bundles",
}
FORMAT = 5
_AT_ONCE = 1024  # images copied to a device's memory
_PART = "part-"  # begins the name of a folder that is being filled
_UNREADABLE = "unreadable"  # a folder of empty files, named by digests


@dataclass
class ImageStore:
    """Pixels of many images at one size: a memory map of uint8, shape (n, height, width, channels).

    Args:
        folder: holds `pixels.u8` and `index.json`.
        shape: of the pixels.
        preprocessing: what made them.
        row_of: row of each file, by its path.
        problems: files that cannot be read and are not in it, with the reason.
        full_sizes: width and height of each file that is in it, before the resize, by its path.
    """

    folder: Path
    shape: tuple[int, int, int, int]
    preprocessing: Preprocessing
    row_of: dict[str, int]
    problems: dict[str, str] = field(default_factory=dict)
    full_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _map: np.ndarray | None = field(default=None, repr=False)
    _tensor: Tensor | None = field(default=None, repr=False)

    @property
    def pixels(self) -> np.ndarray:
        """The memory map, opened when first used, in each process by itself."""
        if self._map is None:
            self._map = np.memmap(self.folder / "pixels.u8", np.uint8, "r", shape=self.shape)
        return self._map

    def rows(self, items: Sequence[Any]) -> np.ndarray | None:
        """(n,) rows of `items`, or None where one of them is not in the store."""
        found = [self.row_of.get(str(item), -1) for item in items]
        return None if -1 in found else np.asarray(found)

    @property
    def device(self) -> torch.device | None:
        """Whose memory holds the whole store; None where batches are read from the disk."""
        return None if self._tensor is None else self._tensor.device

    def gather(self, rows: np.ndarray | Tensor) -> Tensor:
        """(n, channels, height, width) uint8, in channels-last memory.

        Args:
            rows: (n,) int64; of a store in a device's memory, best on that device.
        """
        if self._tensor is not None:
            return self._tensor[torch.as_tensor(rows, device=self._tensor.device)].permute(0, 3, 1, 2)
        return torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2)

    def to(self, device: torch.device | str) -> ImageStore:
        """Hold the whole store in the memory of `device`."""
        held = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for start in range(0, len(held), _AT_ONCE):
            held[start : start + _AT_ONCE] = torch.from_numpy(np.array(self.pixels[start : start + _AT_ONCE]))
        self._tensor = held
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the map and the tensor: a worker opens its own."""
        return {**self.__dict__, "_map": None, "_tensor": None}


def cache_folder() -> Path:
    """Where stores are kept: MEDCLF_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("MEDCLF_CACHE") or platformdirs.user_cache_path("medclf"))


@dataclass(frozen=True)
class StoreInfo:
    """A store on disk: its folder, size, number of images (None of a damaged one), and when it was last used."""

    folder: Path
    megabytes: float
    n_images: int | None
    days_ago: float


def list_stores(folder: Path | None = None) -> list[StoreInfo]:
    """The stores in the cache folder, the last used first."""
    found = []
    for store in (folder or cache_folder() / STORES).glob("*"):
        if not store.is_dir() or store.name == _UNREADABLE or store.name.startswith(_PART):
            continue
        index, described = _index(store), store / "index.json"
        days = (time.time() - (described if described.is_file() else store).stat().st_mtime) / 86400
        kept = sum(map(bool, index["digests"])) if index else None
        found.append(StoreInfo(store, _size(store) / 1e6, kept, days))
    return sorted(found, key=lambda store: store.days_ago)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def prune_stores(older_than_days: float, folder: Path | None = None) -> int:
    """Remove stores not used for some days, and what killed builders left a day ago or earlier.

    Args:
        older_than_days: 0 removes all.
        folder: where the stores are; the user's cache folder where None.

    Returns:
        Bytes freed.
    """
    folder = folder or cache_folder() / STORES
    stale = [store.folder for store in list_stores(folder) if store.days_ago >= older_than_days]
    stale += [*(folder / _UNREADABLE).glob("*")] if older_than_days == 0 else []
    stale += [
        part
        for part in folder.glob(f"{_PART}*")
        if time.time() - part.stat().st_mtime > min(1, older_than_days) * 86400
    ]
    freed = 0
    for path in stale:
        freed += _size(path)
        shutil.rmtree(path, ignore_errors=True)
    return freed


def build_stores(
    paths: Sequence[str],
    digests: Sequence[str],
    wanted: Sequence[Preprocessing],
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> list[ImageStore]:
    """One store for each of `wanted`, each file decoded once for all of them; a store that exists is opened.

    Args:
        paths: the files.
        digests: the sha256 of each, which with the preprocessing is a store's key.
        wanted: how a file becomes pixels, for each store; they differ in size and resize alone.
        folder: where stores are kept; the user's cache folder where None.
        progress: show a progress bar when it lasts.

    Returns:
        The stores, in the order of `wanted`. A file that cannot be read, or is no longer the one with that sha256, is
        in none, and named in `problems`; it is tried again each time, since a decoder may have been installed.

    Raises:
        OutputError: the cache folder cannot be written to, or the disk is full.
    """
    folder = folder or cache_folder() / STORES
    unique = dict(zip(digests, paths, strict=True))
    try:
        problems = _still_unreadable(folder, unique, wanted[0])
        while missing := [one for one in wanted if not _is_built(folder, unique.keys() - problems, one)]:
            problems |= _build(folder, unique, problems, missing, progress)
    except OSError as error:
        raise OutputError(
            f"{folder}: the cache cannot be written: {error.strerror or error}",
            f"free some space, point MEDCLF_CACHE elsewhere, or train with {argument('cache', False)}",
        ) from error
    held = unique.keys() - problems
    by_path = {path: problems[digest] for path, digest in zip(paths, digests, strict=True) if digest in problems}
    digest_of = {path: digest for path, digest in zip(paths, digests, strict=True) if digest in held}
    return [_open(folder / _key(held, one.as_dict()), one, digest_of, by_path) for one in wanted]


def _key(digests: Collection[str], settings: Mapping[str, Any]) -> str:
    described = json.dumps([FORMAT, settings], sort_keys=True)
    return hashlib.blake2b("\n".join([described, *sorted(digests)]).encode(), digest_size=16).hexdigest()


def _is_built(folder: Path, digests: Collection[str], wanted: Preprocessing) -> bool:
    """Whether the store is there, whole; one that is damaged is removed, since nothing in a cache is worth an error."""
    store = folder / _key(digests, wanted.as_dict())
    if not digests or not store.exists():
        return not digests
    index = _index(store)
    if (
        index
        and index["shape"][1:] == [*wanted.size, wanted.channels]
        and index.pop("checksum") == _checksum(store, index)
    ):
        return True
    warnings.warn(f"{store}: this store of decoded images is damaged and is made again", MedclfWarning, stacklevel=4)
    shutil.rmtree(store)
    return False


def _index(store: Path) -> dict[str, Any] | None:
    """What describes a store; None where it or the size of the pixels is not as `_build` leaves them."""
    try:
        index = json.loads((store / "index.json").read_text(encoding="utf-8"))
        shape, digests, sizes = index["shape"], index["digests"], index["full_sizes"]
        sound = index["format"] == FORMAT and isinstance(index["checksum"], str)
        sound = sound and len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape)
        sound = sound and len(digests) == len(sizes) == shape[0]
        sound = sound and all(digest is None or isinstance(digest, str) for digest in digests)
        sound = sound and all(size is None or (len(size) == 2 and all(map(int, size))) for size in sizes)
        return index if sound and (store / "pixels.u8").stat().st_size == math.prod(shape) else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _checksum(store: Path, index: Mapping[str, Any]) -> str:
    """Over the pixels and what describes them."""
    digest = hashlib.blake2b(json.dumps(index, sort_keys=True).encode(), digest_size=16)
    with (store / "pixels.u8").open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _still_unreadable(folder: Path, unique: dict[str, str], reading: Preprocessing) -> dict[str, str]:
    """Why which files cannot be read, of those that could not be read before; they are tried again.

    A store is named by what it holds, and this tells what it cannot hold before anything is decoded.
    """
    marks = folder / _UNREADABLE / _key((), reading.reading)
    problems = {}
    for digest in {mark.name for mark in marks.glob("*")} & unique.keys():
        try:
            _decoded(unique[digest], digest, reading)
        except ReadError as error:
            problems[digest] = error.problem
    return problems


def _mark_unreadable(folder: Path, digests: Collection[str], reading: Preprocessing) -> None:
    marks = folder / _UNREADABLE / _key((), reading.reading)
    for digest in digests:
        marks.mkdir(parents=True, exist_ok=True)
        (marks / digest).touch()


def _build(
    folder: Path,
    unique: dict[str, str],
    problems: Collection[str],
    wanted: Sequence[Preprocessing],
    progress: bool,
) -> dict[str, str]:
    """Fill temporary folders and rename them: whoever is first wins, and a killed one leaves no store.

    Returns:
        Further digests that cannot be read, and why; their rows stay empty.
    """
    order = sorted(unique.keys() - problems)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {one: Path(tempfile.mkdtemp(prefix=_PART, dir=folder)) for one in wanted}
    try:
        shapes = {one: (len(order), *one.size, one.channels) for one in wanted}
        maps = {one: _allocate(parts[one] / "pixels.u8", shapes[one]) for one in wanted}
        found: dict[str, str] = {}
        full_sizes: list[tuple[int, int] | None] = [None] * len(order)

        def fill(row: int) -> None:
            try:
                image = _decoded(unique[order[row]], order[row], wanted[0])
            except ReadError as error:
                found[order[row]] = error.problem
                return
            full_sizes[row] = image.shape[1], image.shape[0]
            for one, pixels in maps.items():
                pixels[row] = one.fit(image)

        filled = map_ahead(fill, range(len(order)), threads=n_cores(32))
        for _ in watch(filled, len(order), "Decoding images", progress=progress):
            pass
        _mark_unreadable(folder, found, wanted[0])
        digests = [None if digest in found else digest for digest in order]
        for one, pixels in maps.items() if len(found) < len(order) else ():
            pixels.flush()
            index = {"format": FORMAT, "shape": shapes[one], "digests": digests, "full_sizes": full_sizes}
            index["checksum"] = _checksum(parts[one], index)
            write_text(parts[one] / "index.json", json.dumps(index))
            with (parts[one] / "pixels.u8").open("rb") as file:
                os.fsync(file.fileno())
            target = folder / _key(set(order) - found.keys(), one.as_dict())
            try:
                parts[one].rename(target)
            except OSError:
                if not target.is_dir():  # not another builder's finished store
                    raise
    finally:
        for part in parts.values():
            shutil.rmtree(part, ignore_errors=True)
    return found


def _decoded(path: str, digest: str, reading: Preprocessing) -> np.ndarray:
    """The image, if the file is still the one with that digest: a store that holds another one would be found again.

    Raises:
        ReadError: it cannot be read, or has changed.
    """
    image = reading.read(path)
    try:
        same = file_hash(Path(path)) == digest
    except OSError:
        same = False
    if not same:
        raise ReadError(path, "it has changed since it was scanned")
    return image


def _allocate(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A map whose space is taken now: a full disk is an error here, not a bus error in a later write."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape, dtype=np.int64)))
        else:
            file.truncate(int(np.prod(shape, dtype=np.int64)))
    return np.memmap(path, np.uint8, "r+", shape=shape)


def _open(
    folder: Path, preprocessing: Preprocessing, digest_of: dict[str, str], problems: dict[str, str]
) -> ImageStore:
    if not digest_of:
        return ImageStore(folder, (0, *preprocessing.size, preprocessing.channels), preprocessing, {}, problems)
    index = json.loads((folder / "index.json").read_text())
    row_of_digest = {digest: row for row, digest in enumerate(index["digests"])}
    with contextlib.suppress(OSError):  # a cache that others share may be closed to writing
        os.utime(folder / "index.json")
    n = len(index["digests"])
    row_of = {path: row_of_digest[digest] for path, digest in digest_of.items()}
    width_height = index["full_sizes"]
    full_sizes = {path: (width_height[row][0], width_height[row][1]) for path, row in row_of.items()}
    shape = (n, *preprocessing.size, preprocessing.channels)
    return ImageStore(folder, shape, preprocessing, row_of, problems, full_sizes)
