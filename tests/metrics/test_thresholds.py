import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from medclf.errors import DataError
from medclf.metrics.abstention import AbstainPoint, abstain_curve, choose_abstain, evaluate_abstain
from medclf.metrics.intervals import Estimate, as_plain, wilson
from medclf.metrics.thresholds import OperatingPoint, choose_threshold, evaluate_threshold, restate_prevalence

CALM = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on busy machines too
SETS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.8, 1.0])), min_size=2, max_size=25
).filter(lambda pairs: len({label for label, _ in pairs}) == 2)


def split(pairs):
    y, probs = zip(*pairs, strict=True)
    return np.array(y, dtype=int), np.array(probs)


def rates(y, probs, threshold):
    called = probs >= threshold
    return called[y == 1].mean(), 1 - called[y == 0].mean()


def every_threshold(probs):
    return [0.0, *(probs + 1e-6), 1 + 1e-6] if probs.max() < 1 else [0.0, *(probs + 1e-6)[probs < 1]]


@CALM
@given(SETS)
def test_youden_is_the_best_of_all_thresholds(pairs):
    y, probs = split(pairs)
    point = choose_threshold(y, probs)
    assert rates(y, probs, point.threshold) == pytest.approx((point.sensitivity, point.specificity))
    best = max(sum(rates(y, probs, cut)) for cut in every_threshold(probs))
    assert point.sensitivity + point.specificity == pytest.approx(best)


def test_youden_agrees_with_scikit_learns_curve():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    probs = np.clip(0.4 * y + 0.6 * rng.random(300), 0, 1)
    fpr, tpr, _ = oracle.roc_curve(y, probs)
    point = choose_threshold(y, probs)
    assert point.sensitivity + point.specificity - 1 == pytest.approx((tpr - fpr).max())
    assert point.n == 300 and point.by == "youden"


@CALM
@given(SETS, st.sampled_from([0.5, 0.8, 0.95, 1.0]), st.sampled_from(["sensitivity", "specificity"]))
def test_a_wish_is_met_at_the_least_price(pairs, at_least, by):
    y, probs = split(pairs)
    side = by == "specificity"
    options = [rates(y, probs, cut) for cut in every_threshold(probs)]
    met = [pair for pair in options if pair[side] >= at_least - 1e-12]
    if not met:
        with pytest.raises(DataError, match="no threshold"):
            choose_threshold(y, probs, by, at_least=at_least)
        return
    point = choose_threshold(y, probs, by, at_least=at_least)
    found = (point.sensitivity, point.specificity)
    assert found == pytest.approx(rates(y, probs, point.threshold))
    assert found[side] >= at_least - 1e-12
    assert found[not side] == pytest.approx(max(pair[not side] for pair in met))


@CALM
@given(SETS, st.floats(0.1, 10), st.floats(0.1, 10), st.none() | st.floats(0.05, 0.95))
def test_cost_is_the_least_of_all_thresholds(pairs, miss, alarm, prevalence):
    y, probs = split(pairs)
    share = y.mean() if prevalence is None else prevalence

    def cost(sensitivity, specificity):
        return miss * share * (1 - sensitivity) + alarm * (1 - share) * (1 - specificity)

    point = choose_threshold(y, probs, "cost", miss_cost=miss, alarm_cost=alarm, prevalence=prevalence)
    least = min(cost(*rates(y, probs, cut)) for cut in every_threshold(probs))
    assert cost(point.sensitivity, point.specificity) == pytest.approx(least, abs=1e-9)


def test_surely_asks_the_interval():
    y, probs = np.repeat([1, 0], [60, 60]), np.concatenate([np.linspace(0.3, 1, 60), np.linspace(0, 0.7, 60)])
    seen = choose_threshold(y, probs, "sensitivity", at_least=0.9)
    sure = choose_threshold(y, probs, "sensitivity", at_least=0.9, surely=True)
    assert sure.threshold < seen.threshold and sure.specificity < seen.specificity
    assert wilson(sure.sensitivity * 60, 60)[0] >= 0.9
    with pytest.raises(DataError, match="certainty on 5 images"):
        choose_threshold([1] * 5 + [0] * 5, [0.9] * 5 + [0.1] * 5, "sensitivity", at_least=0.9, surely=True)


def test_separated_labels_are_parted_in_the_middle():
    assert choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]).threshold == pytest.approx(0.5)
    assert choose_threshold([0, -1, 1], [0.1, 0.6, 0.9]).n == 2


