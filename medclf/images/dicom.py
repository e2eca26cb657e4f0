"""DICOM files to pixels, and the little of their headers that may be let out.

Stored values go through the modality LUT or rescale, the VOI LUT or window, then MONOCHROME1's inversion
(PS3.3 C.7.6.3, C.11.1, C.11.2). Only the elements that this takes are ever parsed. With
`dicom_frames` the only importer of pydicom.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np

from medclf.errors import MedclfError, ReadError, UnsupportedFormat
from medclf.images.decoding_guard import MAX_MEGAPIXELS, Source, named, opened, quietly, reading
from medclf.images.dicom_frames import Form, read_form, read_frame
from medclf.images.dicom_header import MODALITIES, code, malformed, number, window
from medclf.images.dicom_layout import Layout, frame_group, looks_like_dicom, read_layout
from medclf.images.dicom_tables import coloured, lut, lut_item, palette
from medclf.images.raster import RasterInfo
from medclf.images.raster_pixels import rescaled
from medclf.images.windowing import VOI_FUNCTIONS, GreyRules, SampleWindow, render_grey

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["Origin", "dicom_info", "looks_like_dicom", "origin", "owner", "patient_key", "read_dicom", "safe_header"]

_PIXEL_TAGS = {
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
    0x00283000,  # Modality LUT Sequence
    0x00283010,  # VOI LUT Sequence
    0x20500020,  # Presentation LUT Shape
    0x52009229,  # Shared Functional Groups Sequence
}
_SOP_CLASS, _MODALITY = 0x00080016, 0x00080060
_ORIGIN_TAGS = frozenset({_SOP_CLASS, _MODALITY, 0x0020000D, 0x0020000E, 0x00200013})  # Study, Series, Instance Number
_UNIT_TAGS = frozenset({_SOP_CLASS, _MODALITY, 0x00281054})  # the last is Rescale Type
_CT_CLASSES = {f"1.2.840.10008.5.1.4.1.1.2{kind}" for kind in ("", ".1", ".2")}  # CT, enhanced, legacy converted
_NO_HU = "give window=(center, width), or none for the file's own"
# Palette Color Lookup Table: descriptors, data and segmented data of red, green and blue
_PALETTE_TAGS = {0x00281100 + kind + colour for kind in (0x1, 0x101, 0x121) for colour in range(3)}
_IMAGE_TAGS = frozenset(_PIXEL_TAGS | _PALETTE_TAGS)
_SAFE_TAGS = frozenset({_MODALITY, 0x00180015, 0x00185101, 0x00280301}) | _IMAGE_TAGS
_PATIENT_ID = 0x00100020
_MAKER, _MODEL = 0x00080070, 0x00081090


def dicom_info(file: BinaryIO, path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> RasterInfo:
    """Size, bits, channels and frames from the header, without decoding.

    Raises:
        ReadError: the header cannot be read, or there is no image.
    """
    layout, header = _parse(file, path, _IMAGE_TAGS)
    if layout.pixels is None:
        raise ReadError(path, "a DICOM file without pixels", "leave it out: it holds no image")
    form = read_form(header, path, max_megapixels)
    return RasterInfo(form.columns, form.rows, form.stored, 1 if form.grey else 3, form.frames)


def read_dicom(
    file: BinaryIO,
    path: str | Path,
    window: SampleWindow,
    frame: Callable[[int], int],
    max_megapixels: float = MAX_MEGAPIXELS,
    hounsfield: bool = False,
) -> np.ndarray:
    """Decode one frame of a DICOM file into what a reader would see.

    Args:
        file: open for reading, at its start.
        path: for messages.
        window: (center, width) in place of the file's own, "stretch", or None.
        frame: the frame to read, as a function of how many there are; others are not decoded.
        max_megapixels: rows x columns x samples allowed, in millions.
        hounsfield: the window is in Hounsfield units, which CT alone has.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 (0..65535) where more than 8 bits are stored.

    Raises:
        ReadError: broken; UnsupportedFormat, TooLarge and MissingDecoder as their names say.
    """
    layout, header = _parse(file, path, _IMAGE_TAGS | _UNIT_TAGS if hounsfield else _IMAGE_TAGS)
    if layout.pixels is None:
        raise ReadError(path, "a DICOM file without pixels", "leave it out: it holds no image")
    form = read_form(header, path, max_megapixels)
    if hounsfield:
        _check_ct(header, form, path)
    index = frame(form.frames)
    stored = read_frame(layout, form, index, path)
    with reading(path, "its pixels cannot be shown as its header says"):
        if form.grey:
            with quietly():
                rules = _grey_rules(layout, header, form, index, path)
            if hounsfield and rules.unit != "HU":
                raise ReadError(path, "the window asked for is in Hounsfield units, and its values are not", _NO_HU)
            return render_grey(stored, rules, window)
        if form.photometric == "PALETTE COLOR":
            with quietly():
                tables = palette(header, form.signed, layout.little, path)
            return coloured(stored, tables, form)
        return rescaled(stored, form.stored)


def _modality(header: Dataset) -> str | None:
    """One of the standard's terms; None where the element holds anything else, which could name somebody."""
    found = code(header, "Modality")
    return found if found in MODALITIES else None


