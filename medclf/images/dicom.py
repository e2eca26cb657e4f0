"""DICOM files to pixels; the only importer of pydicom.

Stored values go through the modality LUT or rescale, the VOI LUT or window, then MONOCHROME1's
inversion (PS3.3 C.7.6.3, C.11.1, C.11.2). Only the elements that takes are ever parsed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from medclf.errors import MissingDecoder, ReadError, UnsupportedFormat
from medclf.images.dicom_layout import PIXEL_TAGS, Layout, looks_like_dicom, read_layout
from medclf.images.grey import GreyRules, Lut, render_grey
from medclf.images.guard import MAX_MEGAPIXELS, check_size, quietly, reading
from medclf.images.raster import RasterInfo, rescaled

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["dicom_info", "looks_like_dicom", "read_dicom"]

_IMAGE_TAGS = frozenset(
    {
        0x00080060,  # Modality
        0x00280002,  # Samples per Pixel
        0x00280004,  # Photometric Interpretation
        0x00280006,  # Planar Configuration
        0x00280008,  # Number of Frames
        0x00280010,  # Rows
        0x00280011,  # Columns
        0x00280100,  # Bits Allocated
        0x00280101,  # Bits Stored
        0x00280102,  # High Bit
        0x00280103,  # Pixel Representation
        0x00280120,  # Pixel Padding Value
        0x00280121,  # Pixel Padding Range Limit
        0x00281050,  # Window Center
        0x00281051,  # Window Width
        0x00281052,  # Rescale Intercept
        0x00281053,  # Rescale Slope
        0x00281056,  # VOI LUT Function
        0x00281101,  # Palette: descriptors, data, segmented data of red, green, blue
        0x00281102,
        0x00281103,
        0x00281201,
        0x00281202,
        0x00281203,
        0x00281221,
        0x00281222,
        0x00281223,
        0x00283000,  # Modality LUT Sequence
        0x00283010,  # VOI LUT Sequence
        0x7FE00001,  # Extended Offset Table
        0x7FE00002,  # Extended Offset Table Lengths
    }
)


@dataclass(frozen=True)
class _Form:
    """The Image Pixel module's description of the stored values."""

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


