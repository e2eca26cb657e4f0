"""How many labels a mean is of: what is left out of it is not told as if it counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from medclf.metrics.intervals import as_plain
from medclf.reporting.formatting import scores
from medclf.results.predictions import Predictions
from medclf.results.results import leak_free, metrics_of
from medclf.results.wording import beside_guessing, of_validation, summary, summary_without_leaks

VOCAB = ["effusion", "hernia", "mass", "nodule"]


@pytest.fixture
def facts() -> dict[str, Any]:
    """Sixteen images: none has a hernia, and a nodule only such as leak."""
    draw = np.random.default_rng(0)
    y = np.zeros((16, 4), int)
    y[::2, 0], y[::3, 2], y[:3, 3] = 1, 1, 1
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(16)], "partition": "valid"})
    shown = Predictions(VOCAB, True, y, draw.random((16, 4)), np.zeros(16), table)
    results = {"task": "multi-label", "partition": "valid", "vocab": VOCAB, **as_plain(metrics_of(shown, n_boot=50))}
    return results | {"leak_free": leak_free(shown, (np.arange(16) < 4, np.zeros(16, bool)), results)}


def test_a_mean_over_labels_says_how_many_it_is_of(facts: dict[str, Any]) -> None:
    assert summary(facts).startswith("Mean AUROC of 3 of 4 labels on 16 validation images")
    clean, everything = scores(facts)
    assert clean["images"] == "12 validation images, 2 of 4 labels"
    assert everything["images"] == "16 validation images, 3 of 4 labels"


def test_the_sentence_to_believe_is_about_the_images_that_do_not_leak(facts: dict[str, Any]) -> None:
    told, clean = summary_without_leaks(facts), scores(facts)[0]
    assert told.startswith("Without leaked images, mean AUROC of 2 of 4 labels on 12 validation images: ")
    assert clean["value"] in told and clean["interval"] in told
    assert summary_without_leaks(facts | {"leak_free": None}) == summary(facts)


def test_labels_that_all_count_are_not_counted_out(facts: dict[str, Any]) -> None:
    for row in facts["per_class"].values():
        row["auroc"]["value"] = row["auroc"]["value"] or 0.5
    assert "Mean AUROC of 4 labels on 16" in summary(facts) and scores(facts)[1]["images"] == "16 validation images"


def test_what_always_saying_the_more_frequent_is_right_in_is_called_answers_where_an_image_has_several(
    facts: dict[str, Any],
) -> None:
    told = beside_guessing(facts | {"baseline": {"label": None, "accuracy": 0.5}})
    assert "right in 50.0 % of the answers" in told and "images" not in told


def test_scores_are_called_optimistic_where_the_images_had_a_part_in_the_training() -> None:
    tuned = {"partition": "valid", "training": {"linear_probe": {"seconds": 1}, "history": [{"epoch": 1}]}}
    probe = {"partition": "valid", "training": {"linear_probe": {"seconds": 1}, "history": []}}
    assert of_validation(tuned).startswith("The validation set was used during training")
    for held_out in (probe, {**tuned, "folds": [{"n": 3}]}):
        assert of_validation(held_out).startswith("Each image was scored by a model not fitted on it.")
    assert of_validation({**probe, "partition": "test"}) == ""
