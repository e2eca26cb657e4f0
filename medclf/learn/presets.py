"""Augmentation presets by modality: what a lens or a tube could have shown, and nothing else.

Each preset returns `(item_tfms, batch_tfms)`, two lists of fastai transforms, to be passed to a `DataBlock` or to
`MedDataLoaders`. The item transform brings every image to one size; the batch transform draws rotation, zoom, flips,
shift and warp as one resampling and the lighting as one pass, on the batch's device.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from fastai.data.core import DataLoaders
from fastai.data.transforms import Normalize
from fastai.vision.augment import RandTransform
from fastai.vision.core import PILImage, TensorImage

from medclf.errors import DataError
from medclf.images.reading import Resize, resize_pixels
from medclf.learn.augment import Augment

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
    """`size` as (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def scaled(size: Size, scale: float) -> tuple[int, int]:
    """`size` times `scale`, in whole pixels.

    Example:
        >>> scaled(224, 1.15)
        (258, 258)
    """
    height, width = as_pair(size)
    return round(height * scale), round(width * scale)


def _preset(size: Size, resize: Resize, **draws: Any) -> Tfms:
    return [MedResize(size, resize, TRAIN_SCALE)], [Augment(size=as_pair(size), **draws)]


def endoscopy_tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """Transforms for endoscopy: the scope has no upright, and its lamp is near or far.

    Allows full 360-degree rotation, both flips, zoom to 1.25, brightness, contrast and saturation by 0.25, hue by a
    fiftieth of the circle. Warp stays low (0.05): a polyp's outline is part of its class. A rotation can cut off the
    green position box, and does not remove it: see the audit for shortcuts.

    Args:
        size: side, or (height, width), of the training images in pixels.
        resize: "squish", "crop" or "pad".
        changes: other values for `Augment`'s arguments, such as `max_rotate=90`.

    Returns:
        (item_tfms, batch_tfms), lists of fastai transforms.

    Example:
        >>> item_tfms, batch_tfms = endoscopy_tfms(224)
        >>> batch_tfms[0].max_rotate
        180.0
    """
    draws = dict(
        max_rotate=180.0,
        p_rotate=1.0,
        flip_lr=True,
        flip_ud=True,
        max_zoom=1.25,
        max_shift=0.05,
        max_warp=0.05,
        brightness=0.25,
        contrast=0.25,
        saturation=0.25,
        hue=0.02,
    )
    return _preset(size, resize, **(draws | changes))


def radiograph_tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """Transforms for radiographs: left stays left.

    No flips (the heart's side and the side marker mean something), at most 10 degrees, shift by 5 %, zoom to 1.1,
    brightness and contrast by 0.2 as exposure and window differ. No colour, no warp.

    Example:
        >>> _, (augment,) = radiograph_tfms(224)
        >>> augment.flip_lr, augment.max_rotate
        (False, 10.0)
    """
    draws = dict(max_rotate=10.0, max_zoom=1.1, max_shift=0.05, brightness=0.2, contrast=0.2)
    return _preset(size, resize, **(draws | changes))


def dermoscopy_tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """Transforms for dermoscopy: a lesion has no upright, but its colour is a sign.

    Full rotation, both flips, zoom to 1.2; brightness and contrast by 0.2; saturation by only 0.1 and hue by a
    hundredth, since colour belongs to the diagnosis. No warp: asymmetry and border are criteria.

    Example:
        >>> _, (augment,) = dermoscopy_tfms(224)
        >>> augment.max_warp, augment.hue
        (0.0, 0.01)
    """
    draws = dict(
        max_rotate=180.0,
        p_rotate=1.0,
        flip_lr=True,
        flip_ud=True,
        max_zoom=1.2,
        max_shift=0.05,
        brightness=0.2,
        contrast=0.2,
        saturation=0.1,
        hue=0.01,
    )
    return _preset(size, resize, **(draws | changes))


def fundus_tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """Transforms for fundus photographs: a left eye mirrored is a right eye, the sky stays above.

    Horizontal flip, at most 15 degrees, zoom to 1.1, shift by 3 %, brightness and contrast by 0.2, saturation by 0.1.
    No vertical flip and no warp. If the label depends on the eye's side, pass `flip_lr=False`.

    Example:
        >>> _, (augment,) = fundus_tfms(224)
        >>> augment.flip_lr, augment.flip_ud
        (True, False)
    """
    draws = dict(
        max_rotate=15.0,
        flip_lr=True,
        max_zoom=1.1,
        max_shift=0.03,
        brightness=0.2,
        contrast=0.2,
        saturation=0.1,
        hue=0.01,
    )
    return _preset(size, resize, **(draws | changes))


def histology_tfms(size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """Transforms for histology: a slide has no upright, and stains differ between laboratories.

    Full rotation, both flips, zoom to 1.1 only (magnification is information), brightness and contrast by 0.15,
    saturation by 0.2 and hue by 0.03 for the stain. No warp.

    Example:
        >>> _, (augment,) = histology_tfms(224)
        >>> augment.hue
        0.03
    """
    draws = dict(
        max_rotate=180.0,
        p_rotate=1.0,
        flip_lr=True,
        flip_ud=True,
        max_zoom=1.1,
        max_shift=0.05,
        brightness=0.15,
        contrast=0.15,
        saturation=0.2,
        hue=0.03,
    )
    return _preset(size, resize, **(draws | changes))


PRESETS: dict[str, Callable[..., Tfms]] = {
    "endoscopy": endoscopy_tfms,
    "radiograph": radiograph_tfms,
    "dermoscopy": dermoscopy_tfms,
    "fundus": fundus_tfms,
    "histology": histology_tfms,
}


def tfms_for(modality: str | None, size: Size = 224, resize: Resize = "squish", **changes: Any) -> Tfms:
    """The preset for a modality; `None` brings images to `size` and augments nothing.

    Args:
        modality: one of "endoscopy", "radiograph", "dermoscopy", "fundus", "histology", or None.
        size: side, or (height, width), in pixels.
        resize: "squish", "crop" or "pad".
        changes: other values for `Augment`'s arguments.

    Returns:
        (item_tfms, batch_tfms), lists of fastai transforms.

    Raises:
        DataError: no preset of that name, or no such argument.

    Example:
        >>> item_tfms, batch_tfms = tfms_for(None, 128)
        >>> item_tfms[0].size, batch_tfms
        ((128, 128), [])
    """
    if modality is None:
        return [MedResize(size, resize)], []
    if modality not in PRESETS:
        raise DataError(f"no transforms for modality '{modality}'", f"choose one of {', '.join(PRESETS)}, or none")
    unknown = set(changes) - set(inspect.signature(Augment).parameters)
    if unknown:
        raise DataError(f"Augment has no argument {', '.join(sorted(unknown))}", "see medclf.learn.augment.Augment")
    return PRESETS[modality](size, resize, **changes)


def show_augmentations(dls: DataLoaders, index: int = 0, n: int = 9, figsize: tuple[float, float] | None = None) -> Any:
    """Draw one training image as the network sees it, `n` times over.

    Args:
        dls: loaders made by medclf or fastai.
        index: which training image.
        n: how many draws.
        figsize: matplotlib's figure size in inches.

    Returns:
        The array of matplotlib axes.
    """
    from fastai.vision.core import show_image
    from fastai.vision.data import get_grid

    loader = dls.train.new(get_idxs=lambda: [index] * n, bs=n, shuffle=False, drop_last=False, num_workers=0)
    images = loader.one_batch()[0]
    for tfm in loader.after_batch.fs:
        if isinstance(tfm, Normalize):
            images = tfm.decode(TensorImage(images))
    axes = get_grid(n, figsize=figsize)
    for image, ax in zip(images.clamp(0, 1), axes, strict=False):
        show_image(image, ctx=ax)
    return axes
