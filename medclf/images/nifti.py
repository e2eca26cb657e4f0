"""NIfTI volumes as slices, through nibabel: cut across the thickest voxels, turned as radiologists look at them.

The reader's view: anterior at the top of an axial slice, the head at the top of the others; the patient's right on the
left; of a sagittal slice, anterior on the left.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from medclf.errors import MissingDecoder, ReadError, UnsupportedFormat
from medclf.images.decoding_guard import (
    MAX_MEGAPIXELS,
    Source,
    check_size,
    exactly,
    named,
    opened,
    quietly,
    reading,
)
from medclf.images.raster import RasterInfo
from medclf.images.windowing import STRETCH, SampleWindow, voi_window
from medclf.parallel import ForkSafeLock

_FIRST, _SECOND = 348, 540  # bytes of the header of NIfTI-1 and -2
_MAX_OFFSET = 1 << 24  # bytes before the voxels
_MAX_REST = 1 << 20  # bytes behind the voxels
_AGAIN = "get it again from where it came from, or leave it out"
_AXIAL = 2


class _Header(NamedTuple):
    """What the header says; the axes are those of the patient: right, anterior, superior."""

    shape: tuple[int, ...]  # as stored
    dtype: np.dtype[Any]
    offset: int
    slope: float
    inter: float
    turn: np.ndarray  # (3, 2) from stored axes to the patient's
    axis: int  # across which slices are cut
    n_slices: int
    height: int
    width: int
    placed: bool  # whether the file says how it lies in space, or the directions are guessed

    @property
    def plain(self) -> bool:
        """Whether values are grey levels already."""
        return self.dtype == np.uint8 and (self.slope, self.inter) == (1, 0)


class _Volume(NamedTuple):
    header: _Header
    values: np.ndarray  # (right, anterior, superior) as stored
    low: float
    high: float


class _LastVolumes:
    """The volumes that were read last, kept since their slices are asked for one by one."""

    def __init__(self, at_most: int) -> None:
        self._at_most = at_most
        self._kept: OrderedDict[Any, _Volume] = OrderedDict()
        self._lock = ForkSafeLock()

    def read(self, file: BinaryIO, path: str | Path, max_megapixels: float) -> _Volume:
        """The volume; its file is read where none is kept of it."""
        key = _key(file)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = _load(file, path, max_megapixels)
            self._kept.move_to_end(key)
            while len(self._kept) > self._at_most:
                self._kept.popitem(last=False)
            found = self._kept[key]
        check_size(path, found.header.shape, max_megapixels)
        return found

    def clear(self) -> None:
        """Keep none."""
        with self._lock:
            self._kept.clear()


_VOLUMES = _LastVolumes(2)


def forget() -> None:
    """Let go of the volumes that were read last."""
    _VOLUMES.clear()


def looks_like_nifti(head: bytes) -> bool:
    """Whether a file begins as NIfTI-1 or -2 does, compressed or not.

    Args:
        head: its first 4,096 bytes, or all that it has.
    """
    if head[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(31).decompress(head, _FIRST)
        except zlib.error:
            return False
    return head[344:348] == b"n+1\0" or head[4:12] == b"n+2\0\r\n\x1a\n"


def nifti_info(file: BinaryIO, path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> RasterInfo:
    """Size, bits and number of slices from the header.

    Raises:
        ReadError: the header cannot be read; MissingDecoder without nibabel.
    """
    found = _header(_stream(file), path, max_megapixels)
    return RasterInfo(found.width, found.height, 8 if found.plain else 16, 1, found.n_slices)


def says_how_it_lies(path: Source) -> bool:
    """Whether a volume says where right, anterior and superior are (qform or sform code above 0).

    Without a word, its first axis is taken to run from right to left, the second from posterior to anterior and the
    third from inferior to superior, as nibabel has it.

    Raises:
        ReadError: the header cannot be read; MissingDecoder without nibabel.
    """
    with opened(path) as file:
        return _header(_stream(file), named(path), MAX_MEGAPIXELS).placed


def value_range(path: Source) -> tuple[float, float]:
    """The smallest and the largest value of a volume.

    Raises:
        ReadError: as `read_nifti`.
    """
    with opened(path) as file:
        volume = _VOLUMES.read(file, named(path), MAX_MEGAPIXELS)
        return volume.low, volume.high


def read_nifti(
    file: BinaryIO,
    path: str | Path,
    window: SampleWindow,
    frame: Any,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """One slice of a volume.

    Args:
        file: open for reading, at its start.
        path: for messages.
        window: (center, width) in the volume's values; "stretch" spreads the slice's smallest to largest value; None
            those of the whole volume, so that slices can be compared.
        frame: the slice to read, as a function of how many there are.
        max_megapixels: voxels allowed, in millions.

    Returns:
        (H, W) uint8 of unscaled bytes, else uint16 (0..65535).

    Raises:
        ReadError: broken; UnsupportedFormat, TooLarge and MissingDecoder as their names say.
    """
    volume = _VOLUMES.read(file, path, max_megapixels)
    header = volume.header
    number = frame(header.n_slices)
    plane = np.take(volume.values, number, axis=header.axis)[::-1, ::-1].T
    if header.plain and window is None:
        return np.ascontiguousarray(plane)
    values = plane * header.slope + header.inter
    if window is None or window == STRETCH:
        low, high = _ends(values) if window else (volume.low, volume.high)
        fraction = np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(values.shape)
    else:
        center, width = cast(tuple[float, float], window)
        fraction = voi_window(values, center, width, "LINEAR_EXACT")  # LINEAR takes whole numbers, as DICOM has them
    return np.floor(np.nan_to_num(fraction) * 65535 + 0.5).astype(np.uint16)  # what has no value (NaN) is black


def _ends(values: np.ndarray) -> tuple[Any, Any]:
    """The smallest and the largest value, but for voxels without one, which are NaN."""
    return np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)


def has_gaps(path: Source) -> bool:
    """Whether voxels of a volume have no value (NaN), as outside of what was measured; they are shown black.

    Raises:
        ReadError: as `read_nifti`.
    """
    with opened(path) as file:
        floating = _header(_stream(file), named(path), MAX_MEGAPIXELS).dtype.kind == "f"
        file.seek(0)
        return floating and bool(np.isnan(_VOLUMES.read(file, named(path), MAX_MEGAPIXELS).values).any())


def _stream(file: BinaryIO) -> BinaryIO:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file


def _header(stream: BinaryIO, path: str | Path, max_megapixels: float) -> _Header:
    try:
        import nibabel
    except ImportError:
        raise MissingDecoder(path, "NIfTI volumes need nibabel", "pip install 'medclf[nifti]'") from None

    with reading(path, "its NIfTI header cannot be read"), quietly():
        block = exactly(stream, _FIRST)
        second = block[4:8] == b"n+2\0"
        block += exactly(stream, _SECOND - _FIRST) if second else b""
        found = (nibabel.Nifti2Header if second else nibabel.Nifti1Header)(block, check=False)
        shape, dtype = tuple(int(side) for side in found.get_data_shape()), found.get_data_dtype()
        slope, inter = found.get_slope_inter()
        affine, offset = found.get_best_affine(), int(found["vox_offset"])
        placed = bool(found["sform_code"] or found["qform_code"])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        sizes = " x ".join(map(str, shape))
        raise UnsupportedFormat(path, f"holds several volumes ({sizes})", "save each volume as a file of its own")
    shape = (*shape, 1, 1, 1)[:3]
    check_size(path, shape, max_megapixels)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise UnsupportedFormat(path, f"its voxels are {dtype}, no plain numbers", "save it with integers or floats")
    if not len(block) <= offset <= _MAX_OFFSET:
        raise ReadError(path, f"its header says that the voxels begin at byte {offset}")
    with reading(path, "its orientation cannot be told"):
        turn = nibabel.orientations.io_orientation(affine)
        stored = nibabel.affines.voxel_sizes(affine)
    if not np.isfinite(turn).all() or not np.isfinite(stored).all():
        raise ReadError(path, "its header does not say how it lies in space", "save it with a valid affine")
    sides, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    for before, (after, _) in enumerate(turn.astype(int)):
        sides[after], spacing[after] = shape[before], float(stored[before])
    axis = _across(sides, spacing)
    width, height = (side for place, side in enumerate(sides) if place != axis)
    slope, inter = float(1 if slope is None else slope), float(0 if inter is None else inter)
    return _Header(shape, dtype, offset, slope, inter, turn, axis, sides[axis], height, width, placed)


def _across(sides: list[int], spacing: list[float]) -> int:
    """The axis that slices are cut across: one of a single voxel, else the thickest, else from foot to head."""
    single = [place for place, side in enumerate(sides) if side == 1]
    if single:
        return single[-1]
    thickest = int(np.argmax(spacing))
    return thickest if spacing[thickest] > 1.01 * spacing[_AXIAL] else _AXIAL


def _key(file: BinaryIO) -> Any:
    try:
        facts = os.fstat(file.fileno())
    except (OSError, io.UnsupportedOperation):
        digest = hashlib.sha256(file.read()).digest()
        file.seek(0)
        return digest
    return facts.st_dev, facts.st_ino, facts.st_mtime_ns, facts.st_size


def _load(file: BinaryIO, path: str | Path, max_megapixels: float) -> _Volume:
    stream = _stream(file)
    header = _header(stream, path, max_megapixels)
    with reading(path, "its voxels cannot be read"):
        stream.seek(header.offset)
        data = exactly(stream, int(np.prod(header.shape)) * header.dtype.itemsize)
        if stream is not file and len(stream.read(_MAX_REST)) == _MAX_REST:  # at its end the checksum is compared
            raise ReadError(path, "its compressed voxels are damaged, or are more than its header says", _AGAIN)
    import nibabel

    stored = np.frombuffer(data, header.dtype).reshape(header.shape, order="F")
    low, high = (float(end) for end in _ends(stored))
    if not (np.isfinite(low) and np.isfinite(high) and np.isfinite([header.slope, header.inter]).all()):
        why = "some of its voxels are infinite, or all have no value (NaN)"
        raise ReadError(path, why, "replace them, for example by the background")
    ends = sorted((low * header.slope + header.inter, high * header.slope + header.inter))
    return _Volume(header, nibabel.orientations.apply_orientation(stored, header.turn), *ends)
