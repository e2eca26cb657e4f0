"""One resampling and one lighting pass for a whole batch, with draws keyed by (seed, epoch, image).

The geometry is fastai's: flip, rotation and zoom multiplied into one matrix, then the warp's perspective, sampled once
with `align_corners=True`. So is the lighting: brightness, contrast and saturation on the logits of the pixels. For the
same parameters the pixels equal those of fastai's `aug_transforms` within rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import reduce
from typing import Any

import numpy as np
import torch
from fastai.vision.augment import RandTransform
from fastai.vision.core import TensorImage
from torch import Tensor
from torch.nn import functional as F

from medclf.errors import DataError, did_you_mean
from medclf.images import augment_ops
from medclf.learn.augmentations import AUGMENTATIONS, Augmentation, Colour, Geometry, Tone, checked


def keyed_uniform(seed: int, epoch: int, samples: np.ndarray, n_draws: int) -> np.ndarray:
    """Uniform draws that depend on (seed, epoch, sample, position) and on nothing else.

    The mixing function is SplitMix64 (Steele, Lea and Flood 2014).

    Args:
        seed: the run's seed.
        epoch: number of the pass over the data.
        samples: (n,) integers, which image each row is for.
        n_draws: how many draws an image.

    Returns:
        (n, n_draws) float32 in [0, 1).

    Example:
        >>> a = keyed_uniform(1, 0, np.array([5, 9]), 3)
        >>> b = keyed_uniform(1, 0, np.array([9]), 3)
        >>> bool((a[1] == b[0]).all())
        True
    """
    with np.errstate(over="ignore"):
        key = _mix(_mix(np.uint64(seed % 2**64)) + np.uint64(epoch % 2**64))
        rows = _mix(_mix(samples.astype(np.uint64)) ^ key)
        bits = _mix(rows[:, None] + np.arange(1, n_draws + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.asarray(((bits >> np.uint64(40)).astype(np.float32)) / np.float32(2**24))


def _mix(z: Any) -> Any:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Augment(RandTransform):
    """Draw geometry and lighting for each image of a training batch: one resampling, one lighting pass.

    Args:
        size: (height, width) of the result in pixels; None keeps the batch's.
        pad_mode: "reflection", "border" or "zeros".
        settings: those of `medclf.learn.augmentations`: max_rotate and p_rotate, flip_lr, flip_ud, min_zoom, max_zoom,
            max_shift, max_shear, max_warp, brightness, contrast, saturation, hue; p_affine and p_lighting are shares of
            the images, for each.

    Raises:
        DataError: no augmentation has such a setting, or the setting cannot have that value.

    Example:
        >>> augment = Augment(size=(32, 32), max_rotate=180, flip_lr=True)
        >>> tuple(augment(TensorImage(torch.rand(4, 3, 36, 36)), split_idx=0).shape)
        (4, 3, 32, 32)
    """

    order = 9  # before fastai's IntToFloatTensor, since bytes are sampled faster
    split_idx = 0

    def __init__(self, size: tuple[int, int] | None = None, pad_mode: str = "reflection", **settings: float) -> None:
        super().__init__()
        self.size, self.pad_mode = size, pad_mode
        self.augmentations = _made(settings)
        self.n_draws = 1 + max(column for one in self.augmentations for column in one.columns)
        self._keyed: Tensor | None = None
        self._position = 0
        self._ready: tuple[Any, list[Tensor | None]] = None, []

    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, and the others' defaults."""
        own = {field.name: getattr(one, field.name) for one in self.augmentations for field in fields(one)}
        return {"size": self.size, "pad_mode": self.pad_mode, **own}

    def begin(self, seed: int, epoch: int, samples: Sequence[int]) -> None:
        """Key the coming draws: one row of `samples` for each image, in the order they will be seen."""
        self._keyed = torch.from_numpy(keyed_uniform(seed, epoch, np.asarray(samples), self.n_draws))
        self._position = 0
        self._ready = None, []

    def before_call(self, b: Any, split_idx: int | None) -> None:
        """Nothing is drawn for the batch as a whole."""

    def encodes(self, x: TensorImage) -> TensorImage:  # noqa: D102 - fastai's protocol
        images = x.as_subclass(Tensor)
        matrices, offset, factor, colours = self._next(images)
        assert matrices is not None
        if images.dtype == torch.uint8 and images.device.type == "cpu" and augment_ops.is_available():
            rows = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
            light = [None if each is None else each.numpy() for each in (offset, factor, colours)]
            made = augment_ops.augment_bytes(rows, matrices.numpy(), self.size, self.pad_mode, *light)
            return TensorImage(torch.from_numpy(made).permute(0, 3, 1, 2))
        peak = 255 if images.dtype == torch.uint8 else 1  # IntToFloatTensor will divide by it
        images = warp_batch(images / peak, matrices, self.size, self.pad_mode)
        if offset is not None and factor is not None:
            images = light_batch(images, offset, factor, colours)
        return TensorImage(images * peak if peak > 1 else images)

    def _next(self, x: Tensor) -> list[Tensor | None]:
        """The parameters of the next images, on their device; an epoch's are computed and copied there at once."""
        n, wanted = len(x), (tuple(x.shape[-2:]), x.device)
        if self._keyed is None or self._position + n > len(self._keyed):
            self._keyed = None
            return self._parameters(torch.rand(n, self.n_draws), *wanted)
        if self._ready[0] != wanted:
            self._ready = wanted, self._parameters(self._keyed, *wanted)
        part = slice(self._position, self._position + n)
        self._position += n
        return [None if values is None else values[part] for values in self._ready[1]]

    def _parameters(self, draws: Tensor, shape: tuple[int, ...], device: torch.device) -> list[Tensor | None]:
        found = [self.matrices(draws, shape), *self.lighting(draws)]
        return [None if values is None else values.to(device) for values in found]

    def matrices(self, draws: Tensor, shape: Sequence[int]) -> Tensor:
        """(n, 3, 3) homographies from the result's coordinates to the source's, both in [-1, 1]."""
        moves = [one for one in self.augmentations if isinstance(one, Geometry) and one.is_on]
        still = torch.eye(3).expand(len(draws), 3, 3)
        return reduce(torch.matmul, [one.matrix(one.draws(draws), shape[0] / shape[1]) for one in moves] or [still])

    def lighting(self, draws: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Offset and factor of the logits, and the colour matrix, for each image; None where nothing changes them."""
        offset, factor, colours = torch.zeros(len(draws)), torch.ones(len(draws)), None
        lit = [one for one in self.augmentations if isinstance(one, (Tone, Colour)) and one.is_on]
        for one in lit:
            if isinstance(one, Tone):
                added, scale = one.tone(one.draws(draws))
                offset, factor = offset + added / factor, factor * scale
            else:
                matrix = one.colours(one.draws(draws))
                colours = matrix if colours is None else matrix @ colours
        return (offset, factor, colours) if lit else (None, None, None)


def _made(settings: Mapping[str, Any]) -> list[Augmentation]:
    """One of each augmentation, with those of its settings that are given."""
    known = {field.name: field for kind in AUGMENTATIONS for field in fields(kind)}
    for name in settings:
        if name not in known:
            named = " or ".join(one for one in sorted(known) if name in one.split("_"))
            remedy = f"did you mean {named}?" if named else did_you_mean(name, known)
            remedy = remedy or f"there are {', '.join(sorted(known))}"
            raise DataError(f"no augmentation has the setting {name!r}", remedy)
    values = {name: checked(name, value, known[name]) for name, value in settings.items()}
    return [kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values}) for kind in AUGMENTATIONS]


def warp_batch(images: Tensor, matrices: Tensor, size: tuple[int, int] | None, pad_mode: str = "reflection") -> Tensor:
    """Resample (n, c, h, w) `images` once through (n, 3, 3) `matrices` to `size`."""
    height, width = size or images.shape[-2:]
    ys = torch.linspace(-1, 1, height, device=images.device)
    xs = torch.linspace(-1, 1, width, device=images.device)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], -1).view(1, -1, 2)
    points = grid @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    coordinates = (points[..., :2] / points[..., 2:]).view(-1, height, width, 2)
    return F.grid_sample(images, coordinates, mode="bilinear", padding_mode=pad_mode, align_corners=True)


def light_batch(images: Tensor, offset: Tensor, factor: Tensor, colours: Tensor | None) -> Tensor:
    """Brightness (`offset`) and contrast (`factor`) on the logits of images in [0, 1], then the colour matrix."""
    logits = torch.logit(images, eps=1e-7)
    logits = (logits + offset[:, None, None, None]) * factor[:, None, None, None]
    if colours is not None and images.shape[1] == 3:
        logits = (colours @ logits.flatten(2)).view(logits.shape)
    return torch.sigmoid(logits)
