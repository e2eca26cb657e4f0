"""Where the model looked, for the images that a report shows first: small pictures to lay over theirs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medclf.errors import DataError, MedclfError, MedclfWarning
from medclf.files import write_json
from medclf.images.heatmap import coloured, on_original, png_uri
from medclf.images.preprocessing import Preprocessing
from medclf.results.predictions import Predictions

FILE = "saliency.json"  # in a RUN folder
LIMIT = 40  # images that get a map
ACTUAL = "actual label of "  # before the path of a map that is of the actual label, where another was predicted
WHY_NONE = ""  # in place of a path: why there are no maps
_SIDE = 96  # longer side of a map in pixels: it is as coarse as the network's last feature map anyway

Maps = Callable[[Sequence[Path], Sequence[str]], Sequence[np.ndarray]]


def map_pictures(predictions: Predictions, root: Path, maps: Maps, how: Preprocessing, limit: int) -> dict[str, str]:
    """Maps of the errors with the highest loss, then of the right ones with the highest.

    Each is of the predicted label; an error of a single label has a second one, of its actual label.

    Args:
        predictions: whose images.
        root: the folder that their paths are relative to.
        maps: files and a label for each -> their maps, each in [0, 1] over the prepared pixels.
        how: the images were prepared.
        limit: how many.

    Returns:
        {path: data URI of a PNG that lies over the whole image}, and with `ACTUAL` before the path those of the actual
        label; where the network has no map to give, why under `WHY_NONE`.
    """
    first = worst(predictions, limit)
    said = predictions.probs.argmax(1)
    y = said if predictions.multi_label else np.asarray(predictions.y)
    missed = [row for row in first if y[row] not in (-1, said[row])]
    rows = [*first, *missed]
    table = predictions.table.iloc[rows]
    labels = [predictions.vocab[k] for k in (*said[first], *y[missed])]
    names = [f"{ACTUAL if place >= len(first) else ''}{path}" for place, path in enumerate(table["path"])]
    try:
        found = maps([root / path for path in table["path"]], labels) if rows else []
    except MedclfError as error:
        return why_none(error)
    known = {"height", "width"} <= set(table)
    shapes = table[["height", "width"]].to_numpy(float) if known else np.zeros((len(rows), 2))
    pictures = {}
    for name, heat, (height, width) in zip(names, found, shapes, strict=True):
        shape = (int(height), int(width)) if height > 0 and width > 0 else how.size  # NaN where unknown
        pictures[name] = png_uri(coloured(on_original(heat, shape, how, _small(shape))))
    return pictures


def worst(predictions: Predictions, limit: int) -> list[int]:
    """The rows of the errors, then of the rest, each by falling loss; at most `limit`."""
    wrong = np.array([a != b for a, b in zip(predictions.labels, predictions.preds, strict=True)], bool)
    losses = np.nan_to_num(predictions.losses, nan=-1.0)
    known = np.isfinite(predictions.losses)
    return [int(row) for row in np.lexsort((-losses, ~(wrong & known)))][:limit]


def _small(shape: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the map for an image of this shape."""
    scale = _SIDE / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def why_none(error: MedclfError) -> dict[str, str]:
    """Say why there are no maps, here and in their place."""
    warnings.warn(f"the report does not show where the model looked: {error.message}", MedclfWarning, stacklevel=3)
    return {WHY_NONE: error.message}


def save_maps(folder: Path, pictures: Mapping[str, str]) -> None:
    """Write them into a RUN folder, for its report; no file where there are none."""
    if drawn := {name: uri for name, uri in pictures.items() if name != WHY_NONE}:
        write_json(folder / FILE, drawn)
    else:
        (folder / FILE).unlink(missing_ok=True)  # of an earlier run


def described(pictures: Mapping[str, str]) -> dict[str, Any]:
    """For `results.json`: how maps were made, of how many images, and why of none; {} where none were asked for."""
    n = sum(name != WHY_NONE and not name.startswith(ACTUAL) for name in pictures)
    note = {"note": f"Not shown: {pictures[WHY_NONE]}."} if WHY_NONE in pictures else {}
    return {"saliency": {"method": "Grad-CAM", "n_images": n} | note} if pictures else {}


def with_maps(rows: pd.DataFrame, pictures: Mapping[str, str]) -> pd.DataFrame:
    """The rows with the columns `saliency` and `saliency_actual`, where there are maps."""
    if not set(pictures) - {WHY_NONE}:
        return rows
    columns = {"saliency": "", "saliency_actual": ACTUAL}
    found = {name: [pictures.get(f"{prefix}{path}", "") for path in rows["path"]] for name, prefix in columns.items()}
    return rows.assign(**found)


def load_maps(folder: Path) -> dict[str, str]:
    """What `save_maps` wrote; empty where it wrote nothing.

    Raises:
        DataError: the file is no such JSON.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        pictures = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(uri) for name, uri in pictures.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is not a JSON object: {error}", "remove it, or train again") from error
