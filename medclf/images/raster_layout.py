"""What the headers of PNG, JPEG, TIFF and WebP files say, by bounded walks made before Pillow opens them.

Pillow loops over as many chunks, markers and directory entries as a file has, and reads what each
entry claims; a small hostile file keeps it busy for minutes or fills the memory.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medclf.errors import ReadError, TooLarge, UnsupportedFormat
from medclf.images.decoding_guard import check_expansion, exactly

_FEW_CHUNKS = 10_000
_SMALL_CHUNK = 512  # bytes; encoders write chunks of 8 KB and more
_MAX_MARKERS = 10_000
_MAX_SCANS = 200
_MAX_SCANNED = 2_500_000_000  # samples that all scans go over: seconds; a large photograph in ten scans has half
_MAX_PAGES = 10_000
_MAX_ENTRIES = 1_000
_MAX_STRIPS = 200_000
# What one byte of an encoding can stand for at most
_DEFLATE_EXPANSION = 1032
_JPEG_EXPANSION = 2048  # a flat progressive JPEG with shared chroma comes to half of it
_TIFF_EXPANSION = 4096  # LZW comes to 2731
_WEBP_EXPANSION, _WEBP_FREE = 4096, 1 << 24  # blank pixels take no bits at all
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_JPEGS = {6, 7}  # compressions of a TIFF
_FEWER_SCANS = "save it again as a baseline JPEG"
_FAX = {2, 3, 4}  # compressions of which one bit can stand for a whole blank line

_NO_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}  # with the FF 00 of stray data, which Pillow passes over
_FRAME_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # T.81 table B.1; F7 is JPEG-LS's (T.87)
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # but for those within coded data
_AGAIN = "get it again from where it came from, or leave it out"
JPEG_END = b"\xff\xd9"
SCAN_START = 0xDA
_TYPE_SIZE = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 259, 322, 323
_STRIPS, _TILES, _ROWS_PER_STRIP = 273, 324, 278
_BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _SAMPLES, _PLANAR = 258, 339, 262, 277, 284
_NEW_SUBFILE, _SUBFILE = 254, 255
_KEPT = {_WIDTH, _HEIGHT, _COMPRESSION, _TILE_WIDTH, _TILE_HEIGHT, _BITS, _SAMPLE_FORMAT, _PHOTOMETRIC, _SAMPLES}
_KEPT |= {_PLANAR, _NEW_SUBFILE, _SUBFILE, _ROWS_PER_STRIP}
_MAX_SAMPLES = 16  # of a pixel, whose bits and formats are looked at
_MAX_COPY = 512 << 20
# What a PNG holds beside its pixels, its palette and its transparency; of texts these two can turn the image
_ASIDE = {b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"eXIf"}
_TURNING = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")


class JpegHeader(NamedTuple):
    """A JPEG's frame header and which application markers stand before its first scan.

    `process` is the frame's marker (0xC0 baseline, 0xC2 progressive, 0xF7 JPEG-LS, ...), `scan` the
    place of the first scan's marker.
    """

    rows: int
    columns: int
    samples: int
    bits: int
    process: int
    component_ids: bytes
    applications: dict[int, bytes]
    scan: int


class Page(NamedTuple):
    """One directory of a TIFF; a tile's size is zero where it has none.

    `formats` tells how the samples are to be read: 1 unsigned, 2 signed, 3 floating point. `part` means that the
    page belongs to another one, as its thumbnail or mask.
    """

    width: int
    height: int
    compression: int = 1
    tile_width: int = 0
    tile_height: int = 0
    bits: int = 1
    formats: tuple[int, ...] = (1,)
    photometric: int | None = None
    samples: int = 1
    planar: int = 1
    part: bool = False
    pieces: int = 1  # strips or tiles
    rows_per_strip: int = 0  # 0 for all

    @property
    def needed(self) -> int:
        """How many strips or tiles hold all pixels."""
        rows, columns = self.tile_height or self.rows_per_strip or self.height, self.tile_width or self.width
        planes = self.samples if self.planar == 2 else 1
        return planes * -(-self.height // max(rows, 1)) * -(-self.width // max(columns, 1))


def tidy_png(file: BinaryIO, path: str | Path) -> BinaryIO:
    """A PNG without colour profile and texts, which can be larger than Pillow takes, and turned by what stands first.

    Where EXIF stands behind the pixels it is moved before them, so that the header tells which way is up.

    Returns:
        The file itself, at its start, where nothing needs to be done; else a copy in memory.

    Raises:
        TooLarge: more chunks than any encoder writes, or more pixels than its compressed data can hold.
        UnsupportedFormat: an animation.
    """
    most = max(_FEW_CHUNKS, file.seek(0, os.SEEK_END) // _SMALL_CHUNK)
    size = file.tell()
    file.seek(8)
    declared, stored, pixels_start = 0, 0, 0
    aside: list[tuple[int, int, bool]] = []  # start and end of what is left out or moved, and whether it is kept
    for _ in range(most):
        start = file.tell()
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            break
        length, name = struct.unpack(">I", head[:4])[0], head[4:]
        if name == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", exactly(file, 10))
            declared = height * (width * depth * _PNG_SAMPLES.get(colours, 4) // 8)
        elif name == b"acTL" and struct.unpack(">I", exactly(file, 4))[0] > 1:
            raise UnsupportedFormat(path, "a PNG animation", "save its frames as PNG")
        elif name == b"IDAT":
            stored += length
            pixels_start = pixels_start or start
        elif name in _ASIDE:
            turning = name == b"eXIf" or file.read(min(length, 22)).startswith(_TURNING)
            if pixels_start or not turning:
                aside.append((start, start + length + 12, turning))
        file.seek(start + length + 12)
    else:
        raise TooLarge(path, f"a PNG of more than {most} chunks")
    check_expansion(path, declared, min(stored, size), _DEFLATE_EXPANSION)
    if aside and size > _MAX_COPY:
        raise TooLarge(path, f"a PNG of more than {_MAX_COPY >> 20} MB with texts or a colour profile")
    file.seek(0)
    return _rearranged(file, aside, pixels_start) if aside and pixels_start else file


def _rearranged(file: BinaryIO, aside: list[tuple[int, int, bool]], pixels_start: int) -> BinaryIO:
    data = file.read()

    def rest(start: int, stop: int) -> bytes:
        pieces = []
        for left_out, end, _ in aside:
            if start <= left_out < stop:
                pieces.append(data[start:left_out])
                start = end
        return b"".join([*pieces, data[start:stop]])

    moved = b"".join(data[start:end] for start, end, turning in aside if turning)
    return io.BytesIO(rest(0, pixels_start) + moved + rest(pixels_start, len(data)))


def check_png(file: BinaryIO, path: str | Path, count: bool) -> None:
    """Refuse a PNG whose coded pixels are damaged, or fewer than its header says: Pillow takes both for whole.

    Args:
        file: whose header has been checked.
        path: for messages.
        count: whether its pixels may be too few. An interlaced file's are counted in any case.

    Raises:
        ReadError: a checksum of its pixels is another one, or rows are missing.
    """
    file.seek(8)
    inflate, held, needed = zlib.decompressobj(), 0, 0
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        data = memoryview(file.read(length + 4))
        if name == b"IHDR":
            needed = _png_bytes(*struct.unpack(">IIBBxxB", data[:13])) if count or data[12] else 0
        if name != b"IDAT":
            continue
        if len(data) == length + 4 and zlib.crc32(data[:-4], zlib.crc32(name)) != int.from_bytes(data[-4:], "big"):
            raise ReadError(path, "its coded pixels are damaged: their checksum is another one", _AGAIN)
        left: bytes | memoryview = data[:length]
        while left and held < needed and not inflate.eof:
            held += len(inflate.decompress(left, 1 << 20))
            left = inflate.unconsumed_tail
    if held < needed:
        raise ReadError(path, "truncated: its coded pixels end before its last row", _AGAIN)


def _png_bytes(width: int, height: int, depth: int, colours: int, interlaced: int) -> int:
    """How many bytes the rows of a PNG inflate to: each has one for its filter (PNG, sections 7.2 and 8.2)."""
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    sides = ((-(-(width - left) // right), -(-(height - top) // down)) for left, top, right, down in passes)
    bits = depth * _PNG_SAMPLES.get(colours, 4)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 < rows)


def check_scans(data: bytes, header: JpegHeader, path: str | Path) -> None:
    """Refuse a JPEG without its last scans: what they hold is detail or colour, and decoders do not miss it.

    Raises:
        ReadError: of a coefficient bits are missing (T.81, G.1.1.1).
    """
    sequential = header.process not in (0xC2, 0xCA)
    missing = {component: [1] * 64 for component in header.component_ids}
    place: int = header.scan
    while data[place + 1 : place + 2] == bytes([SCAN_START]):
        end = place + 5 + 2 * data[place + 4]
        first, last, bits = (0, 63, 0) if sequential else data[end : end + 3]
        for component in data[place + 5 : end : 2]:
            missing.setdefault(component, [0] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)
        if sequential and not any(map(any, missing.values())):
            return
        further = _MARKER.search(data, end + 3)
        while further and further[0][1] not in (SCAN_START, JPEG_END[1]):
            length = int.from_bytes(data[further.end() : further.end() + 2], "big")
            further = _MARKER.search(data, further.end() + length)
        place = further.start() if further else len(data)
    if any(map(any, missing.values())):
        raise ReadError(path, "truncated: a JPEG without its last scans", _AGAIN)


def jpeg_header(data: bytes, path: str | Path) -> JpegHeader:
    """Walk a JPEG or JPEG-LS up to its first scan.

    Raises:
        TooLarge: more markers or scans than any encoder writes, or more pixels than its bytes can hold.
        ReadError: no frame stands before the scan.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (4, 3)).save(file, "JPEG", progressive=True)
        >>> header = jpeg_header(file.getvalue(), "a.jpg")
        >>> header.rows, header.columns, header.samples, hex(header.process)
        (3, 4, 3, '0xc2')
    """
    frame: tuple[int, ...] = ()
    identifiers = b""
    applications: dict[int, bytes] = {}
    position = 2
    for _ in range(_MAX_MARKERS):
        marker, position = _next_marker(data, position, path)
        if marker == SCAN_START:
            break
        if marker in _NO_LENGTH:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        segment = data[position + 2 : position + length]
        if length < 2 or len(segment) != length - 2:
            raise ReadError(path, "a truncated JPEG")
        if marker in _FRAME_STARTS and not frame and length >= 8:
            frame = (marker, *struct.unpack(">BHHB", segment[:6]))
            identifiers = segment[6::3][: frame[4]]
        elif 0xE0 <= marker <= 0xEF:
            applications.setdefault(marker & 0xF, segment[:16])
        position += length
    else:
        raise TooLarge(path, f"a JPEG of more than {_MAX_MARKERS} markers")
    if not frame:
        raise ReadError(path, "a JPEG without a frame header")
    process, bits, rows, columns, samples = frame
    header = JpegHeader(rows, columns, samples, bits, process, identifiers, applications, position - 2)
    _check_jpeg_size(data, header, path)
    return header


def _next_marker(data: bytes, position: int, path: str | Path) -> tuple[int, int]:
    """The next marker's code and the position behind it; bytes between markers are skipped."""
    start = data.find(b"\xff", position)
    for end in range(start + 1, start + 1 + _MAX_MARKERS if start >= 0 else 0):
        code = data[end : end + 1]
        if not code:
            break
        if code != b"\xff":  # repeated FF are fill
            return code[0], end + 1
    raise ReadError(path, "a truncated JPEG: no scan follows its headers")


