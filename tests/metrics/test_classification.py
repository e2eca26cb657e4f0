import json
import math
import warnings
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from medclf.errors import DataError
from medclf.metrics.classification import classification_metrics
from medclf.metrics.intervals import as_plain
from medclf.metrics.table import class_metrics, overall_metrics, statistics
from medclf.metrics.weighted import Ranking, bin_gaps, read_task

FAST = {"n_boot": 50}
OVERALL = [metric.key for metric in overall_metrics() if not (metric.multi_label_only or metric.ordinal_only)]
PER_CLASS = [metric.key for metric in class_metrics()]


def softmax(logits):
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def drawn(n, n_labels, seed, decimals=None):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(n_labels), rng.integers(0, n_labels, n - n_labels)])
    probs = softmax(rng.normal(size=(n, n_labels)) + 1.5 * np.eye(n_labels)[y])
    if decimals is not None:  # ties
        probs = rng.multinomial(10**decimals, probs) / 10**decimals
    return y, probs, [f"label{i}" for i in range(n_labels)]


def drawn_multi(n, n_labels, seed, decimals=2):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_labels)) < 0.3).astype(int)
    y[0], y[1] = 0, 1
    return y, np.round(np.clip(0.3 * y + 0.7 * rng.random((n, n_labels)), 0, 1), decimals), list("abcdefg")[:n_labels]


