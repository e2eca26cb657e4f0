"""How a file becomes what the network sees: one value, passed whole from the loaders to the service; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image

from medclf.config import MAX_SIDE, Frame, Resize, Window
from medclf.errors import MedclfError, PreprocessingError, ReadError
from medclf.images.decoding_guard import MAX_MEGAPIXELS
from medclf.images.raster_pixels import pixels_of, warn_of_dark
from medclf.images.reading import content_of, read_display
from medclf.images.resize import eight_bit, placement, resize_pixels, with_channels
from medclf.images.windowing import resolve_window

if TYPE_CHECKING:
    Item = str | Path | bytes | np.ndarray | Image.Image

Size = tuple[int, int]
PadMode = Literal["zeros", "border", "reflection"]
Method = Literal["squish", "crop", "pad", "center"]
Resample = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]

_MAX_STEPS = 8
_NUMPY_PADS = {"zeros": "constant", "border": "edge", "reflection": "reflect"}


def _refuse(what: str, remedy: str) -> None:
    raise PreprocessingError(what, remedy)


def _pair(size: Any) -> Size:
    """`size` as (height, width), each a whole number of pixels."""
    pair = (size, size) if isinstance(size, int) else size
    fits = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(side) is int for side in pair)
    if not fits or not all(0 < side <= MAX_SIDE for side in pair):
        _refuse(f"size={size!r} is not a size in pixels", f"give a side or (height, width), each from 1 to {MAX_SIDE}")
    return pair[0], pair[1]


def _one_of(value: Any, choices: Any, name: str) -> None:
    known = get_args(choices)
    if not isinstance(value, str) or value not in known:
        _refuse(f"{name}={value!r} is unknown", f"choose one of: {', '.join(known)}")


def _known_keys(kind: Any, values: Any) -> None:
    names = {one.name for one in fields(kind)}
    if not isinstance(values, Mapping) or not set(values) <= names:
        _refuse(f"{str(values)[:80]} does not describe a {kind.__name__}", f"it holds: {', '.join(sorted(names))}")


@dataclass(frozen=True)
class Step:
    """One of fastai's item transforms as it acts on validation images: a window of the image, resized by Pillow.

    Args:
        size: (height, width) of the result in pixels.
        method: "squish" takes the whole image, "crop" the largest centred window of the result's shape, "pad" the
            smallest such window around the image (as `fastai.vision.augment.Resize`); "center" takes a centred window
            of `size` and resizes nothing (as `CropPad`).
        pad_mode: what lies beyond the image's rim.
        resample: Pillow's filter.

    Example:
        >>> Step((2, 2), "center", "zeros").apply(np.array([[1, 2, 3, 4]], np.uint8)).tolist()
        [[0, 0], [2, 3]]
    """

    size: Size
    method: Method = "crop"
    pad_mode: PadMode = "reflection"
    resample: Resample = "bilinear"

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _pair(self.size))
        _one_of(self.method, Method, "method")
        _one_of(self.pad_mode, PadMode, "pad_mode")
        _one_of(self.resample, Resample, "resample")

    def window(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """(top, left, height, width) of what is shown; rounded as fastai rounds, and beyond the image where it pads."""
        (rows, columns), (height, width) = shape[:2], self.size
        if self.method == "squish":
            return 0, 0, rows, columns
        if self.method == "center":
            return (rows - height) // 2, (columns - width) // 2, height, width
        choose = min if self.method == "crop" else max
        scale = choose(columns / width, rows / height)
        high, wide = max(1, int(scale * height)), max(1, int(scale * width))
        return int(0.5 * (rows - high)), int(0.5 * (columns - wide)), high, wide

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W), (H, W, 1) or (H, W, 3) at `size`."""
        top, left, high, wide = self.window(image.shape)
        spans = ((top, high, image.shape[0]), (left, wide, image.shape[1]))
        shown = image[tuple(slice(max(start, 0), min(start + length, n)) for start, length, n in spans)]
        beyond = [(max(-start, 0), max(start + length - n, 0)) for start, length, n in spans]
        if any(map(any, beyond)):
            mode: Any = _NUMPY_PADS[self.pad_mode]
            shown = np.pad(shown, [*beyond, *[(0, 0)] * (image.ndim - 2)], mode)
        if self.method == "center":
            return np.ascontiguousarray(shown)
        picture = Image.fromarray(np.ascontiguousarray(shown.squeeze(2) if shown.shape[2:] == (1,) else shown))
        resized = picture.resize((self.size[1], self.size[0]), Image.Resampling[self.resample.upper()])
        return np.array(resized).reshape(*self.size, *image.shape[2:])


