"""The one door from a file to pixels: what training, the cache, the bundle and the server all call."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from medclf.config import Frame, Resize, Window
from medclf.errors import MedclfError, ReadError, UnsupportedFormat, argument, by_road
from medclf.images import raster
from medclf.images.decoding_guard import MAX_MEGAPIXELS, Source, named, opened, reading
from medclf.images.frame_names import file_and_frame
from medclf.images.other_formats import what_else
from medclf.images.resize import eight_bit, resize_pixels, with_channels
from medclf.images.windowing import is_hounsfield, resolve_window

if TYPE_CHECKING:
    from medclf.images import dicom

IMAGE_SUFFIXES = frozenset(
    f".{name}" for name in "png jpg jpeg jpe jfif jif tif tiff bmp dib webp dcm dicom dic ima nii".split()
)
OF_SEVERAL = frozenset({"DICOM", "NIfTI", "TIFF"})  # formats whose files can hold several frames
_HEAD = 132  # a DICOM file's preamble and magic
_NIFTI_HEAD = 4096  # enough of a compressed one to tell


class Probe(NamedTuple):
    """What a file's header says, upright: nothing was decoded. `turned`: it is stored turned or mirrored (EXIF)."""

    format: str
    width: int
    height: int
    bits: int
    n_frames: int
    channels: int
    turned: bool = False


def content_of(item: Any) -> Any:
    """What an open file, such as an upload, holds from where it stands; anything else as it is.

    Raises:
        ReadError: it gives no bytes.

    Example:
        >>> import io
        >>> content_of(io.BytesIO(b"PNG")), content_of("a.png")
        (b'PNG', 'a.png')
    """
    if not hasattr(item, "read"):
        return item
    if not isinstance(content := item.read(), bytes):
        raise ReadError("the given file", "gives no bytes", "open it with open(path, 'rb'), or give its path")
    return content


def read_pixels(
    path: Source, *, window: Window = None, frame: Frame = "middle", max_megapixels: float = MAX_MEGAPIXELS
) -> np.ndarray:
    """Read a PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI file into pixels that mean what a reader would see.

    DICOM goes through the modality LUT or rescale, the VOI LUT or window, then the inversion of
    MONOCHROME1; YBR and palette become RGB. Of raster files the EXIF orientation is applied, palettes
    and CMYK become RGB, and transparent pixels lie on black. The first bytes tell the format, not the name.

    Args:
        path: the file, its bytes, or FILE#NUMBER for one frame of it.
        window: None for the file's own; for grey DICOM (center, width) in the units of the modality transform's
            output, or the name of a window for CT ("lung", "bone", "brain", ...); for other grey files of more than
            8 bits (center, width) in the file's own values; for any grey file "stretch", which spreads the smallest
            to the largest value of the image.
        frame: which frame, TIFF page or slice: a number from 0, "first", "middle" or "last"; with "all" a file of
            several is refused, unless `path` says which.
        max_megapixels: rows x columns x samples that the file may declare, in millions; of a volume, all its voxels.

    Returns:
        (H, W) grey or (H, W, 3) RGB; uint8, or uint16 scaled to 0..65535 where a sample holds more bits.

    Raises:
        ReadError: the file is broken; its children UnsupportedFormat, TooLarge and MissingDecoder
            for what their names say.

    Example:
        >>> import io, PIL.Image
        >>> file = io.BytesIO()
        >>> PIL.Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(file, "PNG")
        >>> read_pixels(file.getvalue())
        array([[    0,  1000, 65535]], dtype=uint16)
    """
    chosen = resolve_window(window)
    hounsfield = is_hounsfield(window)
    name = named(path)
    number = _number_of(path)
    with opened(path) as file:
        kind = _format(file, name)
        choose = functools.partial(_index, frame if number is None else number, name)
        if kind == "DICOM":
            from medclf.images import dicom

            return dicom.read_dicom(file, name, chosen, choose, max_megapixels, hounsfield=hounsfield)
        if hounsfield:
            reason = f"the window asked for is in Hounsfield units, which a {kind} file does not hold"
            raise ReadError(
                name, reason, f"give {argument('window')} as center and width in the file's own values, or none"
            )
        if kind == "NIfTI":
            from medclf.images import nifti

            return nifti.read_nifti(file, name, chosen, choose, max_megapixels)
        return raster.read_raster(file, name, kind, choose, max_megapixels, chosen)


