"""Augmentation presets by modality: what a lens or a tube could have shown, and nothing else.

Each preset returns `(item_tfms, batch_tfms)`, two lists of fastai transforms, to be passed to a `DataBlock` or to
`MedDataLoaders`. The item transform brings every image to one size; the batch transform draws rotation, zoom, flips,
shift and warp as one resampling and the lighting as one pass, on the batch's device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.vision.augment import RandTransform
from fastai.vision.core import PILImage, TensorImage
from torch import Tensor

from medclf.config import Resize
from medclf.errors import DataError, argument, did_you_mean
from medclf.images.resize import resize_pixels
from medclf.learn.augment import Augment
from medclf.modalities import MODALITIES
from medclf.plots import Panels

Size = int | tuple[int, int]
Tfms = tuple[list[Any], list[Any]]

TRAIN_SCALE = 1.15


class QuickNormalize(Normalize):
    """fastai's `Normalize`, the same to the last bit, with one new batch in place of two.

    On a CPU the second one takes longer than the arithmetic, since the system fills new memory with zeros first.

    Example:
        >>> tfm = QuickNormalize.from_stats([0.5] * 3, [0.25] * 3, cuda=False)
        >>> float(tfm(TensorImage(np.ones((1, 3, 2, 2)))).max())
        2.0
    """

    def encodes(self, x: TensorImage) -> TensorImage:  # noqa: D102 - fastai's protocol
        return x.sub(self.mean).div_(self.std)


class MedResize(RandTransform):
    """Bring an image to `size` with the antialiased resize that the store and the bundle use.

    Args:
        size: side, or (height, width), in pixels.
        resize: "squish" keeps all of the image, "crop" its centre, "pad" adds black borders.
        train_scale: training images are made this much larger, so that zoom and rotation lose nothing; the batch
            transform brings them to `size`.
    """

    order = 1
    split_idx = None

    def __init__(self, size: Size, resize: Resize = "squish", train_scale: float = 1.0) -> None:
        super().__init__()
        self.size, self.resize, self.train_scale = as_pair(size), resize, train_scale
        self.target = self.size

    def before_call(self, b: Any, split_idx: int | None) -> None:
        """Choose the training or the exact size."""
        self.target = scaled(self.size, self.train_scale) if split_idx == 0 else self.size

    def encodes(self, x: PILImage) -> PILImage:  # noqa: D102 - fastai's protocol
        return type(x).create(resize_pixels(np.asarray(x), self.target, self.resize), channels=None)


def as_pair(size: Size) -> tuple[int, int]:
    """`size` as (height, width).

    Raises:
        DataError: it is neither a whole number of pixels nor two of them.
    """
    pair = (size,) * 2 if isinstance(size, Integral) else tuple(size) if isinstance(size, Sequence) else ()
    if len(pair) != 2 or not all(isinstance(side, Integral) and side > 0 for side in pair):
        text = f"{argument('size')} must be a whole number of pixels, or height and width, not {size!r}"
        raise DataError(text, f"for example {argument('size', 224)}, or two numbers, height and width")
    return int(pair[0]), int(pair[1])


def scaled(size: Size, scale: float) -> tuple[int, int]:
    """`size` times `scale`, in whole pixels.

    Example:
        >>> scaled(224, 1.15)
        (258, 258)
    """
    height, width = as_pair(size)
    return round(height * scale), round(width * scale)


def tfms_for(modality: str | None, size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """The preset for a modality; `None` brings images to `size` and augments nothing.

    Args:
        modality: a row of `medclf.modalities.MODALITIES`, which says why its images are changed as they are
            ("endoscopy", "ct", ...), or None.
        size: side, or (height, width), in pixels.
        resize: "squish", "crop" or "pad".
        changes: other values for `Augment`'s settings, such as `max_rotate=90`.

    Returns:
        (item_tfms, batch_tfms), lists of fastai transforms.

    Raises:
        DataError: no preset of that name, no such setting, or a value that it cannot have.

    Example:
        >>> item_tfms, batch_tfms = tfms_for(None, 128)
        >>> item_tfms[0].size, batch_tfms
        ((128, 128), [])
        >>> _, (augment,) = tfms_for("radiograph", max_rotate=5)
        >>> augment.settings()["flip_lr"], augment.settings()["max_rotate"]
        (False, 5.0)
    """
    if modality is None or modality == "none":
        if changes:
            raise DataError(f"without a modality there is no augmentation to change: {', '.join(changes)}", "name one")
        return [MedResize(size, resize)], []
    if modality not in MODALITIES:
        remedy = did_you_mean(modality, MODALITIES) or f"choose one of {', '.join(MODALITIES)}, or none"
        raise DataError(f"no transforms for modality '{modality}'", remedy)
    settings = MODALITIES[modality].settings | changes
    return [MedResize(size, resize, TRAIN_SCALE)], [Augment(size=as_pair(size), **settings)]


def _named(modality: str) -> Callable[..., Tfms]:
    """`tfms_for` of one modality, as a function of its own."""

    def tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
        return tfms_for(modality, size, resize, **changes)

    tfms.__name__ = tfms.__qualname__ = f"{modality}_tfms"
    tfms.__doc__ = f"Transforms for {modality}: see `tfms_for`.\n\n{MODALITIES[modality].reason}"
    return tfms


endoscopy_tfms = _named("endoscopy")
radiograph_tfms = _named("radiograph")
dermoscopy_tfms = _named("dermoscopy")
fundus_tfms = _named("fundus")
histology_tfms = _named("histology")
ultrasound_tfms = _named("ultrasound")
ct_tfms = _named("ct")
mri_tfms = _named("mri")
oct_tfms = _named("oct")
capsule_tfms = _named("capsule")
mammography_tfms = _named("mammography")
photo_tfms = _named("photo")


def augmented_views(dls: DataLoaders, index: int = 0, n: int = 9) -> Tensor:
    """(n, channels, height, width) in [0, 1]: one training image as the network sees it, `n` times over."""
    loader = dls.train.new(get_idxs=lambda: [index] * n, bs=n, shuffle=False, drop_last=False, num_workers=0)
    images = TensorImage(loader.one_batch()[0])
    for tfm in loader.after_batch.fs:
        images = tfm.decode(images) if isinstance(tfm, Normalize) else images
    shown: Tensor = images.as_subclass(Tensor).float().clamp(0, 1).cpu()
    return shown


def show_augmentations(dls: DataLoaders, index: int = 0, n: int = 9, figsize: tuple[float, float] | None = None) -> Any:
    """Draw one training image as the network sees it, `n` times over.

    Args:
        dls: loaders made by medclf or fastai.
        index: which training image.
        n: how many draws.
        figsize: matplotlib's figure size in inches.

    Returns:
        A flat array of the Axes, which a notebook does not print.

    Raises:
        DataError: there is no such image, or nothing to draw.
    """
    if not hasattr(dls, "train_ds"):
        raise DataError(f"show_augmentations takes loaders, not a {type(dls).__name__}", "of a learner: learn.dls")
    n_images = len(dls.train_ds)
    if n < 1 or not -n_images <= index < n_images:
        text = f"n={n} draws of the training image with index={index} cannot be shown"
        raise DataError(text, f"n is 1 or more, and index one of the {n_images} training images, from 0 on")
    from fastai.vision.core import show_image
    from fastai.vision.data import get_grid

    axes = get_grid(n, figsize=figsize)
    for image, ax in zip(augmented_views(dls, index, n), axes, strict=False):
        show_image(image, ctx=ax)
    return np.asarray(axes, dtype=object).ravel().view(Panels)