def _check_jpeg_size(data: bytes, header: JpegHeader, path: str | Path) -> None:
    """Refuse what costs far more than its bytes: thousands of scans, or a huge frame around nothing."""
    _check_scans(data[header.scan :], header.rows * header.columns, path)
    samples = header.rows * header.columns * header.samples
    if header.process < 0xC3:  # the processes that code blocks of 8 x 8 by Huffman codes
        check_expansion(path, samples, len(data), _JPEG_EXPANSION)


def _check_scans(data: bytes, pixels: int, path: str | Path) -> None:
    """Refuse scans that go over their image too often: each costs its pixels again, however few bytes it has.

    Args:
        data: one JPEG, or several.
        pixels: that each scan goes over.
        path: for messages.
    """
    n, scanned, place = 0, 0, data.find(b"\xff\xda")
    while place >= 0:
        n, scanned = n + 1, scanned + pixels * min(data[place + 4] if place + 4 < len(data) else 1, 4)
        if n > 1 and scanned > _MAX_SCANNED:  # one scan is bounded by the limits of pixels
            raise TooLarge(path, f"{n} JPEG scans or more over {pixels / 1e6:.0f} megapixels each", _FEWER_SCANS)
        place = data.find(b"\xff\xda", place + 2)
    if n > _MAX_SCANS and pixels:
        raise TooLarge(path, f"a JPEG of {n} scans, the limit is {_MAX_SCANS}", _FEWER_SCANS)


