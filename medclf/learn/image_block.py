"""Medical images as fastai sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.data.block import TransformBlock
from fastai.data.transforms import IntToFloatTensor
from fastai.torch_core import TensorImageBW
from fastai.vision.core import PILImage, PILImageBW
from fasttransform import Transform
from PIL import Image

from medclf.config import Frame, Window
from medclf.errors import MedclfError
from medclf.images.decoding_guard import MAX_MEGAPIXELS
from medclf.images.preprocessing import Preprocessing, pixels_of_array
from medclf.images.raster_pixels import pixels_of, warn_of_dark
from medclf.images.reading import content_of, read_pixels
from medclf.images.resize import with_channels


class TensorMedImageBW(TensorImageBW):
    """A grey image as a tensor; shown with black as black (fastai's own shows it inverted)."""

    _show_args = {"cmap": "gray"}  # noqa: RUF012 - fastai's own attribute


class MedImage(PILImage):
    """A fastai image that reads PNG, JPEG, TIFF, BMP, WebP and DICOM into the pixels a reader would see.

    It is 8-bit, of mode RGB or L; deeper pixels are scaled to it, never clipped
    (`read_pixels` gives them at full depth).

    Example:
        >>> MedImage.create(np.array([[0, 32768, 65535]], np.uint16)).getpixel((1, 0))
        (128, 128, 128)
    """

    @classmethod
    def create(
        cls,
        fn: str | Path | bytes | np.ndarray | torch.Tensor | Image.Image,
        window: Window = None,
        frame: Frame = "middle",
        channels: int | None = 3,
        max_megapixels: float = MAX_MEGAPIXELS,
        **_: Any,
    ) -> MedImage:
        """Make one from a file, its bytes, an array, a tensor or a PIL image.

        Args:
            fn: a path; the bytes of a file; an array of (H, W) or (H, W, 3), uint8 or uint16; a tensor of such, or of
                (3, H, W); or an image.
            window: as read_pixels.
            frame: as read_pixels.
            channels: 3 for RGB, 1 for grey, None for what the file holds.
            max_megapixels: as read_pixels.

        Raises:
            ReadError: the file cannot be read, or the array is none of those.
        """
        if isinstance(fn, Image.Image):
            pixels = pixels_of(fn)
        elif isinstance(fn, (np.ndarray, torch.Tensor)):
            pixels = fn if isinstance(fn, np.ndarray) else _channels_last(fn).numpy(force=True)
            warn_of_dark(pixels, "the given array")
        else:
            pixels = read_pixels(content_of(fn), window=window, frame=frame, max_megapixels=max_megapixels)
        pixels = pixels_of_array(pixels)
        pixels = with_channels(pixels, channels or (1 if pixels.ndim == 2 else pixels.shape[2]))
        grey = pixels.shape[2] == 1
        image = Image.fromarray(pixels[..., 0] if grey else pixels)
        return (MedImageBW if grey and cls is MedImage else cls)(image)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    first = tensor.ndim == 3 and tensor.shape[0] in (1, 3) and tensor.shape[2] not in (1, 3)
    return tensor.movedim(0, 2) if first else tensor


class MedImageBW(MedImage):
    """A MedImage of one channel."""

    _show_args = {"cmap": "gray"}  # noqa: RUF012 - fastai's own attribute
    _tensor_cls = TensorMedImageBW


def read_image(
    path: str | Path | bytes,
    *,
    window: Window = None,
    frame: Frame = "middle",
    channels: int | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> MedImage:
    """Read one image as a MedImage, 8-bit, mode L or RGB as the file holds.

    Args:
        path: the file, or its bytes.
        window: as read_pixels.
        frame: as read_pixels.
        channels: 1 or 3 to ask for grey or RGB.
        max_megapixels: as read_pixels.

    Raises:
        ReadError: as read_pixels.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 3)).save(file, "PNG")
        >>> read_image(file.getvalue()).size
        (4, 3)
    """
    return MedImage.create(path, window, frame, channels, max_megapixels)


def MedImageBlock(
    window: Window | type = None, frame: Frame = "middle", channels: int = 3, *, cls: type | None = None
) -> TransformBlock:
    """A fastai block that reads medical images.

    Args:
        window: as read_pixels; or, as the first argument of fastai's `ImageBlock`, what `cls` is.
        frame: as read_pixels.
        channels: 3 for RGB, 1 for grey.
        cls: fastai's name for the channels: PILImage or PILImageBW.

    Returns:
        A TransformBlock for `DataBlock(blocks=(MedImageBlock(), CategoryBlock), ...)`.

    Raises:
        MedclfError: another class of images.
        PreprocessingError: there is no such window, frame or number of channels.

    Example:
        >>> MedImageBlock().type_tfms[0](np.zeros((4, 4), np.uint8)).mode
        'RGB'
    """
    if isinstance(window, type):
        window, cls = None, window
    channels = channels if cls is None else channels_of(cls)
    Preprocessing(window=window, frame=frame, channels=channels)
    return TransformBlock(type_tfms=ReadMedImage(window, frame, channels), batch_tfms=IntToFloatTensor)


_CHANNELS = {PILImage: 3, MedImage: 3, PILImageBW: 1, MedImageBW: 1}


def channels_of(kind: type) -> int:
    """How many channels images of one of fastai's classes have.

    Raises:
        MedclfError: no class of images that medclf reads.

    Example:
        >>> channels_of(PILImage), channels_of(PILImageBW)
        (3, 1)
    """
    if kind not in _CHANNELS:
        name = getattr(kind, "__name__", kind)
        raise MedclfError(
            f"images of the class {name} are not read: medclf reads each as a MedImage",
            "give channels=3 or 1; or make the loaders with fastai's DataBlock and ImageBlock",
        )
    return _CHANNELS[kind]


class ReadMedImage(Transform):
    """The transform of `MedImageBlock`: a path, bytes, an array or an image in, a `MedImage` out.

    A class and no closure, so that `learn.export()` can pickle it; `input_types` is what `test_dl` and
    `predict` accept.
    """

    input_types = (Path, str, bytes, np.ndarray, torch.Tensor, Image.Image)

    def __init__(self, window: Window = None, frame: Frame = "middle", channels: int = 3) -> None:
        super().__init__()
        self.window, self.frame, self.channels = window, frame, channels

    def encodes(self, fn: Any) -> MedImage:  # noqa: D102 - fastai's protocol
        return MedImage.create(fn, self.window, self.frame, self.channels)
