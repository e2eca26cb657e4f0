"""One frame of a DICOM file as stored values: every check that can be made comes before a decoder runs."""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from medclf.errors import MissingDecoder, ReadError, TooLarge, UnsupportedFormat
from medclf.images.decoding_guard import check_expansion, check_size, reading
from medclf.images.dicom_header import integer
from medclf.images.dicom_layout import PIXEL_TAGS, UNDEFINED, Layout, fragment_starts
from medclf.images.raster_layout import JPEG_END, SCAN_START, JpegHeader, jpeg_header
from medclf.images.raster_pixels import check_whole

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder
    from pydicom.uid import UID

_PHOTOMETRIC = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){1,31}")  # PS3.5 9.1
_BASELINE = "1.2.840.10008.1.2.4.50"
_DCT = {_BASELINE, "1.2.840.10008.1.2.4.51"}
_JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
_JPEG = _DCT | _JPEG_LS | {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
_JPEG_2000 = {f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203)}
_LOSSY = _DCT | {f"1.2.840.10008.1.2.4.{number}" for number in (81, 91, 203)}
_RLE = "1.2.840.10008.1.2.5"

_RLE_EXPANSION = 64  # two bytes stand for at most 128 (PS3.5 G.3)
# JPEG-LS and JPEG 2000 say "all black" in a few bytes: let a blank frame pass, but not a blank gigabyte
_FLAT_EXPANSION, _FLAT_FREE = 4096, 1 << 24
_ADOBE_RGB = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # version 100, no flags, transform 0
_STARTS = {b"\xff\xd8\xff": "JPEG", b"\xff\x4f\xff\x51": "JPEG 2000", b"\0\0\0\x0cjP": "JPEG 2000"}
_MAX_FRAMES = 100_000
_FLOATING = "its floating-point values have no range that says what is black"
_AGAIN = "export it again"
_OVERLAYS = 16  # values that four of them make on black, in the bits above 12
_MAX_TILES = 65_535  # as a tile-part's 16-bit index allows


@dataclass(frozen=True)
class Form:
    """The Image Pixel module's description of the stored values (PS3.3 C.7.6.3)."""

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool
    photometric: str
    planar: int

    @property
    def grey(self) -> bool:
        """Whether the pixels are grey, not RGB or a palette's indices."""
        return self.photometric.startswith("MONOCHROME")