def tiff_pages(file: BinaryIO, path: str | Path) -> list[Page]:
    """Walk a TIFF's directories, leaving the file at its start.

    Raises:
        TooLarge: more pages, entries or values than any encoder writes.
        UnsupportedFormat: a big-endian BigTIFF, which Pillow takes for a small one.
        ReadError: truncated.

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3)).save(file, "TIFF")
        >>> tiff_pages(file, "a.tif")
        [Page(width=4, height=3, compression=1, ..., bits=8, formats=(1,), photometric=1, ...)]
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = exactly(file, 8)
    order = "<" if head[:2] == b"II" else ">"
    big = 43 in (head[2], head[3])
    if big and order == ">":
        raise UnsupportedFormat(path, "a big-endian BigTIFF", "save it as PNG or as a small TIFF")
    offset = struct.unpack(order + "Q", exactly(file, 8))[0] if big else struct.unpack(order + "I", head[4:])[0]
    pages: list[Page] = []
    seen: set[int] = set()
    while offset and offset not in seen:
        if len(pages) == _MAX_PAGES:
            raise TooLarge(path, f"a TIFF of more than {_MAX_PAGES} pages")
        seen.add(offset)
        file.seek(offset)
        page, offset = _directory(file, path, order, big, size)
        pages.append(page)
    file.seek(0)
    _check_jpeg_pages(file, pages, path)
    return pages


def _check_jpeg_pages(file: BinaryIO, pages: list[Page], path: str | Path) -> None:
    """Bound the scans of the JPEGs in a TIFF, one in each strip or tile: all may be those of the largest piece."""
    pieces = [page.width * page.height // max(page.pieces, 1) for page in pages if page.compression in _JPEGS]
    if pieces:
        data = file.read()
        file.seek(0)
        n = data.count(b"\xff\xda")
        if n * max(pieces) > _MAX_SCANNED:
            raise TooLarge(path, f"a TIFF of {n} JPEG scans over {max(pieces) / 1e6:.0f} megapixels", _FEWER_SCANS)


def _directory(file: BinaryIO, path: str | Path, order: str, big: bool, size: int) -> tuple[Page, int]:
    """One image file directory (TIFF 6.0, section 2) and the next one's offset."""
    count_code, count_size, entry_code, entry_size, next_code = (
        ("Q", 8, "HHQ", 20, "Q") if big else ("H", 2, "HHI", 12, "I")
    )
    count = struct.unpack(order + count_code, exactly(file, count_size))[0]
    if count > _MAX_ENTRIES:
        raise TooLarge(path, f"a TIFF page of {count} tags, the limit is {_MAX_ENTRIES}")
    entries = exactly(file, count * entry_size)
    after = file.tell()
    found: dict[int, tuple[int, ...]] = {}
    claimed, pieces = 0, 1
    for start in range(0, len(entries), entry_size):
        tag, kind, number = struct.unpack_from(order + entry_code, entries, start)
        claimed += number * _TYPE_SIZE.get(kind, 0)
        if tag in (_STRIPS, _TILES) and number > _MAX_STRIPS:
            raise TooLarge(path, f"a TIFF page of {number} strips or tiles, the limit is {_MAX_STRIPS}")
        if tag in (_STRIPS, _TILES):
            pieces = number
        if tag in _KEPT and number:
            value = entries[start + struct.calcsize(order + entry_code) : start + entry_size]
            if values := _values(file, value, order, kind, number):
                found[tag] = values
    if claimed > 2 * size:
        raise TooLarge(path, "a TIFF page whose tags claim more bytes than the file has")
    file.seek(after)
    following = file.read(struct.calcsize(next_code))
    offset = struct.unpack(order + next_code, following)[0] if len(following) > 3 else 0
    page = _page(found)._replace(pieces=pieces)
    if page.compression not in _FAX:
        ratio = 8 if page.compression in (0, 1) else _TIFF_EXPANSION  # uncompressed: 8 pixels of one bit
        check_expansion(path, page.width * page.height, size, ratio)
    return page, offset


