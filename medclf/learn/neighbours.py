"""The training images that look most alike to the network: each image's nearest ones by its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from fastai.torch_core import get_model

from medclf.auditing.near_duplicates.candidates import search
from medclf.learn.features import image_features
from medclf.learn.prediction import paths_of, rows_of
from medclf.models.stage_maps import of_last_stage

COLUMNS = ("path", "rank", "neighbour", "similarity")


def nearest(queries: np.ndarray, stored: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The stored vectors most similar to each query, by the cosine of what differs from the stored mean.

    Args:
        queries: (n, f).
        stored: (m, f); above 1,000 of them an index is searched that may miss a few.
        k: how many.

    Returns:
        (n, k) rows of `stored`, the most similar first, -1 where there are fewer than k; (n, k) cosines.

    Example:
        >>> rows, similarity = nearest(np.array([[3.0, 1.0]]), np.array([[2.0, 1.0], [-2.0, -1.0], [0.0, 0.0]]), 1)
        >>> rows.tolist()
        [[0]]
    """
    if not len(stored) or not len(queries):
        return np.full((len(queries), k), -1), np.zeros((len(queries), k))
    centre = stored.mean(0)
    found, distance = search((stored - centre).astype(np.float32), (queries - centre).astype(np.float32), k)
    short = k - found.shape[1]
    found = np.pad(found, ((0, 0), (0, short)), constant_values=-1)
    return found, np.pad(1 - distance, ((0, 0), (0, short)))


def similar_training_images(
    learn: Any, paths: Any, k: int = 5, *, known: dict[str, np.ndarray] | None = None, progress: bool = True
) -> pd.DataFrame:
    """The training images nearest to each image in the features that the network's head sees.

    Args:
        learn: a `MedLearner`.
        paths: (n,) images, relative to `learn.dls.path`, as in the predictions.
        k: neighbours of each; an image is none of its own.
        known: features by path, where they are at hand.
        progress: show a progress bar when it lasts.

    Returns:
        path, rank (1 is the most similar), neighbour (its path) and similarity (cosine, in [-1, 1]).
    """
    known = dict(known) if known else _features(learn, progress)
    problems = getattr(learn.dls, "problems", None)
    wanted = list(dict.fromkeys(map(str, paths)))
    unseen = [path for path in wanted if path not in known]
    if unseen:
        noted = {} if problems is None else {"problems": problems}
        loader = learn.dls.test_dl([Path(learn.dls.path) / path for path in unseen], with_labels=False, **noted)
        known |= _by_path(learn, loader, False, progress)
    broken = {str(path) for path in problems or ()}
    train = [path for path in _names(learn, learn.dls.train) if str(Path(learn.dls.path) / path) not in broken]
    rows, similarity = nearest(_stack(known, wanted), _stack(known, train), k + 1)  # one more: it may find itself
    found = []
    for path, near, cosines in zip(wanted, rows, similarity, strict=True):
        others = [(train[row], cosine) for row, cosine in zip(near, cosines, strict=True) if row >= 0]
        others = [(name, cosine) for name, cosine in others if name != path][:k]
        found += [(path, rank, name, round(float(cosine), 4)) for rank, (name, cosine) in enumerate(others, 1)]
    return pd.DataFrame(found, columns=list(COLUMNS))


def _features(learn: Any, progress: bool) -> dict[str, np.ndarray]:
    """Features of the training and validation images; of an untouched body they are kept beside the image store."""
    frozen = not getattr(learn, "history", True)
    found: dict[str, np.ndarray] = {}
    for loader in (learn.dls.train, learn.dls.valid):
        if not set(_names(learn, loader)) <= found.keys():
            found |= _by_path(learn, loader, frozen, progress)
    return found


def _by_path(learn: Any, loader: Any, frozen: bool, progress: bool) -> dict[str, np.ndarray]:
    features, _ = image_features(learn.model, loader, keep=frozen, progress=progress)
    features = of_last_stage(get_model(learn.model)[0], features)
    return dict(zip(_names(learn, loader), features, strict=True))


def _names(learn: Any, loader: Any) -> list[str]:
    return [str(path) for path in rows_of(learn.dls, paths_of(loader))["path"]]


def _stack(known: dict[str, np.ndarray], paths: list[str]) -> np.ndarray:
    return np.stack([known[path] for path in paths]) if paths else np.zeros((0, 1), np.float32)
