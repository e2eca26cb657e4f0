"""Probabilities at another prevalence, against Bayes' rule by hand and populations that are drawn at both."""

import json

import numpy as np
import pytest

from medclf.metrics.prevalence import PrevalenceShift, shift_in

VOCAB = ["normal", "polyp", "ulcer"]


def test_by_hand():
    """Odds of 9 at one half are odds of 9 x 2 / 98 at 2 %; the other two labels keep their proportion of 2 to 1."""
    shift = PrevalenceShift("polyp", 0.5, 0.02)
    (found,) = shift.apply([[0.2 / 3, 0.9, 0.1 / 3]], VOCAB, False)
    odds = 9 * 0.02 / 0.98
    assert found[1] == pytest.approx(odds / (1 + odds)) and found.sum() == pytest.approx(1)
    assert found[0] / found[2] == pytest.approx(2)
    (several,) = shift.apply([[0.7, 0.9, 0.4]], VOCAB, True)  # of several, the others stay as they are
    assert several.tolist() == pytest.approx([0.7, odds / (1 + odds), 0.4])


@pytest.mark.parametrize("multi_label", [False, True])
def test_undone_it_is_as_before(multi_label):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), 50)
    shift = PrevalenceShift("ulcer", 0.31, 0.004)
    back = shift.undo(shift.apply(probs, VOCAB, multi_label), VOCAB, multi_label)
    assert back == pytest.approx(probs, abs=1e-9)


def test_true_probabilities_are_true_where_the_share_is_another():
    """Two normal densities: the truth at 10 % is what the shift makes of the truth at 60 %."""
    x = np.linspace(-3, 4, 40)
    of_label, of_others = np.exp(-((x - 1) ** 2) / 2), np.exp(-(x**2) / 2)

    def at(share):
        p = share * of_label / (share * of_label + (1 - share) * of_others)
        return np.stack([1 - p, p], 1)

    assert PrevalenceShift("polyp", 0.6, 0.1).apply(at(0.6), ["normal", "polyp"], False) == pytest.approx(at(0.1))


def test_weighted_images_have_the_prevalence():
    y = np.array([0] * 70 + [1] * 20 + [2] * 10 + [-1] * 5)
    shift = PrevalenceShift("polyp", 0.2, 0.05)
    weights = shift.weights(y, VOCAB, False)
    assert weights[y == 1].sum() / weights[y >= 0].sum() == pytest.approx(0.05)
    assert weights[y >= 0].sum() == pytest.approx(100) and (weights[y < 0] == 1).all()
    several = np.stack([y == 0, y == 1, y == 2], 1).astype(int)
    assert shift.weights(several, VOCAB, True)[:100] == pytest.approx(weights[:100])


def test_shares_of_the_others_keep_their_proportion():
    shift = PrevalenceShift("polyp", 0.2, 0.6)
    assert shift.shares([0.7, 0.2, 0.1], VOCAB, False) == pytest.approx([0.35, 0.6, 0.05])
    assert shift.shares([0.7, 0.2, 0.1], VOCAB, True) == pytest.approx([0.7, 0.6, 0.1])


def test_it_goes_through_json():
    shift = PrevalenceShift("polyp", 0.25, 0.02)
    assert shift_in({**json.loads(json.dumps(shift.as_dict())), "sentence": "told"}) == shift
    assert shift_in({}) is None and shift_in(None) is None
    assert str(shift) == "2 % of polyp"