def _number_of(path: Source) -> int | None:
    return None if isinstance(path, bytes) else file_and_frame(path)[1]


def probe(path: Source, *, max_megapixels: float = MAX_MEGAPIXELS) -> Probe:
    """Read a file's header only: format, size, bits, frames and channels.

    Raises:
        ReadError: as read_pixels, as far as the header shows.

    Example:
        >>> import io, PIL.Image
        >>> file = io.BytesIO()
        >>> PIL.Image.new("RGB", (40, 30)).save(file, "JPEG")
        >>> probe(file.getvalue())
        Probe(format='JPEG', width=40, height=30, bits=8, n_frames=1, channels=3, turned=False)
    """
    name = named(path)
    with opened(path) as file:
        kind = _format(file, name)
        if kind == "DICOM":
            from medclf.images import dicom

            found = dicom.dicom_info(file, name, max_megapixels)
        elif kind == "NIfTI":
            from medclf.images import nifti

            found = nifti.nifti_info(file, name, max_megapixels)
        else:
            found = raster.raster_info(file, name, kind, max_megapixels)
        n_frames = found.n_frames if _number_of(path) is None else 1
        return Probe(kind, found.width, found.height, found.bits, n_frames, found.channels, found.turned)


def n_frames(path: Source) -> int:
    """How many frames, pages or slices a file has; 1 where it cannot be read, so that its reading says why.

    Example:
        >>> n_frames(b"no image")
        1
    """
    try:
        return probe(path).n_frames if format_of(path) in OF_SEVERAL else 1
    except (ReadError, OSError):
        return 1


def overview(path: Source, frame: Frame = "middle") -> dicom.Overview:
    """What a scan tells of a DICOM file: its kind, its frames, and how its values become grey levels.

    Raises:
        ReadError: it is no DICOM file, or its header cannot be read.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> overview(get_testdata_file("CT_small.dcm")).spread, overview(get_testdata_file("MR_small.dcm")).spread
        (True, False)
    """
    from medclf.images import dicom

    name, number = named(path), _number_of(path)
    with opened(path) as file:
        found = dicom.overview(file, name, functools.partial(_index, frame if number is None else number, name))
    return found if number is None else found._replace(n_frames=1)


def format_of(path: Source) -> str:
    """PNG, JPEG, TIFF, BMP, WebP, DICOM or NIfTI, by the first bytes.

    Raises:
        ReadError: the file cannot be opened; UnsupportedFormat where it is none of them.

    Example:
        >>> format_of(b"\\x89PNG\\r\\n\\x1a\\n")
        'PNG'
    """
    with opened(path) as file:
        return _format(file, named(path))


class Look(NamedTuple):
    """What decoding an image showed: its size, upright, and how many of 256 levels are in it."""

    width: int
    height: int
    levels: int


def check(
    path: Source, *, window: Window = None, frame: Frame = "middle", max_megapixels: float = MAX_MEGAPIXELS
) -> Look:
    """Decode a file whole and drop the pixels: raises what read_pixels would.

    Raises:
        ReadError: the file cannot be read.

    Example:
        >>> import io, PIL.Image
        >>> file = io.BytesIO()
        >>> PIL.Image.new("L", (40, 30), 255).save(file, "PNG")
        >>> check(file.getvalue())
        Look(width=40, height=30, levels=1)
    """
    image = read_display(path, window=window, frame=frame, max_megapixels=max_megapixels)
    return Look(image.shape[1], image.shape[0], levels_of(image))


