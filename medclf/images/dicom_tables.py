"""Lookup tables of a DICOM header: those of grey values, and the palette's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from medclf.images.dicom_frames import Form
from medclf.images.dicom_header import malformed, numbers
from medclf.images.raster_pixels import rescaled
from medclf.images.windowing import Lut

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def lut_item(header: Dataset, sequence: str) -> Dataset | None:
    """The first item that holds a table: LUT Data is of type 1C, and an item without it says nothing (PS3.3 C.11.2)."""
    for item in header.get(sequence) or ():
        data = item.get("LUTData")
        if data is not None and np.size(data) and data != b"":
            return cast("Dataset", item)
    return None


def lut(item: Dataset, signed: bool, little: bool, path: str | Path) -> Lut:
    """The table of a Modality or VOI LUT item; `signed` says how its first input is to be read."""
    descriptor = numbers(item, "LUTDescriptor", path, 3)
    return _table(descriptor, item.get("LUTData"), signed, little, "LUTData", path)


def _table(descriptor: tuple[int, ...], data: Any, signed: bool, little: bool, keyword: str, path: str | Path) -> Lut:
    """A lookup table from its descriptor (entries, first input, bits) and data (PS3.3 C.11.1.1.1)."""
    if data is None:
        raise malformed(keyword, path, "missing")
    count, first, bits = descriptor
    count = count or 65536
    first = first - 65536 if signed and first > 32767 else first
    try:
        if isinstance(data, bytes):
            entries = _unpacked(data, count, little)
        else:
            entries = np.atleast_1d(np.asarray(data, np.int64)) & 0xFFFF
    except (TypeError, ValueError):
        raise malformed(keyword, path) from None
    entries = entries[:count].astype(np.uint16)
    if not len(entries):
        raise malformed(keyword, path)
    return Lut(entries, first, max(min(bits, 16), int(entries.max()).bit_length()))


def _unpacked(data: bytes, count: int, little: bool) -> np.ndarray:
    """Entries of 16 bits, or of 8 bits two a word, of which the first is the lower half (PS3.3 C.7.6.3.1.6)."""
    if len(data) > count + 1:
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2")
    pairs = np.frombuffer(data, "u1")
    return pairs if little or len(pairs) % 2 else pairs.reshape(-1, 2)[:, ::-1].ravel()


def coloured(stored: np.ndarray, tables: list[Lut], form: Form) -> np.ndarray:
    """Palette indices to RGB (PS3.3 C.7.6.3.1.5 and 6); the entries tell 8 bits from more, since descriptors err."""
    sign = 1 << (form.stored - 1)
    codes = np.arange(1 << form.stored)
    numbers = (codes ^ sign) - sign if form.signed else codes
    deep = max(int(table.entries.max()) for table in tables) > 255
    colours = np.stack([table(numbers) for table in tables], axis=1).astype(np.uint16)
    return np.asarray(rescaled(colours, max(table.bits for table in tables) if deep else 8)[stored])


def palette(header: Dataset, signed: bool, little: bool, path: str | Path) -> list[Lut]:
    """The red, green and blue tables, expanded by pydicom where they are given in segments."""
    names = [f"{colour}PaletteColorLookupTable" for colour in ("Red", "Green", "Blue")]
    described = [numbers(header, f"{name}Descriptor", path, 3) for name in names]
    descriptors = [(count, first, bits if bits > 8 else 16) for count, first, bits in described]
    if f"{names[0]}Data" in header:
        data = [header.get(f"{name}Data") for name in names]
    else:
        from pydicom.pixels.processing import apply_color_lut

        count, first, _ = descriptors[0]
        data = list(apply_color_lut(np.arange(first, first + (count or 65536)), header).T)
    return [
        _table(descriptor, entries, signed, little, f"{name}Data", path)
        for descriptor, entries, name in zip(descriptors, data, names, strict=True)
    ]
