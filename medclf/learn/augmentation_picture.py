"""One training image as it is and as the augmentation changes it, for the report."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from fastai.vision.augment import RandTransform
from PIL import Image

from medclf.errors import MedclfError
from medclf.images.phi import why_withheld
from medclf.learn.augment import Augment
from medclf.learn.checkpoint import seeded
from medclf.learn.features import exact
from medclf.learn.preprocessing import settings_of
from medclf.learn.presets import augmented_views
from medclf.modalities import MODALITIES

_SIDE, _DRAWS, _COLUMNS = 128, 7, 4
_LOOKED_AT = 20  # images; where the first ones are withheld, so are most


def augmentation_picture(dls: Any) -> str:
    """A JPEG data URI: the first training image that may be shown, unchanged, then as augmented seven times.

    Returns:
        "" where nothing augments, or no image may be shown (see `medclf.images.phi.why_withheld`).
    """
    if not any(isinstance(tfm, RandTransform) for tfm in dls.train.after_batch.fs):
        return ""
    index = _first_shown(dls)
    if index is None:
        return ""
    with seeded(getattr(dls.train, "seed", 42)):
        with exact(dls.train):
            plain = augmented_views(dls, index, 1)
        shown = [*plain, *augmented_views(dls, index, _DRAWS)]
    tiles = [_tile((image * 255).byte().permute(1, 2, 0).numpy()) for image in shown]
    rows = [np.concatenate(tiles[start : start + _COLUMNS], 1) for start in range(0, len(tiles), _COLUMNS)]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def described(dls: Any) -> dict[str, Any]:
    """For results.json: its part `augmentation`, how training images are changed and why so; {} where they are not."""
    augments = [tfm for tfm in dls.train.after_batch.fs if isinstance(tfm, RandTransform)]
    if not augments:
        return {}
    preset = MODALITIES.get(settings_of(dls).modality or "")
    reason = f" {preset.reason}" if preset else ""
    found: dict[str, Any] = {"sentence": f"Training images are changed at random.{reason}"}
    own = [tfm.settings() for tfm in augments if isinstance(tfm, Augment)]
    settings = {"settings": {name: value for name, value in own[0].items() if value}} if own else {}
    return {"augmentation": found | settings}


def _first_shown(dls: Any) -> int | None:
    problems = getattr(dls, "problems", None) or {}
    for index, item in enumerate(list(dls.train.dataset.items)[:_LOOKED_AT]):
        try:
            if isinstance(item, (str, Path)) and str(item) not in problems and not why_withheld(Path(item)):
                return index
        except MedclfError:
            continue
    return None


def _tile(image: np.ndarray) -> np.ndarray:
    pixels = image[..., 0] if image.shape[2] == 1 else image
    return np.asarray(Image.fromarray(pixels).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
