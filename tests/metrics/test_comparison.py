import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as oracle
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.inter_rater import cohens_kappa

from medclf.errors import DataError
from medclf.metrics.agreement import cohen_kappa
from medclf.metrics.classification import classification_metrics
from medclf.metrics.comparison import compare_predictions, mcnemar, subgroup_metrics, subgroup_names
from medclf.metrics.intervals import as_plain


def answers(only_a, only_b, both=5, none=3):
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * none
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * none
    return np.array(a, dtype=bool), np.array(b, dtype=bool)


def two_models(n, seed, n_labels=2, better=1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_labels, n)
    shared = rng.normal(size=(n, n_labels))
    probs = []
    for skill in (1.0, 1.0 + better):
        logits = shared + 0.5 * rng.normal(size=(n, n_labels)) + skill * np.eye(n_labels)[y]
        exps = np.exp(logits)
        probs.append(exps / exps.sum(axis=1, keepdims=True))
    return y, probs[0], probs[1], [f"label{i}" for i in range(n_labels)]


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 6), (3, 12), (12, 3), (7, 7), (40, 61)])
def test_mcnemar_agrees_with_statsmodels_and_the_binomial(only_a, only_b):
    found = mcnemar(*answers(only_a, only_b))
    wanted = statsmodels_mcnemar([[5, only_a], [only_b, 3]], exact=True).pvalue
    assert (found.only_a, found.only_b, found.p_groups) == (only_a, only_b, None)
    assert found.p_exact == pytest.approx(min(1, wanted))
    half = stats.binom.pmf(min(only_a, only_b), only_a + only_b, 0.5)
    assert found.p_mid == pytest.approx(1.0 if only_a == only_b else wanted - half)


def test_mid_p_of_fagerland_lydersen_and_laake():
    """Their table of airway hyper-responsiveness, discordant 1 and 7: exact 0.0703, mid-p 0.0391."""
    found = mcnemar(*answers(1, 7))
    assert (found.p_exact, found.p_mid) == (pytest.approx(0.0703, abs=5e-5), pytest.approx(0.0391, abs=5e-5))


def test_swapping_single_images_is_mcnemars_exact_test():
    right = answers(4, 14)
    pairs = np.arange(len(right[0]))
    pairs[-1] = pairs[-2]  # two images that both have wrong are one patient: nothing changes
    found = mcnemar(*right, groups=pairs)
    assert found.p_groups == pytest.approx(found.p_exact, abs=0.01)


def test_ten_frames_of_one_patient_are_one_vote():
    """Ten wins in one patient's frames are nothing against chance; as images they look like proof."""
    a, b = answers(0, 10, both=20)
    found = mcnemar(a, b, groups=np.concatenate([np.zeros(10), np.arange(1, len(a) - 9)]))
    assert found.p_exact < 0.01 and found.p_groups == 1.0


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_fair(only_a, only_b):
    there, back = mcnemar(*answers(only_a, only_b)), mcnemar(*answers(only_b, only_a))
    assert (there.p_exact, there.p_mid) == (back.p_exact, back.p_mid)
    assert 0 < there.p_mid <= there.p_exact <= 1


def test_differences_are_those_of_the_metrics():
    y, a, b, vocab = two_models(150, seed=0, n_labels=3)
    found = compare_predictions(y, a, b, vocab, n_boot=100)
    one, two = (classification_metrics(y, probs, vocab, n_boot=10) for probs in (a, b))
    for name in ("accuracy", "balanced_accuracy", "auroc", "auprc", "f1", "mcc"):
        difference = found[name]
        assert (difference.a, difference.b) == (pytest.approx(one[name].value), pytest.approx(two[name].value))
        assert difference.value == pytest.approx(two[name].value - one[name].value)
        assert difference.low < difference.value < difference.high
    for label in vocab:
        for name in ("sensitivity", "specificity"):
            difference = found["per_class"][label][name]
            assert difference.b == pytest.approx(two["per_class"][label][name].value)
            assert difference.n == two["per_class"][label][name].n
    right = [probs.argmax(axis=1) == y for probs in (a, b)]
    assert found["mcnemar"] == mcnemar(*right)
    has = y == 1
    assert found["per_class"]["label1"]["mcnemar"] == mcnemar(right[0][has], right[1][has])
    assert found["n"] == 150 and found["n_groups"] is None
    json.dumps(as_plain(found), allow_nan=False)


