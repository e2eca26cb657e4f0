"""Label suspects: by hand, on planted mistakes, and against cleanlab."""

import numpy as np

from medclf.auditing.label_errors import label_suspects


def test_by_hand():
    # thresholds: class 0 (0.9 + 0.6 + 0.3) / 3 = 0.6, class 1 (0.7 + 0.9) / 2 = 0.8
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.3, 0.7], [0.1, 0.9], [0.2, 0.8]])
    suspect, margin = label_suspects([0, 0, 0, 1, 1, -1], probs)
    assert suspect.tolist() == [False] * 6  # the third is called 1 at 0.7, which does not reach 0.8
    assert np.allclose(margin[:5], [0.8, 0.2, -0.4, 0.4, 0.8]) and np.isnan(margin[5])
    probs[2] = [0.1, 0.9]
    assert label_suspects([0, 0, 0, 1, 1, -1], probs)[0].tolist() == [False, False, True, False, False, False]


def drawn(n=600, k=4, flipped=40, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), true] += 4
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    given = true.copy()
    given[:flipped] = (given[:flipped] + rng.integers(1, k, flipped)) % k
    return given, true, probs


def test_planted_mistakes_come_first():
    given, true, probs = drawn()
    suspect, margin = label_suspects(given, probs)
    planted = given != true
    assert suspect[planted].mean() > 0.7 and suspect[~planted].mean() < 0.05
    assert planted[np.argsort(margin)[:20]].all()


def test_a_class_that_is_never_sure_is_no_suspect():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], 100)
    probs = np.where(y == 0, 0.95, 0.6) + rng.normal(0, 0.02, 200)
    assert not label_suspects(y, np.stack([probs, 1 - probs], 1))[0][100:].any()


def test_several_labels_are_judged_one_by_one():
    given, true, probs = drawn(k=2)
    y = np.stack([given, true], 1)
    both = np.stack([probs[:, 1], probs[:, 1]], 1)
    suspect, margin = label_suspects(y, both, multi_label=True)
    first, second = (label_suspects(column, probs) for column in (given, true))
    assert np.array_equal(suspect, first[0] | second[0])
    assert np.allclose(margin, np.minimum(first[1], second[1]))


def test_agrees_with_cleanlab():
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_normalized_margin_for_each_label

    given, _, probs = drawn()
    suspect, margin = label_suspects(given, probs)
    # It takes the likeliest class of all where several thresholds are reached, the paper the likeliest of those.
    assert (suspect == find_label_issues(given, probs, filter_by="confident_learning")).mean() > 0.99
    assert np.allclose((margin + 1) / 2, get_normalized_margin_for_each_label(given, probs))