@pytest.mark.parametrize(("n", "n_labels", "decimals"), [(60, 2, None), (80, 3, 1), (200, 5, None), (200, 5, 1)])
def test_single_label_agrees_with_scikit_learn(n, n_labels, decimals):
    y, probs, vocab = drawn(n, n_labels, seed=n + n_labels, decimals=decimals)
    pred, marks = probs.argmax(axis=1), np.eye(n_labels)[y]
    result = classification_metrics(y, probs, vocab, **FAST)
    expected = {
        "accuracy": oracle.accuracy_score(y, pred),
        "balanced_accuracy": oracle.balanced_accuracy_score(y, pred),
        "f1": oracle.f1_score(y, pred, average="macro"),
        "mcc": oracle.matthews_corrcoef(y, pred),
        "auprc": oracle.average_precision_score(marks, probs, average="macro"),
        "auroc": np.mean([oracle.roc_auc_score(marks[:, k], probs[:, k]) for k in range(n_labels)]),
        "brier": ((probs - marks) ** 2).sum(axis=1).mean() / (2 if n_labels == 2 else 1),
    }
    assert {name: result[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    assert result["confusion_matrix"] == oracle.confusion_matrix(y, pred).tolist()
    for k, label in enumerate(vocab):
        found = result["per_class"][label]
        tn, fp, fn, tp = oracle.confusion_matrix(y == k, pred == k).ravel()
        assert found["n"] == (y == k).sum()
        assert [found[name].n for name in ("sensitivity", "specificity", "ppv", "npv")] == [
            tp + fn,
            tn + fp,
            tp + fp,
            tn + fn,
        ]
        values = [found[key].value for key in ("sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "auprc")]
        assert values == pytest.approx(
            [
                tp / (tp + fn),
                tn / (tn + fp),
                tp / (tp + fp),
                tn / (tn + fn),
                oracle.f1_score(y == k, pred == k),
                oracle.roc_auc_score(y == k, probs[:, k]),
                oracle.average_precision_score(y == k, probs[:, k]),
            ],
            abs=1e-12,
        )


def test_brier_is_scaled_as_in_scikit_learn():
    for n_labels in (2, 4):
        y, probs, vocab = drawn(50, n_labels, seed=1)
        wanted = oracle.brier_score_loss(y, probs[:, 1] if n_labels == 2 else probs)
        assert classification_metrics(y, probs, vocab, **FAST)["brier"].value == pytest.approx(wanted)


def test_multi_label_agrees_with_scikit_learn():
    y, probs, vocab = drawn_multi(150, 4, seed=3)
    pred = (probs >= 0.5).astype(int)
    result = classification_metrics(y, probs, vocab, multi_label=True, **FAST)
    columns = range(4)
    expected = {
        "accuracy": 1 - oracle.hamming_loss(y, pred),
        "exact_match": oracle.accuracy_score(y, pred),
        "balanced_accuracy": np.mean([oracle.balanced_accuracy_score(y[:, k], pred[:, k]) for k in columns]),
        "auroc": oracle.roc_auc_score(y, probs, average="macro"),
        "auprc": oracle.average_precision_score(y, probs, average="macro"),
        "f1": oracle.f1_score(y, pred, average="macro"),
        "mcc": np.mean([oracle.matthews_corrcoef(y[:, k], pred[:, k]) for k in columns]),
        "brier": np.mean([oracle.brier_score_loss(y[:, k], probs[:, k]) for k in columns]),
    }
    assert {name: result[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    wanted = oracle.multilabel_confusion_matrix(y, pred)
    assert result["confusion_matrix"] == {label: wanted[k].tolist() for k, label in enumerate(vocab)}


def test_thresholds_decide_what_is_called():
    y, probs, vocab = drawn_multi(100, 3, seed=5)
    cuts = [0.2, 0.5, 0.8]
    result = classification_metrics(y, probs, vocab, multi_label=True, thresholds=cuts, **FAST)
    for k, label in enumerate(vocab):
        wanted = oracle.recall_score(y[:, k], probs[:, k] >= cuts[k])
        assert result["per_class"][label]["sensitivity"].value == pytest.approx(wanted)


def test_a_table_worked_by_hand():
    # 40 with the label: 30 found. 60 without: 6 called. Kappa-free textbook 2x2.
    y = np.repeat([1, 0], [40, 60])
    called = np.concatenate([np.repeat([1, 0], [30, 10]), np.repeat([1, 0], [6, 54])])
    result = classification_metrics(y, np.eye(2)[called], ["no", "yes"], **FAST)
    assert result["confusion_matrix"] == [[54, 6], [10, 30]]
    yes = result["per_class"]["yes"]
    assert [yes[name].value for name in ("sensitivity", "specificity", "ppv", "npv")] == pytest.approx(
        [0.75, 0.9, 30 / 36, 54 / 64]
    )
    assert result["mcc"].value == pytest.approx((30 * 54 - 6 * 10) / math.sqrt(36 * 40 * 60 * 64))
    # Wilson by hand for 30 of 40: centre (0.75 + z2/80) / (1 + z2/40), z = 1.959964
    assert (yes["sensitivity"].low, yes["sensitivity"].high) == pytest.approx((0.5981, 0.8581), abs=5e-5)


def test_ece_worked_by_hand():
    # Bins of 1/15: 0.9, 0.9 (one right) lie in one, 0.62 (right) in another: (|1.8 - 1| + |0.62 - 1|) / 3
    probs = [[0.9, 0.1], [0.9, 0.1], [0.38, 0.62]]
    assert classification_metrics([0, 1, 1], probs, ["a", "b"], **FAST)["ece"].value == pytest.approx((0.8 + 0.38) / 3)


def test_bin_gaps_weigh_images():
    confidence, right = np.array([0.1, 0.2, 0.9]), np.array([False, True, True])
    gaps = bin_gaps(np.array([[1.0, 1.0, 2.0]]), confidence, right, np.array([0, 0.5, 1.0]))
    assert gaps[0] == pytest.approx([(0.3 - 1) / 4, 2 * (0.9 - 1) / 4])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(6, 30), st.booleans())
def test_weights_are_repeated_images(seed, n_labels, n, multi_label):
    """The heart of the bootstrap: an image of weight 3 counts as three images."""
    y, probs, vocab = (drawn_multi if multi_label else drawn)(n, n_labels, seed, 1)
    weights = np.random.default_rng(seed).integers(0, 4, n)
    weights[0] = max(weights[0], 1)
    known = np.ones_like(y)
    if multi_label:
        known = np.random.default_rng(seed + 1).random(y.shape) < 0.8
        known[0], known[:, 0] = True, True
    y = np.where(known, y, -1)
    weighted = statistics(read_task(y, probs, vocab, None, multi_label), weights[None].astype(float))
    repeated = read_task(np.repeat(y, weights, axis=0), np.repeat(probs, weights, axis=0), vocab, None, multi_label)
    plain = statistics(repeated, np.ones((1, repeated.n)))
    for name, value in plain.items():
        assert weighted[name][0] == pytest.approx(value[0], abs=1e-9, nan_ok=True), name


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_ranking_agrees_with_scikit_learn_for_any_ties(data):
    n = data.draw(st.integers(2, 25))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    scores = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), min_size=n, max_size=n)))
    with mock.patch("medclf.metrics.weighted._FEW_PLACES", data.draw(st.sampled_from([0, 32]))):  # by sums, or products
        auroc, auprc = (float(area[0]) for area in Ranking.of(positive, scores).areas(np.ones((1, n))))
    if positive.all() or not positive.any():
        assert math.isnan(auroc) and math.isnan(auprc)
    else:
        assert auroc == pytest.approx(oracle.roc_auc_score(positive, scores))
        assert auprc == pytest.approx(oracle.average_precision_score(positive, scores))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 4), st.integers(1, 6), st.floats(0.0, 8.0))
