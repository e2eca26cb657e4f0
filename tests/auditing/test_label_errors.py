"""Label suspects: by hand, on planted mistakes, and against cleanlab."""

import numpy as np
import pandas as pd

from medclf.auditing.label_errors import check_labels, doubtful_labels, judge_labels, label_suspects
from medclf.results.predictions import Predictions


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


def test_no_label_is_doubtful_that_is_the_most_probable():
    # thresholds: class 0 (0.9 + 0.9 + 0.55) / 3 = 0.78, class 1 0.4; the third reaches that of class 1 alone
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.55, 0.45], [0.6, 0.4]])
    assert not label_suspects([0, 0, 0, 1], probs)[0][2]
    rng = np.random.default_rng(3)
    y = (rng.random(400) < 0.06).astype(int)  # one class is rare, and hardly known
    p = np.clip(0.1 + 0.1 * y + 0.2 * rng.normal(size=400), 0.01, 0.99)
    assert all(one.suggested != (y[one.row],) for one in doubtful_labels(y, np.stack([1 - p, p], 1)))


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


def features_of(true, seed=0, spread=3.0):
    """Features in which the classes are clouds."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(true), 24)) + spread * np.eye(24)[true]


def test_wrong_labels_do_not_teach_their_judge():
    given, true, _ = drawn(n=250, flipped=12, seed=3)
    probs = judge_labels(features_of(true), given, 4)
    assert np.allclose(probs.sum(1), 1)
    found = doubtful_labels(given, probs, share=0.95)
    assert len({one.row for one in found[:20]} & set(range(12))) >= 9
    assert found[0].suggested == (true[found[0].row],)
    assert len(doubtful_labels(true, judge_labels(features_of(true), true, 4), share=0.95)) <= 3


def test_images_of_one_group_do_not_vouch_for_each_other():
    true = np.repeat(np.arange(3), 20)
    x = np.repeat(features_of(true[::2]), 2, axis=0)  # each image twice
    given = true.copy()
    given[:2] = 2
    groups = np.repeat(np.arange(30), 2)
    assert {one.row for one in doubtful_labels(given, judge_labels(x, given, 3, groups))} >= {0, 1}


def test_of_near_duplicates_with_different_labels_the_less_believed_comes_first():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05]])
    first, *_ = doubtful_labels([0, 1, 1, 0], probs, conflicts=[(0, 1)])
    assert (first.row, first.suggested, first.conflict) == (1, (0,), 0)


def test_each_judge_is_judged_by_its_own_thresholds():
    y = np.array([0, 0, 0, 1, 1, 1] * 2)
    sure, unsure = np.array([0.9] * 5 + [0.1]), np.array([0.6] * 5 + [0.4])
    own = np.concatenate([sure, unsure])
    probs = np.where(np.arange(2) == y[:, None], own[:, None], 1 - own[:, None])
    assert [one.row for one in doubtful_labels(y, probs, judges=[0] * 6 + [1] * 6)] == [5, 11]
    assert [one.row for one in doubtful_labels(y, probs)] == [5]


def test_what_could_not_be_judged_is_counted():
    vocab, y = ["a", "b"], np.array([0, 1, 1])
    table = pd.DataFrame({"path": ["1", "2", "3", "4", "5"], "label": ["a", "b", "b", "a", None], "problem": ""})
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.97, 0.03]])
    found = check_labels(Predictions(vocab, False, y, probs, np.zeros(3), table.iloc[:3]), None, table, None)
    assert found.doubtful[["path", "label", "suggested"]].to_numpy().tolist() == [["3", "b", "a"]]
    assert (found.section["n_judged"], found.section["n_doubtful"], found.section["n_unjudged"]) == (3, 1, 1)
    assert "1 labelled image was not judged" in found.section["sentence"]


def test_of_several_labels_only_those_that_the_model_tells_are_judged() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((300, 2)) < 0.2).astype(int)
    probs = np.stack([np.where(y[:, 0] == 1, 0.9, 0.1), 0.2 + rng.normal(0, 0.02, 300)], axis=1)
    y[[3, 4], 0], probs[[3, 4], 0] = 1, 0.05
    suspect, margin = label_suspects(y, probs, multi_label=True)
    assert np.flatnonzero(suspect).tolist() == [3, 4]
    assert [one.row for one in doubtful_labels(y, probs, multi_label=True)] == [3, 4]
    assert np.isclose(margin[3], -0.9) and np.isfinite(margin).all()
    assert not label_suspects(y[:, 1:], probs[:, 1:], multi_label=True)[0].any()


def test_a_judge_that_tells_nothing_or_little_says_so() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"path": [f"{k}.png" for k in range(40)], "label": "a", "problem": ""})
    y, flat = (rng.random((40, 2)) < 0.3).astype(int), np.full((40, 2), 0.3)
    found = check_labels(Predictions(["a", "b"], True, y, flat, np.zeros(40), table), None, table, None).section
    assert found["sentence"].startswith("No label could be judged") and "doubtful" not in found["sentence"]
    assert found["labels_not_judged"] == ["a", "b"]
    assert (found["n_judged"], found["n_unjudged"]) == (0, 40)
    one, sure = y[:, 0], np.where(rng.random(40) < 0.6, 0.9, 0.1)
    probs = np.where(one[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None])
    found = check_labels(Predictions(["a", "b"], False, one, probs, np.zeros(40), table), None, table, None).section
    assert found["judge_agrees"] == (sure == 0.9).mean() < 0.8
    assert f"agrees with {100 * found['judge_agrees']:.0f} % of all labels" in found["sentence"]