def read_form(header: Dataset, path: str | Path, max_megapixels: float) -> Form:
    """Check a header's description of its pixels.

    Raises:
        TooLarge: rows x columns x samples exceed the limit, or the frames are more than any device writes.
        UnsupportedFormat: pixels of a kind that no reader of radiographs or photographs knows.
        ReadError: the description is missing or contradicts itself.
    """
    lacking = [name for name in ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation") if name not in header]
    if lacking:
        raise ReadError(path, f"its header does not describe an image: it lacks {', '.join(lacking)}")
    with reading(path, "its header does not describe an image"):
        form = Form(
            rows=integer(header, "Rows", path, 0),
            columns=integer(header, "Columns", path, 0),
            frames=integer(header, "NumberOfFrames", path, 1),
            samples=integer(header, "SamplesPerPixel", path, 1),
            allocated=(allocated := integer(header, "BitsAllocated", path, 0)),
            stored=integer(header, "BitsStored", path, allocated),
            high_bit=integer(header, "HighBit", path, 0),
            signed=integer(header, "PixelRepresentation", path, 0) == 1,
            photometric=str(header.PhotometricInterpretation).strip().upper(),
            planar=integer(header, "PlanarConfiguration", path, 0),
        )
    if form.photometric not in _PHOTOMETRIC:
        known = ", ".join(_PHOTOMETRIC)
        raise UnsupportedFormat(path, f"its photometric interpretation is none of {known}")
    if form.samples != _PHOTOMETRIC[form.photometric]:
        raise ReadError(path, f"its header says {form.photometric} with {form.samples} samples a pixel")
    if form.allocated == 64:  # as Double Float Pixel Data alone has it
        raise UnsupportedFormat(path, _FLOATING)
    if form.photometric.startswith("YBR_FULL") and form.stored > 8:
        reason = f"its {form.photometric} colours have {form.stored} bits; up to 8 can be turned into RGB"
        raise UnsupportedFormat(path, reason)
    if form.allocated not in (1, 8, 16, 32) or not 0 < form.stored <= form.allocated:
        raise UnsupportedFormat(path, f"it stores {form.stored} of {form.allocated} bits")
    check_size(path, (form.rows, form.columns, form.samples), max_megapixels)  # of a frame: no more are decoded
    if form.frames < 1:
        raise ReadError(path, f"declares {form.frames} frames")
    if form.frames > _MAX_FRAMES:
        raise TooLarge(path, f"declares {form.frames} frames, the limit is {_MAX_FRAMES}")
    return form


def read_frame(layout: Layout, form: Form, index: int, path: str | Path) -> np.ndarray:
    """Decode one frame; the others are neither read nor decoded.

    Args:
        layout: the file.
        form: from read_form.
        index: from 0.
        path: for messages.

    Returns:
        (H, W), or (H, W, 3) RGB for colour, of unsigned integers whose lower `form.stored` bits hold the
        values (two's complement where signed).

    Raises:
        ReadError: truncated, or the decoder fails.
        MissingDecoder: none is installed for the transfer syntax.
    """
    if layout.pixels is None:
        raise ReadError(path, "a DICOM file without pixels", "leave it out: it holds no image")
    if PIXEL_TAGS[layout.pixels.tag] != "PixelData":
        raise UnsupportedFormat(path, _FLOATING)
    syntax, decoder = _decoder(layout.syntax, path)
    if syntax.is_encapsulated:
        return _compressed_frame(layout, form, index, syntax, decoder, path)
    return _native_frame(layout, form, index, syntax, decoder, path)


def _decoder(uid: str, path: str | Path) -> tuple[UID, Decoder]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    if not _UID.fullmatch(uid):  # pydicom would quote it in a warning
        raise ReadError(path, "its transfer syntax is not a valid UID")
    syntax = UID(uid)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        reason = f"pydicom has no decoder for its transfer syntax, {syntax.name}"
        raise UnsupportedFormat(path, reason) from None
    if not decoder.is_available:
        raise _missing(syntax, path)
    return syntax, decoder


def _missing(syntax: UID, path: str | Path) -> MissingDecoder:
    return MissingDecoder(
        path,
        f"its transfer syntax, {syntax.name}, needs a decoder that is not installed",
        'install it with: pip install "medclf[dicom]"',
    )


def _options(form: Form, vr: bytes) -> dict[str, Any]:
    return {
        "rows": form.rows,
        "columns": form.columns,
        "number_of_frames": form.frames,
        "samples_per_pixel": form.samples,
        "bits_allocated": form.allocated,
        "bits_stored": form.stored,
        "photometric_interpretation": form.photometric,
        "pixel_representation": int(form.signed),
        "planar_configuration": form.planar,
        "pixel_keyword": "PixelData",
        "pixel_vr": vr.decode("ascii") or "OW",
        "correct_unused_bits": False,  # done here, high bit and lossy overshoot included
    }


def _native_frame(
    layout: Layout, form: Form, index: int, syntax: UID, decoder: Decoder, path: str | Path
) -> np.ndarray:
    assert layout.pixels is not None
    samples = 2 if form.photometric == "YBR_FULL_422" else form.samples
    needed = (form.rows * form.columns * samples * form.allocated * (index + 1) + 7) // 8
    there = layout.size - layout.pixels.value
    if layout.pixels.length != UNDEFINED:
        there = min(there, layout.pixels.length)
    if there < needed:
        raise ReadError(path, f"truncated: {needed - there} bytes of its pixels are missing")
    one = (form.rows * form.columns * form.samples * form.allocated + 7) // 8
    if layout.pixels.length != UNDEFINED and there >= one * (form.frames + 1):  # which pixels are meant?
        reason = f"its pixels have {there} bytes, and its header describes {one * form.frames}"
        raise ReadError(
            path, reason, "correct its Number of Frames, Rows, Columns or Bits Allocated, or export it again"
        )
    with reading(path, f"its {syntax.name} pixels cannot be decoded"):
        layout.file.seek(layout.pixels.value)
        options = _options(form, layout.pixels.vr)
        array, found = decoder.as_array(layout.file, index=index, **options)
    return _values(array, form, found, syntax, form.allocated, path)


def _compressed_frame(
    layout: Layout, form: Form, index: int, syntax: UID, decoder: Decoder, path: str | Path
) -> np.ndarray:
    from pydicom.encaps import encapsulate, get_frame

    assert layout.pixels is not None
    with reading(path, f"its {syntax.name} frames cannot be told apart"):
        in_table, starts = fragment_starts(layout, path)
        if len(starts) <= index:
            raise ReadError(path, f"truncated: it holds {len(starts)} of its {form.frames} frames")
        held = in_table or sum(_kind_of(start) != "" or syntax == _RLE for start in starts)
        if held > form.frames:
            reason = f"its pixels hold {held} frames, and its header describes {form.frames}"
            raise ReadError(path, reason, "correct its Number of Frames, or export it again")
        offsets = layout.frame_offsets  # moves the file's position
        layout.file.seek(layout.pixels.value)
        encoded = get_frame(layout.file, index, number_of_frames=form.frames, extended_offsets=offsets)
        options = _options(form, layout.pixels.vr) | {"number_of_frames": 1}
        encoded, precision, colours = _checked(encoded, form, syntax, path)
        shallow = precision == 8 and syntax in _DCT
        if colours and shallow:
            pixels = _colour_jpeg(encoded, colours)
            check_whole(encoded, jpeg_header(encoded, path), pixels, path)
            return pixels
        options["photometric_interpretation"] = colours or form.photometric
        if syntax != _RLE:  # decoders give whole pixels, whatever the header says of planes (PS3.3 C.7.6.3.1.3)
            options["planar_configuration"] = 0
        if syntax in _JPEG and precision <= 8:  # the decoder gives bytes, whatever is allocated
            options |= {"bits_allocated": 8, "bits_stored": min(form.stored, 8)}
    failure: ReadError | None = None
    for plugin in _plugins(decoder, "pillow" if shallow else "pylibjpeg"):
        try:
            with reading(path, f"its {syntax.name} pixels cannot be decoded"):
                whole = io.BytesIO(encapsulate([encoded]))
                array, found = decoder.as_array(whole, index=0, decoding_plugin=plugin, **options)
                values = _values(array, form, found, syntax, precision, path)
        except ReadError as error:
            failure = error
            continue
        if shallow:
            check_whole(encoded, jpeg_header(encoded, path), array, path)
        return values
    if "pylibjpeg" not in decoder.available_plugins:
        raise _missing(syntax, path)
    assert failure is not None
    remedy = "if a viewer shows it, another decoder may read it: pip install python-gdcm"
    raise ReadError(path, failure.reason, remedy)


def _plugins(decoder: Decoder, first: str) -> list[str]:
    """Decoders to try, in order: for JPEG of 8 bits Pillow, which every installation has and is the fastest.

    pydicom's own, for RLE, comes last: it is written in Python.
    """
    return sorted(decoder.available_plugins, key=lambda name: (name == "pydicom", name != first, name))


def _checked(encoded: bytes, form: Form, syntax: UID, path: str | Path) -> tuple[bytes, int, str]:
    """Compare a compressed frame's own size with the header's, since decoders trust the former.

    Returns:
        The frame, how many bits of each sample are coded, and the photometric interpretation that the frame itself
            tells, "" where it does not.
    """
    precision, colours = form.allocated, ""
    own = form.rows, form.columns, form.samples
    own_kind = _kind_of(encoded)
    if own_kind and (own_kind == "JPEG 2000") != (syntax in _JPEG_2000):
        raise ReadError(path, f"its pixels are {own_kind}, its header says {syntax.name}")
    if syntax in _JPEG:
        header = jpeg_header(encoded, path)
        if JPEG_END not in encoded[header.scan :]:  # which coded data cannot hold (T.81 B.1.1.5, T.87 A.1)
            raise ReadError(path, "a truncated JPEG: its end is missing")
        if syntax in _DCT and header.bits == 8 < form.stored:
            raise ReadError(path, f"its JPEG holds 8 bits a sample, its header says {form.stored}")
        own, precision = (header.rows, header.columns, header.samples), header.bits
        colours = _jpeg_colours(header, form, syntax) if form.samples == 3 else ""
        if header.process in (0xC0, 0xC1):
            encoded = _whole_spectrum(encoded, header.scan)
    elif syntax in _JPEG_2000:
        own, precision = _jpeg_2000_size(encoded, path)
        colours = "RGB" if form.samples == 3 and _transforms_colours(encoded) else ""
    samples = form.rows * form.columns * form.samples
    if syntax == _RLE:
        check_expansion(path, samples * form.allocated // 8, len(encoded), _RLE_EXPANSION, free=0)
        _check_segments(encoded, form, path)
    else:
        check_expansion(path, samples, len(encoded), _FLAT_EXPANSION, free=_FLAT_FREE)
    if own != (form.rows, form.columns, form.samples):
        said = " x ".join(str(side) for side in (form.rows, form.columns, form.samples))
        raise ReadError(path, f"its pixels are {' x '.join(map(str, own))}, its header says {said}")
    return encoded, precision, colours


def _check_segments(encoded: bytes, form: Form, path: str | Path) -> None:
    """Refuse an RLE frame whose segments are not those of its samples' bytes, one after the other (PS3.5 G.5)."""
    n, *starts = struct.unpack("<16I", encoded[:64].ljust(64, b"\0"))
    needed = -(-form.samples * form.allocated // 8)
    if n != needed:
        raise ReadError(path, f"its RLE pixels have {n} segments, and its header describes {needed}", _AGAIN)
    ends = [*starts[1:n], len(encoded)]
    if starts[0] != 64 or not all(start < end for start, end in zip(starts[:n], ends, strict=True)):
        raise ReadError(path, "its RLE segments do not follow one another", _AGAIN)


def _check_order(values: np.ndarray, form: Form, path: str | Path) -> None:
    """Refuse words whose bytes are swapped: bits lie above those stored, and none do the other way round."""
    above = form.high_bit + 1
    if values.dtype.itemsize != 2 or form.signed or not int(values.max()) >> above:
        return
    if not int(values.byteswap().max()) >> above and len(np.unique(values)) > _OVERLAYS:
        raise ReadError(path, f"the two bytes of each value are swapped: {form.stored} bits are stored", _AGAIN)


def _kind_of(encoded: bytes) -> str:
    """What a coded frame says that it is, "" where it does not or is the further part of a frame."""
    return next((kind for start, kind in _STARTS.items() if encoded.startswith(start)), "")


def _jpeg_colours(header: JpegHeader, form: Form, syntax: UID) -> str:
    """Photometric interpretation by the JPEG itself where it says so, in libjpeg's order (T.871; T.872 6.5.3)."""
    ybr = "YBR_FULL_422" if syntax == _BASELINE else "YBR_FULL"
    adobe = header.applications.get(14, b"")
    if header.applications.get(0, b"").startswith(b"JFIF"):
        return form.photometric if "YBR" in form.photometric else ybr
    if adobe.startswith(b"Adobe") and len(adobe) >= 12:
        return "RGB" if adobe[11] == 0 else ybr
    return "RGB" if header.component_ids in (b"RGB", b"rgb") else form.photometric


def _colour_jpeg(encoded: bytes, colours: str) -> np.ndarray:
    """A colour JPEG of 8 bits as the RGB that it would give as a file of its own.

    libjpeg goes by the stream's markers alone, and takes one without any for YCbCr: RGB is told by a marker.
    """
    if colours == "RGB":
        encoded = encoded[:2] + _ADOBE_RGB + encoded[2:]
    return np.asarray(JpegImageFile(io.BytesIO(encoded)).convert("RGB"))


def _whole_spectrum(encoded: bytes, scan: int) -> bytes:
    """Sequential scans hold coefficients 0 to 63 whatever they say (T.81 table B.3); some writers say 0 to 0."""
    components = encoded[scan + 4]
    spectrum = scan + 5 + 2 * components
    if encoded[scan + 1] != SCAN_START or encoded[spectrum : spectrum + 2] == b"\0\x3f":
        return encoded
    return encoded[:spectrum] + b"\0\x3f" + encoded[spectrum + 2 :]


def _jpeg_2000_size(encoded: bytes, path: str | Path) -> tuple[tuple[int, int, int], int]:
    """Rows, columns and components, and the bits of a sample, of the SIZ marker segment (T.800 A.5.1)."""
    start = encoded.find(b"\xff\x4f\xff\x51")
    if start < 0 or len(encoded) < start + 43:
        raise ReadError(path, "a truncated JPEG 2000 codestream")
    right, bottom, left, top, tile_width, tile_height = struct.unpack_from(">6I", encoded, start + 8)
    components = struct.unpack_from(">H", encoded, start + 40)[0]
    tiles = -(-right // max(1, tile_width)) * -(-bottom // max(1, tile_height))
    if tiles > _MAX_TILES:
        raise TooLarge(path, f"a JPEG 2000 codestream of {tiles} tiles")
    return (bottom - top, right - left, components), (encoded[start + 42] & 0x7F) + 1


def _transforms_colours(encoded: bytes) -> bool:
    """Whether a JPEG 2000 codestream was made of RGB: its decoder undoes the transform by itself (T.800 A.6.1)."""
    place = encoded.find(b"\xff\x4f\xff\x51") + 2
    while encoded[place : place + 2] not in (b"\xff\x52", b"\xff\x90", b""):  # COD; the first tile; the end
        place += 2 + int.from_bytes(encoded[place + 2 : place + 4], "big")
    return encoded[place : place + 2] == b"\xff\x52" and encoded[place + 8 : place + 9] == b"\1"


def _values(
    array: np.ndarray, form: Form, found: dict[str, Any], syntax: UID, precision: int, path: str | Path
) -> np.ndarray:
    """Unsigned integers whose lower `stored` bits hold the values; of colours and indices all else is dropped.

    `precision` is how many bits of each sample were coded: old files keep overlays in those above the stored ones.
    """
    if form.samples == 3 and found["photometric_interpretation"] != "RGB":
        raise UnsupportedFormat(path, f"its {form.photometric} colours cannot be turned into RGB")
    if array.dtype.kind == "f":
        raise UnsupportedFormat(path, "its values are floating-point")
    if syntax in _LOSSY:  # values can lie beyond; there are no bits above them
        low = -(1 << (form.stored - 1)) if form.signed else 0
        array = array.clip(low, low + (1 << form.stored) - 1) if array.dtype.itemsize * 8 > form.stored else array
    if form.grey and precision == form.allocated:
        _check_order(array, form, path)
    width = max(array.dtype.itemsize, form.allocated // 8)
    values = array.astype(f"{array.dtype.kind}{width}", copy=False).view(f"u{width}")
    shift = form.high_bit + 1 - form.stored
    if shift > 0 and precision > form.high_bit and syntax not in _LOSSY:  # else the coder has moved them down
        values = values >> values.dtype.type(shift)
    return values if form.grey else np.asarray(values & values.dtype.type((1 << form.stored) - 1))