def _check_ct(header: Dataset, form: Form, path: str | Path) -> None:
    """Refuse a window in Hounsfield units for what is no CT at all."""
    modality = _modality(header)
    if modality not in (None, "CT"):
        raise ReadError(path, f"the window asked for is one for CT, and this file's modality is {modality}", _NO_HU)
    if not form.grey:
        raise ReadError(path, "the window asked for is one for CT, and this file is in colour", _NO_HU)


def safe_header(path: Source) -> dict[str, Any]:
    """What a DICOM header says that cannot identify a patient: an allowlist, never the rest (PS3.15 E).

    Args:
        path: a DICOM file, or its bytes.

    Returns:
        modality, body_part, view_position, photometric_interpretation, burned_in_annotation (codes),
        rows, columns, frames, bits_allocated, bits_stored, rescale_slope, rescale_intercept,
        window_center, window_width (numbers); None where the file does not say, or says it in free text.

    Raises:
        ReadError: it is no DICOM file, or cannot be read.
    """
    header = _header_of(path, _SAFE_TAGS)
    codes = {
        "modality": "Modality",
        "body_part": "BodyPartExamined",
        "view_position": "ViewPosition",
        "photometric_interpretation": "PhotometricInterpretation",
        "burned_in_annotation": "BurnedInAnnotation",
    }
    quantities = {
        "rows": "Rows",
        "columns": "Columns",
        "frames": "NumberOfFrames",
        "bits_allocated": "BitsAllocated",
        "bits_stored": "BitsStored",
        "rescale_slope": "RescaleSlope",
        "rescale_intercept": "RescaleIntercept",
        "window_center": "WindowCenter",
        "window_width": "WindowWidth",
    }
    with reading(named(path), "its header cannot be read"):
        return {name: code(header, keyword) for name, keyword in codes.items()} | {
            name: number(header, keyword, named(path)) for name, keyword in quantities.items()
        }


class Origin(NamedTuple):
    """What kind of DICOM object a file holds, whose series and study it is of, and its Instance Number."""

    modality: str | None
    sop_class: str
    series: str
    study: str = ""
    instance: int | None = None


def origin(path: Source) -> Origin:
    """The kind of a DICOM file; its series may be shown as a pseudonym alone.

    Raises:
        ReadError: it is no DICOM file, or cannot be read.
    """
    return _origin(_header_of(path, _ORIGIN_TAGS), named(path))


def _origin(header: Dataset, path: str | Path) -> Origin:
    with reading(path, "its header cannot be read"):
        keywords = ("SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID")
        kind, series, study = (str(header.get(keyword) or "").strip() for keyword in keywords)
        order = str(header.get("InstanceNumber") or "").strip()
        number = int(order) if order.isdecimal() and len(order) < 10 else None
        return Origin(_modality(header), kind, series, study, number)


class Overview(NamedTuple):
    """What a scan tells of a DICOM file beside its size.

    Attributes:
        origin: the kind of object, and where it belongs.
        n_frames: 1 where the header does not describe its pixels.
        spread: grey, and without a window, so that each image goes from its smallest to its largest value.
        window: its own one, where that is in Hounsfield units.
    """

    origin: Origin
    n_frames: int = 1
    spread: bool = False
    window: tuple[float, float] | None = None


