"""LEARNER -> maps of where it looked, for a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medclf.errors import PreprocessingError
from medclf.images.heatmap import on_prepared
from medclf.learn.preprocessing import preprocessing_of
from medclf.models.saliency import learner_maps
from medclf.results.maps import LIMIT, map_pictures, why_none
from medclf.results.predictions import Predictions


def of_learner(learn: Any, predictions: Predictions, limit: int = LIMIT) -> dict[str, str]:
    """As `map_pictures`, from a learner; none, either, where it is not known what its loaders show."""
    try:
        how = preprocessing_of(learn.dls)
    except PreprocessingError as error:
        return why_none(error)

    def maps(files: Sequence[Path], labels: Sequence[str]) -> list[np.ndarray]:
        return [on_prepared(heat, how) for heat in learner_maps(learn, files, labels)]

    return map_pictures(predictions, Path(learn.dls.path), maps, how, limit)