def test_the_interval_of_paired_accuracy_is_the_textbooks():
    y, a, b, vocab = two_models(400, seed=1)
    right = [(probs.argmax(axis=1) == y).astype(float) for probs in (a, b)]
    gain = right[1] - right[0]
    half = 1.96 * gain.std() / math.sqrt(400)
    found = compare_predictions(y, a, b, vocab, n_boot=1000)["accuracy"]
    assert (found.low, found.high) == pytest.approx((gain.mean() - half, gain.mean() + half), abs=0.004)
    unpaired = math.sqrt(sum(r.var() / 400 for r in right)) * 1.96
    assert found.high - found.low < 2 * 0.9 * unpaired  # pairing pays


def test_a_model_against_itself():
    y, a, _, vocab = two_models(60, seed=2)
    found = compare_predictions(y, a, a, vocab, n_boot=50)
    assert found["accuracy"].value == 0 and found["mcnemar"].p_mid == 1.0
    assert found["accuracy"].low == -found["accuracy"].high < 0
    assert found["sentence"].startswith("No clear difference: accuracy ")


def test_swapped_models_swap_the_answer():
    y, a, b, vocab = two_models(300, seed=3)
    there = compare_predictions(y, a, b, vocab, n_boot=200, names=("old", "new"))
    back = compare_predictions(y, b, a, vocab, n_boot=200, names=("new", "old"))
    assert there["sentence"].startswith("new is better: accuracy ") and back["sentence"].startswith("new is better: ")
    for name in ("accuracy", "auroc"):
        assert (there[name].low, there[name].high) == pytest.approx((-back[name].high, -back[name].low))


def test_patients_widen_the_difference():
    y, a, b, vocab = two_models(40, seed=4)
    copies = np.repeat(np.arange(40), 6)
    by_patient = compare_predictions(y[copies], a[copies], b[copies], vocab, groups=copies, n_boot=300)
    by_image = compare_predictions(y[copies], a[copies], b[copies], vocab, n_boot=300)
    assert by_patient["n_groups"] == 40
    widths = [found["accuracy"].high - found["accuracy"].low for found in (by_patient, by_image)]
    assert widths[0] > 1.8 * widths[1]
    assert by_patient["mcnemar"].p_groups > by_patient["mcnemar"].p_exact
    assert "p by patients" in by_patient["sentence"]


def test_multi_label_is_compared():
    rng = np.random.default_rng(5)
    y = (rng.random((80, 3)) < 0.4).astype(int)
    a, b = (np.clip(skill * y + (1 - skill) * rng.random((80, 3)), 0, 1) for skill in (0.2, 0.6))
    found = compare_predictions(y, a, b, list("abc"), multi_label=True, n_boot=100)
    assert found["auroc"].b == pytest.approx(oracle.roc_auc_score(y, b))
    exact = [((probs >= 0.5) == y).all(axis=1) for probs in (a, b)]
    assert found["mcnemar"] == mcnemar(*exact)


def test_nothing_to_compare():
    found = compare_predictions([-1], [[0.5, 0.5]], [[0.5, 0.5]], ["a", "b"])
    assert "were not compared: no image" in found["sentence"]
    absent = compare_predictions([0, 0], [[0.9, 0.1]] * 2, [[0.8, 0.2]] * 2, ["a", "b"], n_boot=10)
    assert math.isnan(absent["auroc"].value) and absent["auroc"].note
    one = compare_predictions([0, 1], [[0.9, 0.1]] * 2, [[0.8, 0.2]] * 2, ["a", "b"], groups=["p", "p"], n_boot=10)
    assert one["accuracy"].note == "all of one patient or of near-duplicates: no interval"
    for result in (found, absent, one):
        json.dumps(as_plain(result), allow_nan=False)
    with pytest.raises(DataError, match="shape"):
        compare_predictions([0, 1], [[0.5, 0.5]] * 2, [[0.5, 0.5]], ["a", "b"])
    with pytest.raises(DataError, match="pairs"):
        mcnemar([True], [True, False])