def _page(found: dict[int, tuple[int, ...]]) -> Page:
    def first(tag: int, default: int = 0) -> int:
        return found.get(tag, (default,))[0]

    width, height, tile_width, tile_height = (first(tag) for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT))
    return Page(
        width,
        height,
        first(_COMPRESSION, 1),
        tile_width,
        tile_height,
        bits=max(found.get(_BITS, (1,))),
        formats=found.get(_SAMPLE_FORMAT, (1,)),
        photometric=first(_PHOTOMETRIC) if _PHOTOMETRIC in found else None,
        samples=first(_SAMPLES, 1),
        planar=first(_PLANAR, 1),
        rows_per_strip=first(_ROWS_PER_STRIP),
        # TIFF 6.0, tags 254 (bit 0 a reduced version, bit 2 a mask), 255 (2 a reduced version) and 262 (4 a mask)
        part=bool(first(_NEW_SUBFILE) & 5) or first(_SUBFILE) == 2 or first(_PHOTOMETRIC) == 4,
    )


def _values(file: BinaryIO, value: bytes, order: str, kind: int, number: int) -> tuple[int, ...]:
    """An entry's first whole numbers: those that fit stand in it, else their place; none if that is not in the file."""
    code = {1: "B", 3: "H", 16: "Q"}.get(kind, "I")
    number = min(number, _MAX_SAMPLES)
    size = struct.calcsize(f"{order}{number}{code}")
    if size > len(value):
        file.seek(struct.unpack(order + ("I" if len(value) == 4 else "Q"), value)[0])
        value = file.read(size)
    return struct.unpack_from(f"{order}{number}{code}", value) if len(value) >= size else ()


