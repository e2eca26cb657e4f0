"""The modalities: how far an image of each may be changed and still be one that a lens or a tube could have shown.

The loaders' presets, the options' choices and the help come from this table. To add a modality, add a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from medclf.errors import DataError, argument


@dataclass(frozen=True)
class Preset:
    """How images of a modality are augmented, and why so.

    Args:
        reason: what may change from one acquisition to the next, and what belongs to the finding.
        settings: of `medclf.learn.augment.Augment`.
    """

    reason: str
    settings: dict[str, Any]


_NO_UPRIGHT = dict(max_rotate=180.0, p_rotate=1.0, flip_lr=True, flip_ud=True)

MODALITIES: dict[str, Preset] = {
    "endoscopy": Preset(
        "The scope has no upright, and its lamp is near or far. A polyp's outline is part of its class, so warp stays "
        "low. A rotation can cut off the green position box, and does not remove it: see the audit for shortcuts.",
        dict(
            **_NO_UPRIGHT,
            max_zoom=1.25,
            max_shift=0.05,
            max_warp=0.05,
            brightness=0.25,
            contrast=0.25,
            saturation=0.25,
            hue=0.02,
        ),
    ),
    "radiograph": Preset(
        "Left stays left: the heart's side and the side marker mean something. Exposure and window differ. "
        "No colour, no warp.",
        dict(max_rotate=10.0, max_zoom=1.1, max_shift=0.05, brightness=0.2, contrast=0.2),
    ),
    "dermoscopy": Preset(
        "A lesion has no upright, but its colour is a sign: it changes little. No warp: asymmetry and border are "
        "criteria.",
        dict(
            **_NO_UPRIGHT,
            max_zoom=1.2,
            max_shift=0.05,
            brightness=0.2,
            contrast=0.2,
            saturation=0.1,
            hue=0.01,
        ),
    ),
    "fundus": Preset(
        "A left eye mirrored is a right eye, and the sky stays above. No warp. If the label depends on the eye's side, "
        "pass flip_lr=False.",
        dict(
            max_rotate=15.0,
            flip_lr=True,
            max_zoom=1.1,
            max_shift=0.03,
            brightness=0.2,
            contrast=0.2,
            saturation=0.1,
            hue=0.01,
        ),
    ),
    "histology": Preset(
        "A slide has no upright, and stains differ between laboratories. Magnification is information, so zoom stays "
        "low. No warp.",
        dict(
            **_NO_UPRIGHT,
            max_zoom=1.1,
            max_shift=0.05,
            brightness=0.15,
            contrast=0.15,
            saturation=0.2,
            hue=0.03,
        ),
    ),
    "ultrasound": Preset(
        "Depth runs downwards and shadows fall below what casts them, so it stays upright. The probe may be held "
        "either way round, and is tilted by hand. Gain and depth are set for each patient: light, zoom in and out. No "
        "colour, no warp. If the label depends on the side, pass flip_lr=False.",
        dict(
            max_rotate=10.0,
            flip_lr=True,
            min_zoom=0.9,
            max_zoom=1.15,
            max_shift=0.05,
            brightness=0.2,
            contrast=0.25,
        ),
    ),
    "ct": Preset(
        "Left stays left: heart and liver have a side. Patients lie a little askew and differ in size: small rotation, "
        "zoom in and out. Hounsfield units are a scale, so light changes hardly. No colour, no warp.",
        dict(max_rotate=10.0, min_zoom=0.9, max_zoom=1.1, max_shift=0.05, brightness=0.05, contrast=0.05),
    ),
    "mri": Preset(
        "Left stays left: a lesion has a side. The signal has no unit and differs between scanners, so light changes "
        "more than in CT. Heads are tilted and fields of view differ: rotation, a little shear, zoom in and out.",
        dict(
            max_rotate=10.0,
            max_shear=3.0,
            min_zoom=0.9,
            max_zoom=1.1,
            max_shift=0.05,
            brightness=0.2,
            contrast=0.25,
        ),
    ),
    "oct": Preset(
        "A left eye mirrored is a right eye. The layers lie below each other, tilted by how the eye is held: small "
        "rotation and shear. Their thickness is the finding, so no warp and little zoom. If the label depends on the "
        "eye's side, pass flip_lr=False.",
        dict(
            max_rotate=8.0,
            max_shear=5.0,
            flip_lr=True,
            max_zoom=1.05,
            max_shift=0.08,
            brightness=0.2,
            contrast=0.2,
        ),
    ),
    "capsule": Preset(
        "The capsule tumbles, so there is no upright, and its lamp is near or far. Blood is told by its colour, which "
        "changes little. The lens is wide: zoom in and out, a little warp.",
        dict(
            **_NO_UPRIGHT,
            min_zoom=0.9,
            max_zoom=1.2,
            max_shift=0.05,
            max_warp=0.05,
            brightness=0.3,
            contrast=0.25,
            saturation=0.1,
            hue=0.01,
        ),
    ),
    "mammography": Preset(
        "A left breast mirrored is a right one, and the muscle stays above. Microcalcifications are a few pixels, so "
        "no zoom out, little zoom in, no warp. Exposure and compression differ. If the label depends on the side, pass "
        "flip_lr=False.",
        dict(max_rotate=10.0, flip_lr=True, max_zoom=1.05, max_shift=0.05, brightness=0.1, contrast=0.15),
    ),
    "photo": Preset(
        "fastai's defaults for pictures of things: mirrored, a little rotated, warped and zoomed, in another light.",
        dict(max_rotate=10.0, flip_lr=True, max_zoom=1.1, max_warp=0.2, brightness=0.2, contrast=0.2),
    ),
}


def changes_of(aug: Mapping[str, Any] | Sequence[str] | None) -> dict[str, Any]:
    """Changes of a preset by name, as `tfms_for` takes them.

    Args:
        aug: {setting: value}, or one "name=value" each as the shell has them.

    Raises:
        DataError: a text without a name or a value.

    Example:
        >>> changes_of(["max_rotate=20", "flip_lr=false"])
        {'max_rotate': '20', 'flip_lr': 'false'}
    """
    if isinstance(aug, Mapping):
        return dict(aug)
    pairs = [text.partition("=") for text in aug or ()]
    for name, sign, value in pairs:
        if not (name and sign and value):
            raise DataError(f"{argument('aug')} must be NAME=VALUE, not {name + sign + value!r}", "max_rotate=20")
    return {name.strip(): value.strip() for name, _, value in pairs}


if TYPE_CHECKING:
    Modality = str
else:
    Modality = Literal[tuple(MODALITIES)]  # so that whoever reads the choices reads the table
