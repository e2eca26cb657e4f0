"""One resampling and one lighting pass for a whole batch, with draws keyed by (seed, epoch, image).

The geometry is fastai's: flip, rotation and zoom multiplied into one matrix, then the warp's perspective, sampled once
with `align_corners=True`. So is the lighting: brightness, contrast and saturation on the logits of the pixels. For the
same parameters the pixels equal those of fastai's `aug_transforms` within rounding.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fastai.vision.augment import RandTransform, find_coeffs
from fastai.vision.core import TensorImage
from torch import Tensor
from torch.nn import functional as F

from medclf.images import augment_ops

_DRAWS = 22
_LUMA = (0.2989, 0.5870, 0.1140)


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
    return ((bits >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)


def _mix(z: Any) -> Any:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


class Augment(RandTransform):
    """Draw rotation, flips, zoom, shift, warp and lighting for each image of a training batch.

    Args:
        size: (height, width) of the result in pixels; None keeps the batch's.
        max_rotate: degrees, drawn from [-max_rotate, max_rotate].
        p_rotate: share of the images that are rotated.
        flip_lr, flip_ud: mirror half of the images left to right, top to bottom.
        max_zoom: zoom drawn from [1, max_zoom] around a drawn point.
        max_shift: shift as a share of the image's side, drawn from [-max_shift, max_shift].
        max_warp: perspective, fastai's `Warp(magnitude)`.
        p_affine: share of the images that are zoomed, shifted, warped.
        brightness, contrast, saturation: fastai's `max_lighting`, on the logits.
        hue: rotation of the colours around the grey axis, as a share of the circle.
        p_lighting: share of the images, for each of the four.
        pad_mode: "reflection", "border" or "zeros".

    Example:
        >>> augment = Augment(size=(32, 32), max_rotate=180, flip_lr=True)
        >>> tuple(augment(TensorImage(torch.rand(4, 3, 36, 36)), split_idx=0).shape)
        (4, 3, 32, 32)
    """

    order = 9  # before fastai's IntToFloatTensor, since bytes are sampled faster
    split_idx = 0

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        max_rotate: float = 0.0,
        p_rotate: float = 0.75,
        flip_lr: bool = False,
        flip_ud: bool = False,
        max_zoom: float = 1.0,
        max_shift: float = 0.0,
        max_warp: float = 0.0,
        p_affine: float = 0.75,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        p_lighting: float = 0.75,
        pad_mode: str = "reflection",
    ) -> None:
        super().__init__()
        self.size, self.pad_mode = size, pad_mode
        self.max_rotate, self.p_rotate, self.flip_lr, self.flip_ud = max_rotate, p_rotate, flip_lr, flip_ud
        self.max_zoom, self.max_shift, self.max_warp, self.p_affine = max_zoom, max_shift, max_warp, p_affine
        self.brightness, self.contrast, self.saturation = brightness, contrast, saturation
        self.hue, self.p_lighting = hue, p_lighting
        self._keyed: Tensor | None = None
        self._position = 0
        self._ready: tuple[Any, list[Tensor | None]] = None, []

    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with."""
        return {name: getattr(self, name) for name in inspect.signature(Augment).parameters if name != "self"}

    def begin(self, seed: int, epoch: int, samples: Sequence[int]) -> None:
        """Key the coming draws: one row of `samples` for each image, in the order they will be seen."""
        self._keyed = torch.from_numpy(keyed_uniform(seed, epoch, np.asarray(samples), _DRAWS))
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
            return self._parameters(torch.rand(n, _DRAWS), *wanted)
        if self._ready[0] != wanted:
            self._ready = wanted, self._parameters(self._keyed, *wanted)
        part = slice(self._position, self._position + n)
        self._position += n
        return [None if values is None else values[part] for values in self._ready[1]]

    def _parameters(self, draws: Tensor, shape: tuple[int, ...], device: torch.device) -> list[Tensor | None]:
        lit = self.brightness or self.contrast or self.saturation or self.hue
        found = [self.matrices(draws, shape), *(self.lighting(draws) if lit else (None,) * 3)]
        return [None if values is None else values.to(device) for values in found]

    def matrices(self, draws: Tensor, shape: Sequence[int]) -> Tensor:
        """(n, 3, 3) homographies from the result's coordinates to the source's, both in [-1, 1]."""
        u = draws.unbind(1)
        mirror_x = 1 - 2 * (u[0] < 0.5).float() if self.flip_lr else torch.ones_like(u[0])
        mirror_y = 1 - 2 * (u[1] < 0.5).float() if self.flip_ud else torch.ones_like(u[0])
        degrees = torch.where(u[2] < self.p_rotate, (2 * u[3] - 1) * self.max_rotate, 0.0)
        zoom = torch.where(u[4] < self.p_affine, 1 + u[5] * (self.max_zoom - 1), 1.0)
        shifted = (u[8] < self.p_affine).float() * 2 * self.max_shift
        warped = (u[11] < self.p_affine).float() * self.max_warp
        return compose(
            mirror_x,
            mirror_y,
            degrees,
            zoom,
            center=((2 * u[6] - 1), (2 * u[7] - 1)),
            shift=(shifted * (2 * u[9] - 1), shifted * (2 * u[10] - 1)),
            warp=(warped * (2 * u[12] - 1), warped * (2 * u[13] - 1)) if self.max_warp else None,
            aspect=shape[0] / shape[1],
        )

    def lighting(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Offset and factor of the logits, and the colour matrix, for each image."""
        u = draws.unbind(1)
        on = [u[i] < self.p_lighting for i in (14, 15, 16, 17)]
        change = torch.where(on[0], 0.5 * (1 + self.brightness * (2 * u[18] - 1)), 0.5)
        factor = torch.where(on[1], torch.exp(-math.log(1 - self.contrast) * (2 * u[19] - 1)), 1.0)
        if not (self.saturation or self.hue):
            return torch.logit(change), factor, None
        saturation = torch.where(on[2], torch.exp(-math.log(1 - self.saturation) * (2 * u[20] - 1)), 1.0)
        turn = torch.where(on[3], 2 * math.pi * self.hue * (2 * u[21] - 1), 0.0)
        return torch.logit(change), factor, colour_matrices(saturation, turn)


def compose(
    mirror_x: Tensor,
    mirror_y: Tensor,
    degrees: Tensor,
    zoom: Tensor,
    center: tuple[Tensor, Tensor],
    shift: tuple[Tensor, Tensor],
    warp: tuple[Tensor, Tensor] | None = None,
    aspect: float = 1.0,
) -> Tensor:
    """Multiply flip, rotation, zoom and shift into one matrix, and the warp's perspective onto it.

    Args:
        mirror_x, mirror_y: (n,) 1 or -1.
        degrees: (n,) rotation.
        zoom: (n,) at least 1 to magnify.
        center: (n,) pairs in [-1, 1], the point that zooming keeps.
        shift: (n,) pairs, in units of half a side.
        warp: (n,) pairs of fastai's warp, x and y.
        aspect: height by width, so that a rotation turns and does not shear.

    Returns:
        (n, 3, 3) homographies.
    """
    theta = degrees * (math.pi / 180)
    cos, sin, scale = theta.cos(), theta.sin(), 1 / zoom
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    offset_x, offset_y = (1 - scale) * center[0] + shift[0], (1 - scale) * center[1] + shift[1]
    # rows of mirror @ rotation @ zoom, with the rotation in pixels rather than in the unit square
    top = (mirror_x * cos, mirror_x * sin * aspect)
    bottom = (-mirror_y * sin / aspect, mirror_y * cos)
    rows = [
        torch.stack([top[0] * scale, top[1] * scale, top[0] * offset_x + top[1] * offset_y], 1),
        torch.stack([bottom[0] * scale, bottom[1] * scale, bottom[0] * offset_x + bottom[1] * offset_y], 1),
        torch.stack([zero, zero, one], 1),
    ]
    matrix = torch.stack(rows, 1)
    return matrix if warp is None else _perspective(*warp) @ matrix


def _perspective(warp_x: Tensor, warp_y: Tensor) -> Tensor:
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], device=warp_x.device)
    corners = corners.expand(len(warp_x), 4, 2)
    moved = torch.stack(
        [
            torch.stack([-1 - warp_y, -1 - warp_x], 1),
            torch.stack([-1 + warp_y, 1 + warp_x], 1),
            torch.stack([1 + warp_y, -1 + warp_x], 1),
            torch.stack([1 - warp_y, 1 - warp_x], 1),
        ],
        1,
    )
    coefficients = find_coeffs(corners, moved).squeeze(-1)
    return torch.cat([coefficients, torch.ones_like(coefficients[:, :1])], 1).view(-1, 3, 3)


def warp_batch(images: Tensor, matrices: Tensor, size: tuple[int, int] | None, pad_mode: str = "reflection") -> Tensor:
    """Resample (n, c, h, w) `images` once through (n, 3, 3) `matrices` to `size`."""
    height, width = size or images.shape[-2:]
    ys = torch.linspace(-1, 1, height, device=images.device)
    xs = torch.linspace(-1, 1, width, device=images.device)
    grid = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], -1).view(1, -1, 2)
    points = grid @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    coordinates = (points[..., :2] / points[..., 2:]).view(-1, height, width, 2)
    return F.grid_sample(images, coordinates, mode="bilinear", padding_mode=pad_mode, align_corners=True)


def colour_matrices(saturation: Tensor, turn: Tensor) -> Tensor:
    """(n, 3, 3) matrices that scale the distance from grey and turn the colours around the grey axis.

    Args:
        saturation: (n,) 1 keeps, 0 makes grey (ITU-R 601-2 luma, as fastai's).
        turn: (n,) radians; Rodrigues' rotation around (1, 1, 1).
    """
    luma = torch.tensor(_LUMA, device=saturation.device)
    eye = torch.eye(3, device=saturation.device)
    s = saturation[:, None, None]
    saturate = s * eye + (1 - s) * luma.expand(3, 3)
    cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=turn.device) / math.sqrt(3)
    return (cos * eye + sin * cross + (1 - cos) / 3) @ saturate


def light_batch(images: Tensor, offset: Tensor, factor: Tensor, colours: Tensor | None) -> Tensor:
    """Brightness (`offset`) and contrast (`factor`) on the logits of images in [0, 1], then the colour matrix."""
    logits = torch.logit(images, eps=1e-7)
    logits = (logits + offset[:, None, None, None]) * factor[:, None, None, None]
    if colours is not None and images.shape[1] == 3:
        logits = (colours @ logits.flatten(2)).view(logits.shape)
    return torch.sigmoid(logits)
