"""The modalities: how far an image of each may be changed and still be one that a lens or a tube could have shown.

The loaders' presets, the options' choices and the help come from this table. To add a modality, add a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal


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
}

if TYPE_CHECKING:
    Modality = str
else:
    Modality = Literal[tuple(MODALITIES)]  # so that whoever reads the choices reads the table
