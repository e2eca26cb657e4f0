"""Where a DICOM file's elements lie, found without recursion or reading their values (PS3.5 7, PS3.10 7).

pydicom parses nested sequences by recursion, inflates without limit and reads every element. Here a
bounded walk finds what reading an image needs, and only that is handed to pydicom.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medclf.errors import ReadError, TooLarge
from medclf.images.decoding_guard import exactly

UNDEFINED = 0xFFFFFFFF
PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"

_TRANSFER_SYNTAX = 0x00020010
_PER_FRAME_GROUPS = 0x52009230
_OFFSETS, _OFFSET_LENGTHS = 0x7FE00001, 0x7FE00002
_NOTED = {_PER_FRAME_GROUPS, _OFFSETS, _OFFSET_LENGTHS, *PIXEL_TAGS}
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}

_MAX_NESTING = 32
_MAX_ELEMENTS = 200_000
_MAX_HEADER = 32 << 20
_MAX_INFLATED = 32 << 20
_FREE_INFLATED, _MAX_RATIO = 8 << 20, 100  # beyond so many bytes, pictures are never compressed so well


class Element(NamedTuple):
    """One element's place in the file; `length` is UNDEFINED where a delimiter ends it."""

    tag: int
    vr: bytes
    start: int
    value: int
    length: int