@dataclass(frozen=True)
class Sampling:
    """fastai's resampling of a batch at validation ("presizing"): a part of the prepared pixels, brought to `size`.

    It acts on floating-point pixels, so it is part of the network's input and not of the 8-bit pixels; see
    `medclf.models.inputs`.

    Args:
        size: (height, width) of what the network sees, in pixels.
        crop: (top, left, height, width) of the part that is taken; all where None.
        mode: "bilinear" or "nearest".
        pad_mode: what lies beyond the rim.
        align_corners: whether the corners' pixels stay in the corners, as torch's `grid_sample` has it.
    """

    size: Size
    crop: tuple[int, int, int, int] | None = None
    mode: Literal["bilinear", "nearest"] = "bilinear"
    pad_mode: PadMode = "reflection"
    align_corners: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _pair(self.size))
        if self.crop is not None:
            crop = tuple(self.crop) if isinstance(self.crop, (list, tuple)) else ()
            if len(crop) != 4 or not all(type(one) is int and 0 <= one <= MAX_SIDE for one in crop):
                _refuse(f"crop={self.crop!r}", "give (top, left, height, width) in pixels")
            object.__setattr__(self, "crop", crop)
        if self.mode not in ("bilinear", "nearest"):
            _refuse(f"mode={self.mode!r} cannot be carried over", 'choose "bilinear" or "nearest"')
        _one_of(self.pad_mode, PadMode, "pad_mode")
        if not isinstance(self.align_corners, bool):
            _refuse(f"align_corners={self.align_corners!r}", "give True or False")

    def part(self, prepared: Size) -> tuple[slice, slice]:
        """Rows and columns of the prepared pixels that the network sees."""
        top, left, height, width = self.crop or (0, 0, *prepared)
        return slice(top, top + height), slice(left, left + width)