@pytest.mark.parametrize(
    ("y", "probs", "options", "words"),
    [
        ([0, 1], [0.1, 0.9], {"by": "f1"}, "not a rule"),
        ([1, 1], [0.1, 0.9], {}, "images without it"),
        ([0, 1], [0.1, 1.9], {}, "no probabilities"),
        ([0, 2], [0.1, 0.9], {}, "other numbers"),
        ([0, 1], [[0.1, 0.9]], {}, "column"),
        ([0, 1], [0.1, 0.9], {"by": "sensitivity", "at_least": 95}, "at_least=95"),
        ([0, 1], [0.1, 0.9], {"by": "cost", "prevalence": -1}, "prevalence"),
    ],
)
def test_what_is_wrong_is_named(y, probs, options, words):
    with pytest.raises(DataError, match=words):
        choose_threshold(y, probs, **options)


def test_a_chosen_threshold_is_judged_on_another_part():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 400)
    probs = np.clip(0.3 * y + 0.7 * rng.random(400), 0, 1)
    point = choose_threshold(y[:200], probs[:200], "sensitivity", at_least=0.9)
    result = evaluate_threshold(y[200:], probs[200:], point, n_boot=50)
    called = probs[200:] >= point.threshold
    tn, fp, fn, tp = oracle.confusion_matrix(y[200:], called).ravel()
    assert result["table"] == {"tp": tp, "fp": fp, "fn": fn, "tn": tn}
    assert result["sensitivity"].value == pytest.approx(tp / (tp + fn))
    assert (result["ppv"].low, result["ppv"].high) == pytest.approx(wilson(tp, tp + fp))
    assert result["mcc"].value == pytest.approx(oracle.matthews_corrcoef(y[200:], called))
    assert result["threshold"] == point.threshold and result["n"] == 200
    json.dumps(as_plain(result), allow_nan=False)


def test_a_rate_that_is_not_there_names_the_label():
    assert "'polyp'" in evaluate_threshold([0, 1], [0.6, 0.9], 0.1, label="polyp", n_boot=10)["npv"].note


def test_evaluating_counts_patients():
    y, probs, patients = np.tile([0, 1], 50), np.tile([0.2, 0.9, 0.6, 0.4], 25), np.arange(100) // 20
    by_patient = evaluate_threshold(y, probs, 0.5, groups=patients, n_boot=50)["accuracy"]
    by_image = evaluate_threshold(y, probs, 0.5, n_boot=50)["accuracy"]
    assert by_patient.value == by_image.value
    assert by_patient.high - by_patient.low > by_image.high - by_image.low


def test_operating_points_go_through_json():
    for point in (OperatingPoint(0.3), choose_threshold([0, 1], [0.1, 0.9], "cost", miss_cost=5)):
        back = OperatingPoint.from_dict(json.loads(json.dumps(point.as_dict(), allow_nan=False)))
        assert back.threshold == point.threshold and back.wish == point.wish
        assert back.sensitivity == pytest.approx(point.sensitivity, nan_ok=True)


def test_prevalence_restated_by_hand():
    """Gigerenzer's mammography: 1 % prevalence, 90 % sensitivity, 91 % specificity: 9 of 98 called have it."""
    found = restate_prevalence(0.9, 0.91, 0.01)
    assert found.ppv.value == pytest.approx(9 / (9 + 89.1))
    assert found.npv.value == pytest.approx(900.9 / 901.9)
    assert found.missed == pytest.approx(1) and found.called_back == pytest.approx(98.1)
    assert found.sentence == (
        "Of 1,000 patients, 10 have it: 1 would be missed. 98 would be flagged, 89 of them wrongly."
    )


def test_the_sentence_has_ranges_and_needs_images_enough():
    """Wilson's 95 % interval of 9 in 10 is 0.596 to 0.982, of 45 in 50 0.786 to 0.957."""
    pair = Estimate(0.9, *wilson(9, 10), 10), Estimate(0.9, *wilson(45, 50), 50)
    found = restate_prevalence(*pair, 0.1, label="polyp", unit="images")
    assert found.sentence == (
        "Of 1,000 images, 100 have polyp: 10 would be missed (2 to 40). "
        "180 would be flagged, 90 of them wrongly (39 to 192)."
    )
    assert restate_prevalence(Estimate(1.0, *wilson(9, 9), 9), pair[1], 0.1).sentence == ""


def test_prevalence_of_the_data_gives_its_own_ppv():
    sensitivity, specificity = Estimate(30 / 40, *wilson(30, 40), 40), Estimate(54 / 60, *wilson(54, 60), 60)
    found = restate_prevalence(sensitivity, specificity, 0.4)
    assert found.ppv.value == pytest.approx(30 / 36) and found.npv.value == pytest.approx(54 / 64)
    assert found.ppv.low < found.ppv.value < found.ppv.high