def overview(file: BinaryIO, path: str | Path, frame: Callable[[int], int]) -> Overview:
    """What a header says in one look; what is wrong with how it describes the pixels, their reading tells.

    Raises:
        ReadError: the header cannot be read.
    """
    layout, header = _parse(file, path, _IMAGE_TAGS | _UNIT_TAGS | _ORIGIN_TAGS)
    found = Overview(_origin(header, path))
    with contextlib.suppress(ReadError):
        form = read_form(header, path, MAX_MEGAPIXELS)
        found = found._replace(n_frames=form.frames)
        if form.grey:
            with reading(path, "its header cannot be read"), quietly():
                rules = _grey_rules(layout, header, form, frame(form.frames), path)
            own = rules.window if rules.unit == "HU" and rules.voi_lut is None else None
            found = found._replace(spread=rules.spread, window=own)
    return found


def scanner(path: Source) -> str | None:
    """Maker and model of the device, in letters, digits and a few signs; None where the file does not say.

    Raises:
        ReadError: it is no DICOM file, or cannot be read.
    """
    header = _header_of(path, frozenset({_MAKER, _MODEL}))
    with reading(named(path), "its header cannot be read"):
        parts = (str(header.get(keyword) or "") for keyword in ("Manufacturer", "ManufacturerModelName"))
        words = " ".join(re.sub(r"[^A-Za-z0-9 ._-]", "", part)[:24].strip() for part in parts)
    return words.strip() or None


def owner(path: Source, unit: str) -> str | None:
    """The patient, study or series that a DICOM file names, to be compared and never shown; None where it names none.

    Args:
        path: a DICOM file, or its bytes.
        unit: "patient", "study" or "series"; nothing names others.

    Raises:
        ReadError: it is no DICOM file, or cannot be read.
    """
    if unit in ("study", "series"):
        return getattr(origin(path), unit) or None
    if unit != "patient":
        return None
    header = _header_of(path, frozenset({_PATIENT_ID}))
    with reading(named(path), "its Patient ID cannot be read"):
        return str(header.get("PatientID") or "").strip() or None


def patient_key(path: Source, key: bytes) -> str | None:
    """A patient's pseudonym: HMAC-SHA256 of the Patient ID, which itself is never returned, shown or kept.

    The same patient gets the same pseudonym as long as the key is the same. Without the key it cannot be
    reversed by trying all ids, as a plain hash can; so keep the key apart from what the pseudonyms are in.

    Args:
        path: a DICOM file, or its bytes.
        key: secret, of 16 bytes or more, such as `secrets.token_bytes(32)`.

    Returns:
        16 hexadecimal digits, or None where the file has no Patient ID.

    Raises:
        ReadError: it is no DICOM file, or cannot be read.
        MedclfError: the key is too short.
    """
    if len(key) < 16:
        raise MedclfError("the key has fewer than 16 bytes", "make one with secrets.token_bytes(32)")
    patient = owner(path, "patient")
    return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:16] if patient else None


def _header_of(path: Source, wanted: frozenset[int]) -> Dataset:
    name = named(path)
    with opened(path) as file:
        with reading(name, "cannot be read"):
            head = file.read(132)
            file.seek(0)
        if head[128:] != b"DICM" and not looks_like_dicom(head):
            raise UnsupportedFormat(name, "it is not a DICOM file")
        return _parse(file, name, wanted)[1]


def _parse(file: BinaryIO, path: str | Path, wanted: frozenset[int]) -> tuple[Layout, Dataset]:
    """Walk a file up to its pixels and let pydicom parse the wanted elements, and no others."""
    with reading(path, "its DICOM header cannot be read"):
        layout = read_layout(file, path, wanted)
        with quietly():
            return layout, _dataset(layout.header, layout, path)


def _dataset(elements: bytes, layout: Layout, path: str | Path) -> Dataset:
    from pydicom.filereader import read_dataset

    dataset = read_dataset(io.BytesIO(elements), layout.implicit, layout.little)
    for tag in list(dataset.keys()):  # pydicom converts a value when it is looked at: now, within the boundary
        try:
            dataset[tag]
        except (ValueError, TypeError, OverflowError, NotImplementedError):
            raise malformed(int(tag), path) from None
    return dataset