@dataclass(frozen=True)
class Preprocessing:
    """How a file becomes what the network sees: reading, reduction to 8 bits, channels and size.

    It is the key of the store of decoded images, and stands in bundles, ONNX files and `results.json`. The pixels are
    the same wherever it is used.

    Args:
        size: of the prepared pixels: a side, or (height, width).
        resize: medclf's own "squish" (changes the aspect ratio), "crop" (keeps the middle) or "pad" (adds black); or
            fastai's transforms as `Step`s, the last of which gives `size`.
        channels: 3 for RGB, 1 for grey.
        window: of grey DICOM, as `read_pixels` takes it.
        frame: which frame or page, as `read_pixels` takes it.
        sampling: what fastai's batch transforms make of the prepared pixels; nothing where None.

    Raises:
        PreprocessingError: a value that is none of these.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (40, 30), 255).save(file, "PNG")
        >>> Preprocessing(20, "pad", channels=1).prepare(file.getvalue())[::4, 0, 0].tolist()
        [0, 255, 255, 255, 255]
    """

    size: Size = (224, 224)
    resize: Resize | tuple[Step, ...] = "squish"
    channels: int = 3
    window: Window = None
    frame: Frame = "middle"
    sampling: Sampling | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", _pair(self.size))
        if isinstance(self.resize, str):
            _one_of(self.resize, Resize, "resize")
        elif not isinstance(self.resize, tuple) or not 0 < len(self.resize) <= _MAX_STEPS:
            _refuse(f"resize={self.resize!r} is unknown", 'choose "squish", "crop" or "pad", or give Steps')
        elif self.resize[-1].size != self.size:
            _refuse(f"the last step gives {self.resize[-1].size} pixels, not {self.size}", "give that size")
        if type(self.channels) is not int or self.channels not in (1, 3):
            _refuse(f"channels={self.channels!r}", "choose 1 or 3")
        if isinstance(self.window, list):
            object.__setattr__(self, "window", tuple(self.window))
        try:
            resolve_window(self.window)
        except MedclfError as error:
            raise PreprocessingError(error.message, error.remedy) from None
        if type(self.frame) is not int and self.frame not in ("first", "middle", "last", "all"):
            _refuse(f"frame={self.frame!r} is unknown", 'choose a number, "first", "middle", "last" or "all"')
        self._check_sampling()

    def _check_sampling(self) -> None:
        if self.sampling is None:
            return
        rows, columns = self.sampling.part(self.size)
        empty = rows.stop <= rows.start or columns.stop <= columns.start
        if empty or rows.stop > self.size[0] or columns.stop > self.size[1]:
            _refuse(f"sampling takes {self.sampling.crop} of {self.size} pixels", "give a part that lies inside")

    @property
    def input_size(self) -> Size:
        """(height, width) of the network's input in pixels."""
        return self.sampling.size if self.sampling else self.size

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it; `from_dict` reads it back.

        Example:
            >>> Preprocessing(64, window=(40, 400)).as_dict()
            {'size': [64, 64], 'resize': 'squish', 'channels': 3, 'window': [40, 400], 'frame': 'middle'}
        """
        resize = self.resize if isinstance(self.resize, str) else [_listed(asdict(step)) for step in self.resize]
        window = list(self.window) if isinstance(self.window, tuple) else self.window
        found: dict[str, Any] = {"size": list(self.size), "resize": resize, "channels": self.channels}
        found |= {"window": window, "frame": self.frame}
        return found | ({"sampling": _listed(asdict(self.sampling))} if self.sampling else {})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """What `as_dict` gave, of this version or of 0.1.

        Raises:
            PreprocessingError: a key or value that this version does not know.
        """
        _known_keys(cls, settings)
        values = dict(settings)
        if isinstance(values.get("resize"), (list, tuple)):
            steps = values["resize"]
            for step in steps:
                _known_keys(Step, step)
            values["resize"] = tuple(_made(Step, step) for step in steps)
        if values.get("sampling") is not None:
            _known_keys(Sampling, values["sampling"])
            values["sampling"] = _made(Sampling, values["sampling"])
        return cls(**values)

    @property
    def reading(self) -> dict[str, Any]:
        """What decides over the pixels before they are resized, as JSON can hold it."""
        return {key: self.as_dict()[key] for key in ("channels", "window", "frame")}

    def read(self, item: Item, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        """The image at full size, reduced to 8 bits: what `fit` brings to `size`.

        Args:
            item: a file's path or bytes, an open file, a PIL image, or an array (H, W) or (H, W, 3) of uint8 or uint16.
            max_megapixels: as `read_pixels`.

        Returns:
            uint8 of (H, W), (H, W, 1) or (H, W, 3).

        Raises:
            ReadError: the file cannot be read, or the array is none of those.

        Warns:
            MedclfWarning: 16-bit values that are read as nearly black.
        """
        item = content_of(item)
        if isinstance(item, Image.Image):
            return _from_array(pixels_of(item, self.window), self.channels)
        if isinstance(item, np.ndarray):
            warn_of_dark(item, "the given array")
            return _from_array(item, self.channels)
        if not isinstance(item, (str, Path, bytes)):
            given = f"is a {type(item).__name__}"
            raise ReadError(
                "the given object", given, "give a path, bytes, an array or a PIL image; of several, a list"
            )
        return read_display(item, self.channels, window=self.window, frame=self.frame, max_megapixels=max_megapixels)

    def fit(self, image: np.ndarray) -> np.ndarray:
        """Bring what `read` gave to `size`: uint8 of (height, width, channels)."""
        if isinstance(self.resize, str):
            image = resize_pixels(image, self.size, self.resize)
        else:
            for step in self.resize:
                image = step.apply(image)
        return with_channels(image, self.channels)

    def prepare(self, item: Item, max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
        """The pixels that the network is given, before `sampling` and normalisation.

        Args:
            item: see `read`.
            max_megapixels: as `read_pixels`.

        Returns:
            uint8 of (height, width, channels).

        Raises:
            ReadError: as `read`.
        """
        return self.fit(self.read(item, max_megapixels))

    def placement(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Which part of an image the prepared pixels show, and where it lies in them; to the nearest pixel.

        Args:
            shape: height and width of the image in pixels.

        Example:
            >>> Preprocessing(20, "crop").placement((30, 40))[0]
            (slice(0, 30, None), slice(5, 35, None))
        """
        if isinstance(self.resize, str):
            return placement(shape[:2], self.size, self.resize)
        found, current = [(0.0, 1.0), (0.0, 1.0)], (shape[0], shape[1])
        for step in self.resize:  # of each axis: the result's pixel p shows the image at start + p * scale
            window = step.window(current)
            ratios = [window[2 + axis] / step.size[axis] for axis in (0, 1)]
            found = [(at + scale * window[axis], scale * ratios[axis]) for axis, (at, scale) in enumerate(found)]
            current = step.size
        axes = [_overlap(*found[axis], shape[axis], self.size[axis]) for axis in (0, 1)]
        return (axes[0][0], axes[1][0]), (axes[0][1], axes[1][1])


def _overlap(start: float, scale: float, n_image: int, n_result: int) -> tuple[slice, slice]:
    """The pixels of the image that a result shows, along one axis, and where they lie in the result."""
    stop = start + scale * n_result
    first, last = max(0, round(start)), min(n_image, round(stop))
    inside = max(0, round((first - start) / scale)), min(n_result, round((last - start) / scale))
    return slice(first, max(first, last)), slice(inside[0], max(inside))


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise PreprocessingError(f"{kind.__name__} is not described whole: {error}", "save it again") from None


def pixels_of_array(array: np.ndarray) -> np.ndarray:
    """An array as `read_display` gives what it read from a file: uint8 of (H, W) or (H, W, 3).

    Raises:
        ReadError: its type says not what is black and what is white, or its shape is no image's.
    """
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,)):
        raise ReadError(
            "the given array",
            f"has shape {array.shape} and type {array.dtype}",
            "give (H, W) or (H, W, 3) of uint8 or uint16, in the full range of the type",
        )
    if 0 in array.shape:
        raise ReadError("the given array", "has no pixels", "give an image")
    return eight_bit(array[..., 0] if array.shape[2:] == (1,) else array)


def _from_array(array: np.ndarray, channels: int) -> np.ndarray:
    image = pixels_of_array(array)
    return with_channels(image, 1) if channels == 1 else image
