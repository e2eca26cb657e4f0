"""The augmentations, one class each: what is drawn for an image, and the matrix or the change of light that it gives.

A class has settings with unique names, which `Augment` and the presets take, and `columns`: which of an image's uniform
draws are its own. A column is never used twice, so one more augmentation leaves the draws of the others as they were.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar

import torch
from fastai.vision.augment import find_coeffs
from torch import Tensor

from medclf.errors import DataError

_LUMA = (0.2989, 0.5870, 0.1140)  # ITU-R 601-2, as fastai's

Draws = Sequence[Tensor]
"""(n,) uniform draws in [0, 1) for each of a class's columns."""


def setting(default: Any, least: float = 0.0, most: float = 1.0) -> Any:
    """A field of an augmentation: its default, which changes nothing, and the numbers that it may have."""
    return field(default=default, metadata={"least": least, "most": most})


def checked(name: str, value: Any, known: Field[Any]) -> Any:
    """A setting's value; also from the text that stands for it in the shell.

    Raises:
        DataError: the setting cannot have it.

    Example:
        >>> checked("max_rotate", "20", Rotate.__dataclass_fields__["max_rotate"])
        20.0
    """
    found: bool | float | None
    if isinstance(known.default, bool):
        found = {"true": True, "false": False}.get(str(value).lower())
        allowed = "True or False"
    else:
        least, most = known.metadata.get("least", -math.inf), known.metadata.get("most", math.inf)
        allowed = f"a number from {least:g} to {most:g}"
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        found = number if least <= number <= most else None
    if found is None:
        raise DataError(f"the augmentation setting {name} must be {allowed}, not {value!r}")
    return found


@dataclass(frozen=True)
class Augmentation:
    """What all have; a subclass adds `matrix`, `tone` or `colours`."""

    columns: ClassVar[tuple[int, ...]] = ()

    @property
    def is_on(self) -> bool:
        """Whether its settings change anything; how often (`p_...`) does not by itself."""
        return any(getattr(self, f.name) != f.default for f in fields(self) if not f.name.startswith("p_"))

    def draws(self, uniform: Tensor) -> list[Tensor]:
        """Its own of (n, k) draws."""
        return [uniform[:, column] for column in self.columns]


class Geometry(Augmentation):
    """Moves pixels."""

    def matrix(self, u: Draws, aspect: float) -> Tensor:
        """(n, 3, 3) from the result's coordinates to the source's, both in [-1, 1]; aspect is height by width."""
        raise NotImplementedError


class Tone(Augmentation):
    """Changes brightness and contrast."""

    def tone(self, u: Draws) -> tuple[Tensor, Tensor]:
        """(n,) offset of the pixels' logits, and (n,) factor on them afterwards."""
        raise NotImplementedError


class Colour(Augmentation):
    """Changes colours."""

    def colours(self, u: Draws) -> Tensor:
        """(n, 3, 3) matrices on the logits of the three channels."""
        raise NotImplementedError


@dataclass(frozen=True)
class Warp(Geometry):
    """fastai's `Warp(magnitude)`: the image seen from a little aside."""

    max_warp: float = setting(0.0, most=0.9)
    p_affine: float = setting(0.75)
    columns: ClassVar = (11, 12, 13)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        amount = (u[0] < self.p_affine).float() * self.max_warp
        return perspective(amount * (2 * u[1] - 1), amount * (2 * u[2] - 1))


@dataclass(frozen=True)
class Flip(Geometry):
    """Mirror half of the images left to right, half of them top to bottom."""

    flip_lr: bool = False
    flip_ud: bool = False
    columns: ClassVar = (0, 1)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        sides = [
            1 - 2 * (one < 0.5).float() if on else torch.ones_like(one)
            for one, on in zip(u, (self.flip_lr, self.flip_ud), strict=True)
        ]
        return mirroring(*sides)


