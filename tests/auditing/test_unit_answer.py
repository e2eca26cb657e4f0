"""Which answer is chosen: the mean unless another is surely better, by drawn predictions."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest

from medclf.auditing.unit_answer import choose_answer
from medclf.errors import DataError
from medclf.metrics.units import Attention
from medclf.models.attention import fit_attention
from medclf.results.predictions import Predictions, losses_of

VOCAB = ["normal", "polyp"]


def _training(p: np.ndarray, y: np.ndarray, n_images: int, features: np.ndarray | None = None) -> Predictions:
    """Images of units in a row, `n_images` each; p is (n,) of the finding."""
    labels, probs = np.repeat(y, n_images), np.stack([1 - p, p], axis=1)
    units = np.repeat([f"u{k}" for k in range(len(y))], n_images)
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(len(p))], "unit_id": units})
    found = Predictions(VOCAB, False, labels, probs, losses_of(labels, probs, False), table)
    found.features = features
    return found


def test_the_mean_stays_where_all_images_say_the_same() -> None:
    rng, y = np.random.default_rng(0), np.arange(80) % 2
    p = np.repeat(np.clip(y * 0.3 + 0.35 + rng.normal(0, 0.2, 80), 0.05, 0.95), 4)
    found = choose_answer("patient", "auto", _training(p, y, 4), VOCAB)
    assert found.rule.answer == "mean"
    assert found.rule.finding == 1
    assert set(found.candidates) == {"mean", "max", "noisy-or"}


def test_one_image_that_tells_makes_it_max_or_noisy_or() -> None:
    rng, y = np.random.default_rng(0), np.arange(120) % 2
    p = rng.uniform(0.01, 0.3, 120 * 16)
    p[np.arange(0, 120 * 16, 16)[y == 1]] = 0.95
    found = choose_answer("patient", "auto", _training(p, y, 16), VOCAB)
    assert found.rule.answer in ("max", "noisy-or")
    assert found.candidates["max"]["auroc"] == 1
    assert "was chosen" in found.sentence


def test_attention_is_judged_on_units_that_it_was_not_fitted_on() -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    features = rng.normal(size=(240, 30)).astype(np.float32)  # nothing to learn, and enough axes to learn it by heart
    fit = lambda *given, **how: Attention(**fit_attention(*given, **how))  # noqa: E731
    training = _training(rng.uniform(0.4, 0.6, 240), y, 4, features)
    found = choose_answer("patient", "attention", training, VOCAB, fit=partial(fit, n_labels=2))
    assert 0.3 < found.candidates["attention"]["auroc"] < 0.7
    assert found.rule.attention is not None


def test_a_unit_without_a_label_is_answered_by_the_attention_of_the_others() -> None:
    rng, y = np.random.default_rng(0), np.arange(60) % 2
    features = (rng.normal(size=(240, 6)) + 3 * np.repeat(y, 4)[:, None]).astype(np.float32)
    fit = lambda *given, **how: Attention(**fit_attention(*given, **how))  # noqa: E731
    training = _training(rng.uniform(0.4, 0.6, 240), y, 4, features)
    training.y[:4] = -1
    found = choose_answer("patient", "attention", training, VOCAB, fit=partial(fit, n_labels=2)).out_of_fold
    assert found is not None
    assert found.units.y[0] == -1
    assert found.units.probs[0, 0] > 0.8


def test_few_units_choose_nothing() -> None:
    y = np.arange(8) % 2
    found = choose_answer("patient", "auto", _training(np.full(16, 0.5), y, 2), VOCAB)
    assert (found.rule.answer, found.candidates) == ("mean", {})
    assert "there are only 8" in found.sentence
    assert choose_answer("patient", "max", None, VOCAB).rule.answer == "max"


def test_attention_without_features_is_refused() -> None:
    with pytest.raises(DataError, match="frozen encoder"):
        choose_answer("patient", "attention", _training(np.full(80, 0.5), np.arange(40) % 2, 2), VOCAB)