def _grey_rules(layout: Layout, header: Dataset, form: Form, index: int, path: str | Path) -> GreyRules:
    groups = [header.get("SharedFunctionalGroupsSequence")]
    with reading(path, "its functional groups cannot be read"):
        own = frame_group(layout, index, path)
        groups.insert(0, [_dataset(own, layout, path)] if own else None)
    rescale = _macro(groups, "PixelValueTransformationSequence", header)
    voi = _macro(groups, "FrameVOILUTSequence", header)
    slope, intercept = (number(rescale, keyword, path) for keyword in ("RescaleSlope", "RescaleIntercept"))
    modality = lut_item(header, "ModalityLUTSequence")
    unit = _unit(header, rescale, modality, slope, intercept)
    if slope == 0:  # would make one value of all: it says nothing (PS3.3 C.11.1.1.2)
        slope = intercept = None
    rules = GreyRules(
        bits_stored=form.stored,
        signed=form.signed,
        inverted=_inverted(header, form),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        modality_lut=lut(modality, form.signed, layout.little, path) if modality else None,
        window=window(voi, path),
        function=_voi_function(voi, path),
        padding=_padding(header, form, path),
        unit=unit,
    )
    # The VOI LUT's input is what the modality transform puts out, so that decides its first value's sign.
    voi_item = lut_item(header, "VOILUTSequence")
    return rules.with_voi_lut(lut(voi_item, rules.gives_negatives, layout.little, path) if voi_item else None)


def _inverted(header: Dataset, form: Form) -> bool:
    """Whether small values are white: by the Presentation LUT Shape where there is one (PS3.3 C.11.6), as dcmtk has it.

    A file of a consistent kind has IDENTITY with MONOCHROME2 and INVERSE with MONOCHROME1 (PS3.3 C.8.11.3).
    """
    shape = code(header, "PresentationLUTShape")
    return shape == "INVERSE" if shape in ("IDENTITY", "INVERSE") else form.photometric == "MONOCHROME1"


def _voi_function(voi: Dataset, path: str | Path) -> str:
    """LINEAR where none is given (PS3.3 C.11.2.1.3); one that is not the standard's cannot be guessed."""
    found = str(voi.get("VOILUTFunction") or "LINEAR").strip().upper()
    if found not in VOI_FUNCTIONS and voi.get("WindowCenter") is not None:
        raise malformed(0x00281056, path)
    return found


def _macro(groups: list[Any], name: str, header: Dataset) -> Dataset:
    """A functional group's macro: the frame's own, else the shared one, else the header itself."""
    for group in groups:
        found = group[0].get(name) if group else None
        if found:
            return cast("Dataset", found[0])
    return header


def _unit(header: Dataset, rescale: Dataset, lut: Dataset | None, slope: Any, intercept: Any) -> str:
    """What the modality transform puts out, such as "HU"; "" where that is unknown.

    Hounsfield units go without saying in CT alone (PS3.3 C.8.2.1, C.11.1.1.2).
    """
    if lut is None and slope == 0:
        return ""
    said = lut.get("ModalityLUTType") if lut else rescale.get("RescaleType")
    if said:
        return str(said).strip()
    if str(header.get("SOPClassUID", "")) in _CT_CLASSES:
        return "HU"
    transformed = lut is not None or slope is not None or intercept is not None
    return "HU" if transformed and _modality(header) == "CT" else ""


def _padding(header: Dataset, form: Form, path: str | Path) -> tuple[int, int] | None:
    """The range of padding values, as the pixels' own signedness has it (PS3.3 C.7.5.1.1.2)."""
    value, limit = (number(header, keyword, path) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"))
    if value is None:
        return None
    low, high = sorted(_as_signed(int(end), form) for end in (value, value if limit is None else limit))
    return low, high


def _as_signed(value: int, form: Form) -> int:
    """A value written as the other signedness has the same bits; SS for US is a common slip."""
    pattern = value & ((1 << form.allocated) - 1)
    return pattern - (1 << form.allocated) if form.signed and pattern >> (form.allocated - 1) else pattern