def dicom_info(file: BinaryIO, path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> RasterInfo:
    """Size, bits, channels and frames from the header, without decoding.

    Raises:
        ReadError: the header cannot be read, or declares no image.
    """
    layout, header = _open(file, path)
    form = _form(header, path, max_megapixels)
    _require_pixels(layout, path)
    return RasterInfo(form.columns, form.rows, form.stored, 1 if _is_grey(form) else 3, form.frames)


def read_dicom(
    file: BinaryIO,
    path: str | Path,
    window: tuple[float, float] | None,
    frame: Callable[[int], int],
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """Decode one frame of a DICOM file into what a reader would see.

    Args:
        file: open for reading, at its start.
        path: for messages.
        window: (center, width) in place of the file's own, or None.
        frame: the frame to read, as a function of how many there are; others are not decoded.
        max_megapixels: rows x columns x frames x samples allowed, in millions.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 (0..65535) where more than 8 bits are stored.

    Raises:
        ReadError: broken; UnsupportedFormat, TooLarge and MissingDecoder as their names say.
    """
    layout, header = _open(file, path)
    form = _form(header, path, max_megapixels)
    _require_pixels(layout, path)
    index = frame(form.frames)
    stored = _decode(layout, header, form, index, path)
    with reading(path, "the pixels cannot be shown as its header says"), quietly():
        if form.photometric == "PALETTE COLOR":
            return _palette(stored, header, form)
        if not _is_grey(form):
            return rescaled(_masked(stored, form.stored), form.stored)
        return render_grey(stored, _grey_rules(header, form), window)


def _open(file: BinaryIO, path: str | Path) -> tuple[Layout, Dataset]:
    from pydicom.filereader import read_dataset

    with reading(path, "the DICOM header cannot be read"), quietly():
        layout = read_layout(file, path, _IMAGE_TAGS)
        header = read_dataset(io.BytesIO(layout.header), layout.implicit, layout.little)
        for element in header:  # converts each value now, inside the boundary
            del element
    return layout, header


def _require_pixels(layout: Layout, path: str | Path) -> None:
    if layout.pixels is None:
        raise ReadError(path, "a DICOM file without pixels", "leave it out: it holds no image")
    if PIXEL_TAGS[layout.pixels.tag] != "PixelData":
        raise UnsupportedFormat(path, "floating-point pixels have no range that says what is black and white")


def _form(header: Dataset, path: str | Path, max_megapixels: float) -> _Form:
    with reading(path, "the DICOM header describes no image"):
        form = _Form(
            rows=int(header.Rows),
            columns=int(header.Columns),
            frames=int(header.get("NumberOfFrames") or 1),
            samples=int(header.get("SamplesPerPixel") or 1),
            allocated=int(header.BitsAllocated),
            stored=int(header.get("BitsStored") or header.BitsAllocated),
            high_bit=int(header.get("HighBit") or 0),
            signed=header.get("PixelRepresentation") == 1,
            photometric=str(header.PhotometricInterpretation).strip(),
            planar=int(header.get("PlanarConfiguration") or 0),
        )
    check_size(path, (form.rows, form.columns, form.frames, form.samples), max_megapixels)
    depth = form.allocated in (1, 8, 16, 32) and 0 < form.stored <= form.allocated
    if form.samples not in (1, 3) or not depth:
        found = f"{form.samples} samples a pixel, {form.stored} of {form.allocated} bits"
        raise UnsupportedFormat(path, f"{found}, which are not supported")
    return form


def _is_grey(form: _Form) -> bool:
    return form.samples == 1 and form.photometric != "PALETTE COLOR"


def _decode(layout: Layout, header: Dataset, form: _Form, index: int, path: str | Path) -> np.ndarray:
    """Stored values of one frame as unsigned integers."""
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = UID(layout.syntax)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnsupportedFormat(path, f"pydicom decodes no {syntax.name}, its transfer syntax") from None
    if not decoder.is_available:
        raise MissingDecoder(
            path,
            f"its transfer syntax, {syntax.name}, needs a decoder that is not installed",
            'install one with: pip install "medclf[dicom]"',
        )
    assert layout.pixels is not None
    options: dict[str, Any] = {
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
        "pixel_vr": layout.pixels.vr.decode() or "OW",
        "correct_unused_bits": False,
    }
    with reading(path, f"its {syntax.name} pixels cannot be decoded"):
        layout.file.seek(layout.pixels.value)
        if syntax.is_encapsulated:
            encoded = get_frame(layout.file, index, number_of_frames=form.frames)
            options["number_of_frames"] = 1
            array, _ = decoder.as_array(encapsulate([encoded]), index=0, **options)
        else:
            array, _ = decoder.as_array(layout.file, index=index, **options)
    width = array.dtype.itemsize
    return array.view(f"{array.dtype.byteorder}u{width}").astype(f"u{width}", copy=False)


def _masked(stored: np.ndarray, bits: int) -> np.ndarray:
    return stored & stored.dtype.type((1 << bits) - 1)


def _palette(stored: np.ndarray, header: Dataset, form: _Form) -> np.ndarray:
    from pydicom.pixels.processing import apply_color_lut

    colours = apply_color_lut(_masked(stored, form.stored), header)
    return colours[..., :3]


def _grey_rules(header: Dataset, form: _Form) -> GreyRules:
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    modality_lut = _lut(header.get("ModalityLUTSequence"), form.signed)
    return GreyRules(
        bits_stored=form.stored,
        signed=form.signed,
        inverted=form.photometric == "MONOCHROME1",
        slope=1.0 if slope is None else float(slope),
        intercept=0.0 if intercept is None else float(intercept),
        modality_lut=modality_lut,
        voi_lut=_lut(header.get("VOILUTSequence"), form.signed),
        window=_window(header),
        function=str(header.get("VOILUTFunction") or "LINEAR"),
    )


def _window(header: Dataset) -> tuple[float, float] | None:
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    return None if center is None or width is None else (float(center), float(width))


def _first(value: Any) -> Any:
    if value is None or isinstance(value, (int, float, str)):
        return value
    return value[0] if len(value) else None


def _lut(sequence: Any, signed: bool) -> Lut | None:
    if not sequence:
        return None
    item = sequence[0]
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data, np.uint16)
    return Lut(entries[: count or 65536], first - 65536 if signed and first > 32767 else first, bits)
