"""Attention over drawn features: it finds the one image of 16 that tells, and nothing of it is drawn by chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medclf.metrics.units import Attention, mean_by
from medclf.models.attention import fit_attention


def _bags(seed: int, n_units: int = 120, n_images: int = 16, f: int = 12) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of noise; in every other unit one image lies 4 deviations off along the first axis."""
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(n_units), n_images)
    x, y = rng.normal(size=(len(unit), f)), np.arange(n_units) % 2
    for one in np.flatnonzero(y):
        x[one * n_images + rng.integers(n_images), 0] += 4
    return x.astype(np.float32), unit, y


def test_one_image_of_sixteen_decides_where_the_mean_hardly_knows() -> None:
    x, unit, y = _bags(0)
    found = Attention(**fit_attention(x, unit, y, n_labels=2, finding=1))
    x, unit, y = _bags(1)
    logits = found.logits(x, unit, len(y))
    assert (logits[:, 0] == 0).all()
    assert roc_auc_score(y, logits[:, 1]) > 0.95
    assert roc_auc_score(y, mean_by(x, unit, len(y))[:, 0]) < 0.85
    weights = found.weights(x, unit, len(y))[:, 1].reshape(len(y), -1)
    heaviest = (np.arange(len(y)) * weights.shape[1] + weights.argmax(axis=1))[y == 1]
    assert np.mean(x[heaviest, 0] > 2) > 0.9


def test_the_same_features_give_the_same_attention() -> None:
    first, second = (fit_attention(*_bags(0, 30), n_labels=2, finding=1) for _ in range(2))
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("multi_label", [False, True])
def test_three_labels_are_learned_too(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    unit, classes = np.repeat(np.arange(90), 4), np.arange(90) % 3
    x = rng.normal(size=(360, 8)).astype(np.float32)
    x[np.arange(0, 360, 4), classes] += 6
    y = np.eye(3, dtype=int)[classes] if multi_label else classes
    if multi_label:
        y[:5, 0] = -1  # unknown
    found = Attention(**fit_attention(x, unit, y, n_labels=3, multi_label=multi_label))
    assert np.mean(found.logits(x, unit, 90).argmax(axis=1) == classes) > 0.9


def test_fewer_images_than_features_give_the_axes_of_all() -> None:
    x, unit, y = _bags(0, n_units=4, n_images=3, f=40)
    found = fit_attention(x, unit, y, n_labels=2, finding=1)
    projected = (x - found["mean"]) @ found["axes"].T
    assert found["axes"].shape[1] == 40
    assert projected[:, :5].std(axis=0, ddof=1) == pytest.approx(np.ones(5), rel=1e-3)