def test_subgroups_are_the_metrics_of_their_images():
    y, probs, _, vocab = two_models(120, seed=6)
    sex, patients = np.array(["F", "M", None] * 40, dtype=object), np.arange(120) // 2
    found = subgroup_metrics(y, probs, vocab, sex, groups=patients, n_boot=50)
    assert list(found) == ["F", "M", "(missing)"]
    rows = np.flatnonzero(sex == "M")
    assert found["M"] == classification_metrics(y[rows], probs[rows], vocab, groups=patients[rows], n_boot=50)
    assert sum(metrics["n"] for metrics in found.values()) == 120
    with pytest.raises(DataError, match="3 values for 120"):
        subgroup_metrics(y, probs, vocab, ["F"] * 3)


def test_numbers_are_cut_into_quarters():
    ages = [*range(20, 60), None]
    names = subgroup_names(ages)
    assert list(names.cat.categories) == ["20 to 29.75", "30 to 39.5", "40 to 49.25", "50 to 59", "(missing)"]
    assert (names == "50 to 59").sum() == 10
    assert list(subgroup_names([2, 1, 10, 1]).cat.categories) == ["1", "2", "10"]
    assert list(subgroup_names([True, False]).cat.categories) == ["False", "True"]


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_agrees_with_scikit_learn_and_statsmodels(weights):
    rng = np.random.default_rng(7)
    a = rng.integers(0, 4, 300)
    b = np.where(rng.random(300) < 0.6, a, rng.integers(0, 4, 300))
    found = cohen_kappa(a, b, weights=weights)
    assert found.value == pytest.approx(oracle.cohen_kappa_score(a, b, weights=weights))
    if weights is None:
        wanted = cohens_kappa(oracle.confusion_matrix(a, b))
        assert (found.low, found.high) == pytest.approx((wanted.kappa_low, wanted.kappa_upp), abs=0.01)


def test_kappa_at_its_edges():
    full = cohen_kappa(["x", "y"] * 10, ["x", "y"] * 10)
    assert full.value == full.high == 1 and 0.4 < full.low < 0.9
    assert cohen_kappa(["x"] * 5, ["x"] * 5).note == "both readers gave one and the same label"
    assert cohen_kappa([], []).n == 0
    grouped = cohen_kappa(["x", "y", "y"] * 20, ["x", "y", "x"] * 20, groups=np.arange(60) // 12)
    alone = cohen_kappa(["x", "y", "y"] * 20, ["x", "y", "x"] * 20)
    assert grouped.value == alone.value
    with pytest.raises(DataError, match="3 labels of one reader, 2"):
        cohen_kappa([1, 2, 3], [1, 2])
    with pytest.raises(DataError, match="'z'"):
        cohen_kappa(["x"], ["z"], vocab=["x", "y"])
    with pytest.raises(DataError, match="cubic"):
        cohen_kappa(["x"], ["x"], weights="cubic")


def test_a_verdict_agrees_with_its_own_p():
    """Eight images of four patients, all right in one model alone: a sign test by patients gives 2 * 0.5**4 = 0.125."""
    y = np.arange(40) % 2
    good = np.eye(2)[y] * 0.8 + 0.1
    bad = good.copy()
    bad[:8] = bad[:8, ::-1]
    patients = [f"p{i // 2}" if i < 8 else f"q{i}" for i in range(40)]
    found = compare_predictions(y, bad, good, ["a", "b"], groups=patients)
    assert found["mcnemar"].p_groups == pytest.approx(0.125, abs=0.02)
    assert found["better"] is None and found["sentence"].startswith("No clear difference")
    alone = compare_predictions(y, bad, good, ["a", "b"])
    assert alone["mcnemar"].p_exact == pytest.approx(2 * 0.5**8) and alone["better"] == "B"


def test_groups_of_near_duplicates_are_not_called_patients():
    y = np.arange(40) % 2
    probs = np.eye(2)[y] * 0.8 + 0.1
    groups = np.arange(40) // 4
    found = compare_predictions(y, probs, probs[::-1], ["a", "b"], groups=groups, unit="groups of near-duplicates")
    assert "p by groups of near-duplicates" in found["sentence"] and "patient" not in found["sentence"]


def test_the_rows_are_called_what_they_are():
    """Studies with one answer each were called images."""
    probs = [[0.9, 0.1], [0.1, 0.9]] * 4
    found = compare_predictions([0, 1] * 4, probs, probs, ["a", "b"], counted="studies", n_boot=20)
    assert "on the same 8 studies. " in found["sentence"]
