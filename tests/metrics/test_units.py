"""Answers by unit: hand-worked aggregations, attention against its formula, and back from JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from medclf.errors import DataError
from medclf.metrics.units import Attention, UnitRule, mean_by, most_certain, noisy_or, softmax_by

PROBS = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
UNIT = np.array([0, 0, 1, 0])


def test_the_mean_is_that_of_each_unit() -> None:
    assert mean_by(PROBS, UNIT, 2) == pytest.approx(np.array([[0.5, 0.5], [0.7, 0.3]]))


def test_noisy_or_is_one_less_the_product_of_the_misses() -> None:
    found = UnitRule("patient", "noisy-or", finding=1).probs(PROBS, None, UNIT, 2)
    assert found[:, 1] == pytest.approx([1 - 0.9 * 0.2 * 0.4, 0.3])
    assert found.sum(axis=1) == pytest.approx([1, 1])


def test_noisy_or_of_thousands_of_images_stays_finite() -> None:
    assert np.isfinite(noisy_or(np.full((5000, 1), 1.0), np.zeros(5000, int), 1)).all()


def test_max_takes_the_image_most_certain_of_the_finding_or_of_its_own_label() -> None:
    assert UnitRule("patient", "max", finding=1).probs(PROBS, None, UNIT, 2)[0] == pytest.approx([0.2, 0.8])
    three = np.array([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    assert UnitRule("patient", "max").probs(three, None, np.array([0, 0]), 1)[0] == pytest.approx(three[1])


def test_of_several_labels_each_has_its_own_most_certain_image() -> None:
    rule = UnitRule("study", "max", multi_label=True)
    assert rule.probs(PROBS, None, UNIT, 2) == pytest.approx(np.array([[0.9, 0.8], [0.7, 0.3]]))


@pytest.mark.parametrize("answer", ["mean", "noisy-or", "max"])
def test_the_order_of_images_does_not_matter_and_one_image_keeps_its_answer(answer: str) -> None:
    rule = UnitRule("series", answer, finding=0)  # type: ignore[arg-type]
    order = np.array([3, 2, 1, 0])
    assert rule.probs(PROBS[order], None, UNIT[order], 2) == pytest.approx(rule.probs(PROBS, None, UNIT, 2))
    assert rule.probs(PROBS, None, np.arange(4), 4) == pytest.approx(PROBS)


def test_noisy_or_is_refused_where_there_is_no_finding() -> None:
    with pytest.raises(DataError, match="more than two labels"):
        UnitRule("patient", "noisy-or")


def _attention(rng: np.random.Generator, f: int = 5, k: int = 3, n: int = 2) -> Attention:
    return Attention(*(rng.normal(size=shape) for shape in ((f,), (k, f), (n, k + 1), (1,))))


def test_attention_is_the_formula_of_its_source() -> None:
    rng = np.random.default_rng(0)
    one, x, index = _attention(rng), rng.normal(size=(3, 5)), np.zeros(3, int)
    scores = np.array([one.out[:, :-1] @ (one.axes @ (row - one.mean)) + one.out[:, -1] for row in x])
    weights = np.exp(one.r * scores) / np.exp(one.r * scores).sum(axis=0)
    assert one.weights(x, index, 1) == pytest.approx(weights)
    assert one.logits(x, index, 1)[0] == pytest.approx((weights * scores).sum(axis=0))


def test_attention_lies_between_the_mean_and_the_greatest_score() -> None:
    rng = np.random.default_rng(0)
    one, x, index = _attention(rng), rng.normal(size=(3, 5)), np.zeros(3, int)
    scores = one.logits(x, np.arange(3), 3)
    assert replace(one, r=np.zeros(1)).logits(x, index, 1)[0] == pytest.approx(scores.mean(axis=0))
    assert replace(one, r=np.array([1e4])).logits(x, index, 1)[0] == pytest.approx(scores.max(axis=0))


def test_a_rule_comes_back_from_json() -> None:
    rng = np.random.default_rng(1)
    rule, x = UnitRule("patient", "attention", attention=_attention(rng)), rng.normal(size=(4, 5))
    again = UnitRule.from_dict(json.loads(json.dumps(rule.as_dict())), multi_label=False)
    assert again.probs(PROBS, x, UNIT, 2) == pytest.approx(rule.probs(PROBS, x, UNIT, 2), abs=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"by": "patient", "answer": "median"},
        {"by": "patient", "answer": "attention"},
        {"by": 3, "answer": "mean"},
        {"by": "patient", "answer": "mean", "finding": 7},
        {"answer": "mean"},
    ],
)
def test_a_rule_of_another_form_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        UnitRule.from_dict(wrong, multi_label=False)


def test_attention_whose_arrays_do_not_fit_is_refused() -> None:
    values = _attention(np.random.default_rng(0)).as_dict()
    values["r"] = values["mean"]
    with pytest.raises(ValueError, match="attention"):
        Attention.from_dict(values)


def test_softmax_and_the_most_certain_are_by_unit() -> None:
    values = np.array([1.0, 5.0, 2.0, 5.0])
    assert softmax_by(values, UNIT, 2)[2] == 1.0
    assert most_certain(values, UNIT, 2).tolist() == [1, 2]