@dataclass(frozen=True)
class Rotate(Geometry):
    """Turn a share `p_rotate` of the images by up to `max_rotate` degrees either way."""

    max_rotate: float = setting(0.0, most=180)
    p_rotate: float = setting(0.75)
    columns: ClassVar = (2, 3)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        degrees = torch.where(u[0] < self.p_rotate, (2 * u[1] - 1) * self.max_rotate, 0.0)
        return rotation(degrees, aspect)


@dataclass(frozen=True)
class Shear(Geometry):
    """Slant a share `p_affine` of the images by up to `max_shear` degrees either way; rows stay level."""

    max_shear: float = setting(0.0, most=60)
    p_affine: float = setting(0.75)
    columns: ClassVar = (22, 23)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        degrees = torch.where(u[0] < self.p_affine, (2 * u[1] - 1) * self.max_shear, 0.0)
        return slant(degrees, aspect)


@dataclass(frozen=True)
class Shift(Geometry):
    """Move by up to `max_shift` of the image's side."""

    max_shift: float = setting(0.0)
    p_affine: float = setting(0.75)
    columns: ClassVar = (8, 9, 10)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        amount = (u[0] < self.p_affine).float() * 2 * self.max_shift
        return translation(amount * (2 * u[1] - 1), amount * (2 * u[2] - 1))


@dataclass(frozen=True)
class Zoom(Geometry):
    """Magnify by `min_zoom` to `max_zoom` around a drawn point; below 1 the image shrinks, and its edge is mirrored."""

    max_zoom: float = setting(1.0, least=1, most=10)
    min_zoom: float = setting(1.0, least=0.1)
    p_affine: float = setting(0.75)
    columns: ClassVar = (4, 5, 6, 7)

    def matrix(self, u: Draws, aspect: float) -> Tensor:  # noqa: D102
        zoom = torch.where(u[0] < self.p_affine, self.min_zoom + u[1] * (self.max_zoom - self.min_zoom), 1.0)
        return magnification(zoom, 2 * u[2] - 1, 2 * u[3] - 1)


@dataclass(frozen=True)
class Brightness(Tone):
    """fastai's `Brightness(max_lighting)`, for a share `p_lighting` of the images."""

    brightness: float = setting(0.0, most=0.99)
    p_lighting: float = setting(0.75)
    columns: ClassVar = (14, 18)

    def tone(self, u: Draws) -> tuple[Tensor, Tensor]:  # noqa: D102
        change = torch.where(u[0] < self.p_lighting, 0.5 * (1 + self.brightness * (2 * u[1] - 1)), 0.5)
        return torch.logit(change), torch.ones_like(change)


@dataclass(frozen=True)
class Contrast(Tone):
    """fastai's `Contrast(max_lighting)`, for a share `p_lighting` of the images."""

    contrast: float = setting(0.0, most=0.99)
    p_lighting: float = setting(0.75)
    columns: ClassVar = (15, 19)

    def tone(self, u: Draws) -> tuple[Tensor, Tensor]:  # noqa: D102
        return torch.zeros_like(u[0]), _scale(u, self.contrast, self.p_lighting)


@dataclass(frozen=True)
class Saturation(Colour):
    """fastai's `Saturation(max_lighting)`, for a share `p_lighting` of the images."""

    saturation: float = setting(0.0, most=0.99)
    p_lighting: float = setting(0.75)
    columns: ClassVar = (16, 20)

    def colours(self, u: Draws) -> Tensor:  # noqa: D102
        return saturating(_scale(u, self.saturation, self.p_lighting))


@dataclass(frozen=True)
class Hue(Colour):
    """Turn the colours around the grey axis by up to `hue` of the circle."""

    hue: float = setting(0.0, most=0.5)
    p_lighting: float = setting(0.75)
    columns: ClassVar = (17, 21)

    def colours(self, u: Draws) -> Tensor:  # noqa: D102
        return turning(torch.where(u[0] < self.p_lighting, 2 * math.pi * self.hue * (2 * u[1] - 1), 0.0))