def levels_of(image: np.ndarray) -> int:
    """How many of 256 levels a uint8 image has, of a large one about; 1 if all pixels are alike, 0 if black."""
    if (image == image[0, 0]).all():
        return int(image[0, 0].any())
    step = 1 + max(image.shape[:2]) // 1000
    return max(2, int(np.count_nonzero(np.bincount(image[::step, ::step].ravel(), minlength=256))))


def prepare(
    path: Source,
    size: int | tuple[int, int],
    *,
    resize: Resize = "squish",
    channels: int = 3,
    window: Window = None,
    frame: Frame = "middle",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """Read, reduce to 8 bits and resize: the preprocessing of training, cache and bundle alike.

    Args:
        path: the file, or its bytes.
        size: of the result: one number for a square, or (height, width).
        resize: "squish" changes the aspect ratio; "crop" keeps the middle; "pad" adds black.
        channels: 3 for RGB, 1 for grey.
        window: as read_pixels.
        frame: as read_pixels.
        max_megapixels: as read_pixels.

    Returns:
        uint8 of (height, width, channels).

    Raises:
        ReadError: as read_pixels.

    Example:
        >>> import io, PIL.Image
        >>> file = io.BytesIO()
        >>> PIL.Image.new("L", (40, 30), 255).save(file, "PNG")
        >>> prepare(file.getvalue(), 20, resize="pad")[:, 0, 0].tolist()
        [0, 0, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0]
    """
    image = read_display(path, channels, window=window, frame=frame, max_megapixels=max_megapixels)
    return with_channels(resize_pixels(image, size, resize), channels)


def read_display(
    path: Source,
    channels: int = 3,
    *,
    window: Window = None,
    frame: Frame = "middle",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> np.ndarray:
    """Read at full size, reduced to the 8 bits that a screen shows: what `prepare` resizes.

    The reduction comes before the resize, so that a `MedImage` resized by fastai, the store and the
    bundle hold the same pixels.

    Args:
        path: the file, or its bytes.
        channels: 1 turns colour into grey; with 3, grey stays (H, W) until `with_channels`.
        window: as read_pixels.
        frame: as read_pixels.
        max_megapixels: as read_pixels.

    Returns:
        uint8 of (H, W), (H, W, 1) or (H, W, 3).

    Raises:
        ReadError: as read_pixels.
    """
    image = eight_bit(read_pixels(path, window=window, frame=frame, max_megapixels=max_megapixels))
    return with_channels(image, 1) if channels == 1 else image


def _format(file: BinaryIO, name: str | Path) -> str:
    with reading(name, "cannot be read"):
        head = file.read(_NIFTI_HEAD)
        file.seek(0)
    if head[128:132] == b"DICM":
        return "DICOM"
    kind = raster.raster_format(head)
    if kind:
        return kind
    from medclf.images import dicom, nifti

    if nifti.looks_like_nifti(head):
        return "NIfTI"
    if dicom.looks_like_dicom(head[:_HEAD]):
        return "DICOM"
    if not head:
        raise UnsupportedFormat(name, "the file is empty", "leave it out, or get it again")
    what, remedy = what_else(head) or ("", "leave it out, or convert it to one of these")
    reason = f"not an image that is read, but {what}" if what else "not an image"
    raise UnsupportedFormat(name, f"{reason}; supported: PNG, JPEG, TIFF, BMP, WebP, DICOM, NIfTI", remedy)


def _index(frame: Frame, name: str | Path, n_frames: int) -> int:
    named = {"first": 0, "middle": n_frames // 2, "last": n_frames - 1} | ({"all": 0} if n_frames == 1 else {})
    if frame == "all" and n_frames > 1:
        text = f"holds {n_frames} frames, of which each is an image"
        how = by_road("with predict_unit", f"with {argument('unit')}")
        raise ReadError(name, text, f"name one of them, as FILE#0, or ask for one answer for all {how}")
    if isinstance(frame, str):
        if frame not in named:
            raise MedclfError(f"{argument('frame')} must be a number, first, middle, last or all, not {frame!r}")
        return named[frame]
    if not 0 <= frame < n_frames:
        raise ReadError(name, f"has no frame {frame}: it has {n_frames}, counted from 0")
    return frame