def webp_size(data: bytes, path: str | Path) -> tuple[int, int]:
    """Width and height of a WebP's canvas, by its first chunk (RFC 9649, sections 2.5 to 2.7).

    Raises:
        UnsupportedFormat: an animation.
        TooLarge: more pixels than its bytes can hold.
        ReadError: its first chunk tells no size.
    """
    kind, chunk = data[12:16], data[20:30]
    if kind == b"VP8X" and len(chunk) == 10:
        if chunk[0] & 2:
            raise UnsupportedFormat(path, "a WebP animation", "save its frames as PNG")
        width, height = (1 + int.from_bytes(chunk[start : start + 3], "little") for start in (4, 7))
    elif kind == b"VP8L" and chunk[:1] == b"\x2f":
        bits = int.from_bytes(chunk[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 " and chunk[3:6] == b"\x9d\x01\x2a":
        width, height = (int.from_bytes(chunk[start : start + 2], "little") & 0x3FFF for start in (6, 8))
    else:
        raise ReadError(path, "a WebP whose first chunk tells no size")
    check_expansion(path, width * height, len(data), _WEBP_EXPANSION, _WEBP_FREE)
    return width, height


def check_exif(exif: bytes, path: str | Path) -> None:
    """Check EXIF, a TIFF within a PNG or JPEG, before Pillow reads its tags.

    Raises:
        ReadError: as tiff_pages; TooLarge where its tags claim too much.
    """
    tiff_pages(io.BytesIO(exif.removeprefix(b"Exif\0\0")), path)