@dataclass(frozen=True)
class Layout:
    """A DICOM file walked up to its pixels.

    Attributes:
        file: the data set's bytes, inflated where they were deflated.
        syntax: Transfer Syntax UID.
        header: the wanted elements' bytes, one after another.
        places: where large elements lie that are read in part: frames' groups and offsets, the pixels.
        size: bytes of `file`.
    """

    file: BinaryIO
    syntax: str
    implicit: bool
    little: bool
    header: bytes
    places: dict[int, Element]
    size: int

    @property
    def pixels(self) -> Element | None:
        """The pixel data element, or None."""
        return next((self.places[tag] for tag in PIXEL_TAGS if tag in self.places), None)

    @property
    def frame_offsets(self) -> tuple[bytes, bytes] | None:
        """The Extended Offset Table and its lengths, where the file has both."""
        both = [self.places.get(tag) for tag in (_OFFSETS, _OFFSET_LENGTHS)]
        tables = [self._value(place) for place in both if place is not None]
        return (tables[0], tables[1]) if len(tables) == 2 and len(tables[0]) == len(tables[1]) else None

    def _value(self, element: Element) -> bytes:
        self.file.seek(element.value)
        return exactly(self.file, min(element.length, _MAX_HEADER))


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first bytes are those of a data set without the preamble, as older files are.

    Its first element is in group 2 or 8, with a small length.
    """
    if len(head) < 16:
        return False
    little = head[1] == 0
    group, number = struct.unpack("<HH" if little else ">HH", head[:4])
    if group not in (2, 8) or number > 0x0070:
        return False
    if head[4:6].isalpha() and head[4:6].isupper():
        return True
    return little and struct.unpack("<I", head[4:8])[0] <= 128


def read_layout(file: BinaryIO, path: str | Path, wanted: frozenset[int]) -> Layout:
    """Walk a DICOM file up to its pixel data.

    Args:
        file: open for reading, at its start.
        path: for messages.
        wanted: tags of the top-level elements to keep.

    Raises:
        TooLarge: nested too deep, too many elements, or inflates to too much.
        ReadError: truncated or no DICOM structure.
    """
    head = file.read(132)
    start = 132 if head[128:] == b"DICM" else 0
    size = file.seek(0, os.SEEK_END)
    syntax, start = _read_meta(file, path, start, size)
    if syntax == DEFLATED:
        file.seek(start)
        file = io.BytesIO(_inflated(file, path))
        start, size = 0, file.getbuffer().nbytes
    implicit, little = syntax == IMPLICIT, syntax != BIG_ENDIAN
    walk = _Walk(file, path, size, implicit, little)
    header, places = walk.until_pixels(start, wanted)
    return Layout(file, syntax, implicit, little, header, places, size)


def frame_group(layout: Layout, index: int, path: str | Path) -> bytes:
    """The elements of one frame's item of the Per-frame Functional Groups; empty where there are none.

    An enhanced multi-frame file has thousands of items; the others are stepped over.
    """
    place = layout.places.get(_PER_FRAME_GROUPS)
    if place is None:
        return b""
    walk = _Walk(layout.file, path, layout.size, layout.implicit, layout.little)
    end = layout.size if place.length == UNDEFINED else place.value + place.length
    layout.file.seek(place.value)
    for number in range(index + 1):
        if layout.file.tell() >= end or (item := walk.next_element()).tag != _ITEM:
            break
        walk.skip(item, look_inside=number == index)
        if number == index:
            stop = layout.file.tell() - (8 if item.length == UNDEFINED else 0)  # its delimiter
            layout.file.seek(item.value)
            return exactly(layout.file, min(stop - item.value, _MAX_HEADER))
    raise ReadError(path, f"has no functional groups for frame {index}")


def fragment_starts(layout: Layout, path: str | Path) -> tuple[int, list[bytes]]:
    """How many frames the basic table of offsets names, and the first bytes of each fragment of the compressed pixels.

    Bounded, since pydicom walks them all.

    Raises:
        TooLarge: more than any encoder writes.
    """
    assert layout.pixels is not None
    walk = _Walk(layout.file, path, layout.size, layout.implicit, layout.little)
    layout.file.seek(layout.pixels.value)
    in_table, starts = 0, list[bytes]()
    while layout.file.tell() + 8 <= layout.size and (item := walk.next_element()).tag == _ITEM:
        if walk.seen == 1:
            in_table = item.length // 4
        else:
            starts.append(layout.file.read(min(item.length, 8)))
        layout.file.seek(item.value + item.length)
    return in_table, starts


def _read_meta(file: BinaryIO, path: str | Path, start: int, size: int) -> tuple[str, int]:
    """The transfer syntax and where the data set begins; its first element tells where there is no file meta.

    It also tells explicit from implicit value representations, which some writers confuse in what they say.
    """
    walk = _Walk(file, path, size, implicit=False, little=True)
    syntax = ""
    file.seek(start)
    while (head := file.read(6))[:2] == b"\x02\0":
        file.seek(-6, os.SEEK_CUR)
        element = walk.next_element()
        if element.tag == _TRANSFER_SYNTAX:
            syntax = exactly(file, min(element.length, 128)).rstrip(b"\0 ").decode("ascii", "replace")
        walk.skip(element)
    file.seek(-len(head), os.SEEK_CUR)
    shown = _guess_syntax(head)
    return shown if not syntax or {syntax, shown} == {IMPLICIT, EXPLICIT} else syntax, file.tell()


def _guess_syntax(head: bytes) -> str:
    if head[:1] == b"\0" and head[1:2] != b"\0":
        return BIG_ENDIAN
    return EXPLICIT if head[4:6].isalpha() and head[4:6].isupper() else IMPLICIT


def _inflated(file: BinaryIO, path: str | Path) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    whole, taken = bytearray(), 0
    while not inflater.eof and (chunk := inflater.unconsumed_tail or file.read(1 << 16)):
        whole += inflater.decompress(chunk, 1 << 20)
        taken += len(chunk) - len(inflater.unconsumed_tail)
        small = len(whole) <= max(_FREE_INFLATED, _MAX_RATIO * taken)
        if len(whole) > _MAX_INFLATED or not small:
            limit = f"{_MAX_INFLATED >> 20} MB" if small else f"{_MAX_RATIO} times its size"
            raise TooLarge(
                path,
                f"deflated, and inflates to more than {limit}",
                "save it uncompressed or with a transfer syntax that compresses the pixels alone",
            )
    return bytes(whole)


class _Walk:
    """A cursor over the elements of a file; every loop is bounded and none recurses."""

    def __init__(self, file: BinaryIO, path: str | Path, size: int, implicit: bool, little: bool) -> None:
        self.file, self.path, self.size = file, path, size
        self.implicit, self.order = implicit, "<" if little else ">"
        self.seen = 0

    def until_pixels(self, start: int, wanted: frozenset[int]) -> tuple[bytes, dict[int, Element]]:
        """The wanted elements' bytes, and the places of those to be read in part."""
        self.file.seek(start)
        kept: list[bytes] = []
        places: dict[int, Element] = {}
        total = 0
        while self.file.tell() < self.size:
            element = self.next_element()
            if element.tag in _NOTED:
                places[element.tag] = element
            if element.tag in PIXEL_TAGS:
                break
            self.skip(element, look_inside=element.tag in wanted)
            if element.tag in wanted:
                end = self.file.tell()
                total += end - element.start
                if total > _MAX_HEADER:
                    raise TooLarge(self.path, f"its header holds more than {_MAX_HEADER >> 20} MB")
                self.file.seek(element.start)
                kept.append(exactly(self.file, end - element.start))
        return b"".join(kept), places

    def next_element(self, implicit: bool | None = None, order: str | None = None) -> Element:
        """Read one element's tag, VR and length; the file then stands at its value."""
        self.seen += 1
        if self.seen > _MAX_ELEMENTS:
            raise TooLarge(self.path, f"more than {_MAX_ELEMENTS} elements stand before its pixels")
        order = order or self.order
        start = self.file.tell()
        head = exactly(self.file, 8)
        group, number = struct.unpack(order + "HH", head[:4])
        tag, vr = group << 16 | number, head[4:6]
        plain = self.implicit if implicit is None else implicit
        if plain or group == 0xFFFE or not (vr.isalpha() and vr.isupper()):
            vr, length = b"", struct.unpack(order + "I", head[4:])[0]
        elif vr in _LONG:
            length = struct.unpack(order + "I", exactly(self.file, 4))[0]
        else:
            length = struct.unpack(order + "H", head[6:])[0]
        value = self.file.tell()
        if length != UNDEFINED and value + length > self.size and tag not in PIXEL_TAGS:
            raise ReadError(self.path, "truncated, or an element claims more bytes than the file has")
        return Element(tag, vr, start, value, length)

    def skip(self, element: Element, look_inside: bool = False) -> None:
        """Move behind an element, walking through sequences of undefined length; all with `look_inside`."""
        open_ones: list[_Open] = []
        implicit, order = self.implicit, self.order
        while True:
            if element.tag == _ITEM:
                open_ones.append(_Open(_end(element), implicit, order))
            elif element.tag in (_ITEM_END, _SEQUENCE_END):
                if open_ones:
                    implicit, order = open_ones.pop()[1:]
            elif element.length == UNDEFINED and element.vr in (b"OB", b"OW"):
                self._skip_fragments()
            elif element.length == UNDEFINED or (look_inside and element.vr == b"SQ"):
                open_ones.append(_Open(_end(element), implicit, order))
                if element.vr == b"UN":  # PS3.5 6.2.2: its content is implicit VR little endian in any file
                    implicit, order = True, "<"
            else:
                self.file.seek(element.value + element.length)
            if len(open_ones) > 2 * _MAX_NESTING:
                raise TooLarge(self.path, f"sequences are nested more than {_MAX_NESTING} deep")
            while open_ones and (end := open_ones[-1].end) is not None and self.file.tell() >= end:
                implicit, order = open_ones.pop()[1:]
            if not open_ones:
                return
            element = self.next_element(implicit, order)

    def _skip_fragments(self) -> None:
        while (element := self.next_element()).tag == _ITEM:
            self.file.seek(element.value + element.length)
        if element.tag != _SEQUENCE_END:
            raise ReadError(self.path, "compressed data without an end")


class _Open(NamedTuple):
    """An open sequence or item: its end, None where a delimiter is, and how what follows it is coded."""

    end: int | None
    implicit: bool
    order: str


def _end(element: Element) -> int | None:
    return None if element.length == UNDEFINED else element.value + element.length