def test_restated_ppv_covers_the_truth():
    """Simulated: 80 with the label, 120 without, true rates 0.85 and 0.92, at a prevalence of 5 %."""
    rng, sens, spec, prevalence = np.random.default_rng(2), 0.85, 0.92, 0.05
    true = prevalence * sens / (prevalence * sens + (1 - prevalence) * (1 - spec))
    held = []
    for hit, clear in zip(rng.binomial(80, sens, 1000), rng.binomial(120, spec, 1000), strict=True):
        pair = Estimate(hit / 80, *wilson(hit, 80), 80), Estimate(clear / 120, *wilson(clear, 120), 120)
        ppv = restate_prevalence(*pair, prevalence).ppv
        held.append(ppv.low <= true <= ppv.high)
    assert 0.93 <= np.mean(held) <= 0.97


@CALM
@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 1))
def test_restated_intervals_hold_their_value(hit, clear, prevalence):
    pair = Estimate(hit / 20, *wilson(hit, 20), 20), Estimate(clear / 20, *wilson(clear, 20), 20)
    found = restate_prevalence(*pair, prevalence)
    for estimate in (found.ppv, found.npv):
        if math.isnan(estimate.value):
            assert estimate.note
        else:
            assert -1e-9 <= estimate.low <= estimate.value + 1e-9
            assert estimate.value - 1e-9 <= estimate.high <= 1 + 1e-9
    json.dumps(as_plain(found), allow_nan=False)


def test_restating_what_is_undefined_or_impossible():
    nothing = Estimate(math.nan, math.nan, math.nan, 0, "no image has the label 'x'")
    found = restate_prevalence(nothing, 0.9, 0.1)
    assert found.ppv.note == "no image has the label 'x'" and "undefined" in found.sentence
    with pytest.raises(DataError, match="prevalence"):
        restate_prevalence(0.9, 0.9, 10)
    with pytest.raises(DataError, match="specificity"):
        restate_prevalence(0.9, 90, 0.1)


@CALM
@given(SETS)
def test_abstain_curve_by_counting(pairs):
    y, probs = split(pairs)
    curve = abstain_curve(y, probs)
    sure, right = np.maximum(probs, 1 - probs), (probs >= 0.5) == (y == 1)
    for threshold, coverage, accuracy, n in zip(
        curve["threshold"], curve["coverage"], curve["accuracy"], curve["n"], strict=True
    ):
        answered = sure >= threshold
        assert n == answered.sum() and coverage == pytest.approx(answered.mean())
        assert accuracy == pytest.approx(right[answered].mean())
    assert curve["coverage"][-1] == 1.0 and (np.diff(curve["coverage"]) > 0).all()


def test_long_abstain_curves_are_thinned():
    rng = np.random.default_rng(0)
    curve = abstain_curve(rng.integers(0, 2, 5000), rng.random(5000), n_points=50)
    assert len(curve["threshold"]) == 50 and curve["n"][0] == 1 and curve["n"][-1] == 5000
    assert len(abstain_curve([], np.zeros((0, 3)))["threshold"]) == 0


@CALM
@given(SETS, st.integers(40, 100).map(lambda percent: percent / 100))  # not a rounding away from a share of the images
def test_abstaining_keeps_the_accuracy_at_the_greatest_coverage(pairs, wished):
    y, probs = split(pairs)
    curve = abstain_curve(y, probs)
    kept = curve["coverage"][curve["accuracy"] >= wished]
    if not len(kept):
        with pytest.raises(DataError, match="no threshold keeps"):
            choose_abstain(y, probs, accuracy=wished)
        return
    point = choose_abstain(y, probs, accuracy=wished)
    assert point.coverage == pytest.approx(kept.max()) and point.accuracy >= wished
    result = evaluate_abstain(y, probs, point)
    assert result["coverage"].value == pytest.approx(point.coverage)
    assert result["accuracy"].value == pytest.approx(point.accuracy)


def test_abstaining_surely_and_by_patient():
    rng = np.random.default_rng(3)
    sure = rng.random(600) / 2 + 0.5
    y = (rng.random(600) < sure).astype(int)
    probs = np.stack([1 - sure, sure], axis=1)
    seen = choose_abstain(y, probs, accuracy=0.8)
    certain = choose_abstain(y, probs, accuracy=0.8, surely=True)
    assert certain.coverage < seen.coverage
    assert AbstainPoint(**json.loads(json.dumps(certain.as_dict()))) == certain
    result = evaluate_abstain(y, probs, certain, groups=np.arange(600) // 6)
    assert result["accuracy"].value > result["accuracy_unsure"].value
    assert result["accuracy"].n + result["accuracy_unsure"].n == 600
    nobody = evaluate_abstain(y, probs, 0.0)["accuracy_unsure"]
    assert nobody.n == 0 and nobody.note