def test_every_interval_holds_its_value(seed, n, n_labels, images_a_patient, skill):
    """Whatever the set, down to one image or a perfect model: nothing raises, and low <= value <= high."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_labels, n)
    probs = softmax(rng.normal(size=(n, n_labels)) + skill * np.eye(n_labels)[y])
    groups = None if images_a_patient == 1 else np.arange(n) // images_a_patient
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = classification_metrics(y, probs, list("abcd")[:n_labels], groups=groups, n_boot=20)
    spans = {"mcc": (-1, 1), "brier": (0, 2)}
    estimates = {name: result[name] for name in OVERALL}
    for label, row in result["per_class"].items():
        estimates |= {f"{label}/{name}": row[name] for name in PER_CLASS}
    for name, estimate in estimates.items():
        if math.isnan(estimate.value):
            assert estimate.note and math.isnan(estimate.low), name
        elif math.isnan(estimate.low):
            assert "no interval" in estimate.note and groups is not None, name
        else:
            least, most = spans.get(name, (0, 1))
            assert least <= estimate.low <= estimate.value <= estimate.high <= most, name
            assert estimate.high > estimate.low, name
    json.dumps(as_plain(result), allow_nan=False)


def test_ten_of_ten_is_72_to_100_percent():
    result = classification_metrics([0] * 5 + [1] * 5, np.eye(2)[[0] * 5 + [1] * 5], ["a", "b"])
    assert (result["accuracy"].low, result["accuracy"].high) == (pytest.approx(0.7225, abs=1e-4), 1.0)
    assert result["per_class"]["a"]["sensitivity"].low == pytest.approx(0.5655, abs=1e-4)  # Wilson, 5 of 5


def test_a_perfect_auroc_has_an_interval_that_narrows_with_n():
    lows = []
    for n in (5, 20, 100, 1000):
        y = np.repeat([0, 1], n)
        lows.append(classification_metrics(y, np.eye(2)[y], ["a", "b"], n_boot=50)["auroc"].low)
    assert lows == sorted(lows) and lows[0] < 0.75 and 0.99 < lows[-1] < 1


def test_a_perfect_auroc_on_five_images_with_the_label_proves_little():
    """However many are without it: a tenth of those with it could rank last and five would not show it."""
    y = np.repeat([0, 1], [995, 5])
    result = classification_metrics(y, np.eye(2)[y], ["a", "b"], n_boot=50)
    assert 0.65 < result["auroc"].low < 0.9 and 0.65 < result["per_class"]["b"]["auroc"].low < 0.9
    assert result["accuracy"].low > 0.99


def test_unknown_images_are_left_out():
    y, probs, vocab = drawn(60, 3, seed=8)
    unknown = np.where(np.arange(60) % 4 == 0, -1, y)
    some = unknown >= 0
    left = classification_metrics(unknown, probs, vocab, **FAST)
    assert left == classification_metrics(y[some], probs[some], vocab, **FAST)
    assert left["n"] == 45


def test_unknown_labels_of_an_image_are_left_out_of_that_label():
    y, probs, vocab = drawn_multi(80, 3, seed=9)
    y[10:40, 1] = -1
    result = classification_metrics(y, probs, vocab, multi_label=True, **FAST)
    known = y[:, 1] >= 0
    assert result["per_class"]["b"]["auroc"].value == pytest.approx(oracle.roc_auc_score(y[known, 1], probs[known, 1]))
    assert sum(map(sum, result["confusion_matrix"]["b"])) == 50
    assert result["n"] == 80


def test_no_images():
    for result in (
        classification_metrics([], np.zeros((0, 2)), ["a", "b"]),
        classification_metrics([], np.zeros((0, 2)), ["a", "b"], predicted=np.zeros((0, 2), bool)),
        classification_metrics([-1, -1], [[0.5, 0.5]] * 2, ["a", "b"], groups=["p", "q"]),
        classification_metrics(np.zeros((0, 2)), np.zeros((0, 2)), ["a", "b"], multi_label=True),
    ):
        assert result["n"] == 0 and math.isnan(result["auroc"].value)
        assert result["accuracy"].note == "no image with a known label"
        json.dumps(as_plain(result), allow_nan=False)


def test_absent_labels_are_said_and_left_out_of_means():
    y, probs, _ = drawn(60, 3, seed=4)
    probs = np.hstack([probs * 0.99, np.full((60, 1), 0.01)])
    result = classification_metrics(y, probs, ["a", "b", "c", "d"], **FAST)
    for name in ("balanced_accuracy", "auroc", "auprc", "f1"):
        assert result[name].note == "'d' not scored: no image has it, or every image has it"
        assert not math.isnan(result[name].value)
    absent = result["per_class"]["d"]
    assert absent["n"] == 0
    assert absent["sensitivity"].note == absent["auroc"].note == "no image has the label 'd'"
    assert absent["ppv"].note == "no image was called 'd'"
    assert absent["specificity"].value == 1.0 and absent["specificity"].n == 60
    wanted = np.mean([oracle.roc_auc_score(y == k, probs[:, k]) for k in range(3)])
    assert result["auroc"].value == pytest.approx(wanted)


def test_one_label_only():
    result = classification_metrics([0, 0, 0], [[0.9, 0.1]] * 3, ["a", "b"], **FAST)
    assert result["accuracy"].value == 1.0
    assert result["auroc"].note == "all images have one label"
    assert result["mcc"].note == "all images have, or were given, one label"
    assert result["per_class"]["a"]["npv"].note == "every image was called 'a'"


def test_images_of_one_patient_have_no_interval():
    y, probs, vocab = drawn(20, 2, seed=2)
    result = classification_metrics(y, probs, vocab, groups=["p"] * 20, **FAST)
    assert result["n_groups"] == 1
    for name in ("accuracy", "auroc", "ece", "brier"):
        assert not math.isnan(result[name].value) and math.isnan(result[name].low)
        assert result[name].note == "all of one patient or of near-duplicates: no interval"


def test_copies_of_an_image_in_one_patient_are_no_evidence():
    """Ten near-identical frames of each patient must not narrow an interval as ten patients would."""
    y, probs, vocab = drawn(60, 2, seed=11)
    alone = classification_metrics(y, probs, vocab)
    copied = np.repeat(np.arange(60), 10)
    together = classification_metrics(y[copied], probs[copied], vocab, groups=copied)
    naive = classification_metrics(y[copied], probs[copied], vocab)
    for name in OVERALL:
        width = {key: r[name].high - r[name].low for key, r in (("a", alone), ("t", together), ("n", naive))}
        assert together[name].value == pytest.approx(alone[name].value)
        assert width["t"] > 0.9 * width["a"] > 1.5 * width["n"], name


def test_a_patient_each_is_no_patients():
    y, probs, vocab = drawn(50, 3, seed=6)
    apart = classification_metrics(y, probs, vocab, groups=[f"p{i}" for i in range(50)], **FAST)
    plain = classification_metrics(y, probs, vocab, **FAST)
    assert (apart.pop("n_groups"), plain.pop("n_groups")) == (50, None)
    assert apart == plain
    missing = classification_metrics(y, probs, vocab, groups=[None] * 50, **FAST)
    assert missing["accuracy"] == plain["accuracy"]


def test_seed_and_order():
    y, probs, vocab = drawn(80, 3, seed=7)
    first = classification_metrics(y, probs, vocab, groups=np.arange(80) // 4, **FAST)
    assert first == classification_metrics(y, probs, vocab, groups=np.arange(80) // 4, **FAST)
    assert (
        first["auroc"] != classification_metrics(y, probs, vocab, groups=np.arange(80) // 4, n_boot=50, seed=1)["auroc"]
    )
    shuffled = np.random.default_rng(0).permutation(80)
    other = classification_metrics(y[shuffled], probs[shuffled], vocab, groups=(np.arange(80) // 4)[shuffled], **FAST)
    assert other["auroc"].value == pytest.approx(first["auroc"].value)
    assert other["accuracy"].low == pytest.approx(first["accuracy"].low)  # not resampled: exact


def test_higher_level_is_wider():
    y, probs, vocab = drawn(80, 3, seed=7)
    narrow, wide = (classification_metrics(y, probs, vocab, level=level, n_boot=200) for level in (0.8, 0.99))
    for name in OVERALL:
        assert wide[name].low <= narrow[name].low and narrow[name].high <= wide[name].high
        assert wide[name].high - wide[name].low > narrow[name].high - narrow[name].low


@pytest.mark.parametrize(
    ("y", "probs", "options", "words"),
    [
        ([0, 1], [[0.5, 0.5]], {}, "shape"),
        ([0, 2], [[0.5, 0.5]] * 2, {}, "2 labels"),
        ([0, -2], [[0.5, 0.5]] * 2, {}, "-2"),
        ([0.5, 1], [[0.5, 0.5]] * 2, {}, "whole"),
        (["a", "b"], [[0.5, 0.5]] * 2, {}, "y holds 'a', which is no number"),
        ([0, None], [[0.5, 0.5]] * 2, {}, "y holds None, which is no number"),
        ([0, 1], [[0.5, 0.5], [0.5, math.nan]], {}, "row 1"),
        ([0, 1], [[0.5, 0.5], [-3.0, 4.0]], {}, "row 1"),
        ([0, 1], [[0.5, 0.5], [0.9, 0.9]], {}, "sum to 1.800"),
        ([[0, 1]], [[0.5, 0.5]], {}, "multi_label=True"),
        ([0, 1], [[0.5, 0.5]] * 2, {"multi_label": True}, "shape"),
        ([[0, 3]], [[0.5, 0.5]], {"multi_label": True}, "0, 1 and -1"),
        ([[0, 1]], [[0.5, 0.5]], {"multi_label": True, "thresholds": [0.1, 0.2, 0.3]}, "thresholds"),
        ([0, 1], [[0.5, 0.5]] * 2, {"groups": ["p"]}, "groups"),
        ([0, 1], [[0.5, 0.5]] * 2, {"level": 95}, "level"),
        ([0, 1], [[0.5, 0.5]] * 2, {"n_boot": 1}, "n_boot"),
        ([0, 1], [[0.5, 0.5]] * 2, {"n_boot": 10.5}, "n_boot must be a whole number"),
    ],
)
def test_what_is_wrong_is_named(y, probs, options, words):
    with pytest.raises(DataError, match=words):
        classification_metrics(y, probs, ["a", "b"], **options)


def test_columns_that_are_named_may_come_in_any_order():
    y, probs, vocab = drawn(80, 3, seed=7)
    table = pd.DataFrame(probs, columns=vocab)
    for order in (vocab, vocab[::-1]):
        assert classification_metrics(y, table[order], vocab, n_boot=10) == classification_metrics(
            y, probs, vocab, n_boot=10
        )


def test_vocabulary_names_each_label_once():
    with pytest.raises(DataError, match="twice"):
        classification_metrics([0], [[0.5, 0.5]], ["a", "a"])


@pytest.mark.parametrize("y", [np.zeros((10, 2), int), np.ones((10, 2), int), np.array([[0, -1]] * 10)])
def test_images_that_all_have_or_all_lack_each_label_are_measured(y):
    found = classification_metrics(y, np.full((10, 2), 0.9), ["a", "b"], multi_label=True, n_boot=50)
    right = float((y == 1)[y >= 0].mean())
    assert found["accuracy"].value == right and found["n"] == 10
    assert 0 <= found["accuracy"].low <= right <= found["accuracy"].high <= 1
    assert np.isnan(found["auroc"].value) and np.isnan(found["balanced_accuracy"].value)