AUGMENTATIONS: list[type[Augmentation]] = [
    Warp,
    Flip,
    Rotate,
    Shear,
    Shift,
    Zoom,  # matrices are multiplied in this order
    Brightness,
    Contrast,
    Saturation,
    Hue,  # light is changed in this order
]


def _scale(u: Draws, most: float, share: float) -> Tensor:
    """(n,) factors from 1 - most to 1 / (1 - most) for a share of the images, 1 for the others."""
    return torch.where(u[0] < share, torch.exp(-math.log(1 - most) * (2 * u[1] - 1)), 1.0)


def _affine(top: Sequence[Tensor], bottom: Sequence[Tensor]) -> Tensor:
    """(n, 3, 3) from the three (n,) entries of the first row and of the second."""
    last = torch.zeros_like(top[0]), torch.zeros_like(top[0]), torch.ones_like(top[0])
    return torch.stack([torch.stack(list(row), 1) for row in (top, bottom, last)], 1)


def mirroring(x: Tensor, y: Tensor) -> Tensor:
    """(n, 3, 3); x and y are 1 or -1."""
    zero = torch.zeros_like(x)
    return _affine((x, zero, zero), (zero, y, zero))


def rotation(degrees: Tensor, aspect: float = 1.0) -> Tensor:
    """(n, 3, 3) that turn in pixels, not in the unit square: nothing is sheared where aspect is height by width."""
    theta = torch.deg2rad(degrees)
    cos, sin, zero = theta.cos(), theta.sin(), torch.zeros_like(theta)
    return _affine((cos, sin * aspect, zero), (-sin / aspect, cos, zero))


def slant(degrees: Tensor, aspect: float = 1.0) -> Tensor:
    """(n, 3, 3) that move each row sideways, as far as it is above or below the centre; in pixels, as `rotation`."""
    slope = torch.deg2rad(degrees).tan()
    one, zero = torch.ones_like(slope), torch.zeros_like(slope)
    return _affine((one, slope * aspect, zero), (zero, one, zero))


def translation(x: Tensor, y: Tensor) -> Tensor:
    """(n, 3, 3), in units of half a side."""
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    return _affine((one, zero, x), (zero, one, y))


def magnification(zoom: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(n, 3, 3); zoom above 1 magnifies, x and y are the point in [-1, 1] that stays."""
    scale, zero = 1 / zoom, torch.zeros_like(zoom)
    return _affine((scale, zero, (1 - scale) * x), (zero, scale, (1 - scale) * y))


def perspective(x: Tensor, y: Tensor) -> Tensor:
    """(n, 3, 3) of fastai's warp."""
    corners = torch.tensor([[-1.0, -1], [-1, 1], [1, -1], [1, 1]], device=x.device).expand(len(x), 4, 2)
    moved = torch.stack(
        [
            torch.stack([-1 - y, -1 - x], 1),
            torch.stack([-1 + y, 1 + x], 1),
            torch.stack([1 + y, -1 + x], 1),
            torch.stack([1 - y, 1 - x], 1),
        ],
        1,
    )
    coefficients = find_coeffs(corners, moved).squeeze(-1)
    return torch.cat([coefficients, torch.ones_like(coefficients[:, :1])], 1).view(-1, 3, 3)


def saturating(amount: Tensor) -> Tensor:
    """(n, 3, 3) that scale the distance from grey: 1 keeps, 0 makes grey."""
    luma = torch.tensor(_LUMA, device=amount.device).expand(3, 3)
    s = amount[:, None, None]
    return s * torch.eye(3, device=amount.device) + (1 - s) * luma


def turning(radians: Tensor) -> Tensor:
    """(n, 3, 3) that turn the colours around the grey axis: Rodrigues' rotation around (1, 1, 1)."""
    cos, sin = radians.cos()[:, None, None], radians.sin()[:, None, None]
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=radians.device) / math.sqrt(3)
    return cos * torch.eye(3, device=radians.device) + sin * cross + (1 - cos) / 3
