import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from medclf.errors import DataError
from medclf.metrics import calibration
from medclf.metrics.calibration import (
    Temperature,
    calibrate_out_of_fold,
    fit_calibration,
    fit_temperature,
    split_parts,
    too_few,
)
from medclf.metrics.logits import to_logits
from medclf.metrics.reliability import ece


def drawn(n, n_labels, seed, factor=1.0):
    """Labels that follow softmax(logits / factor)."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, n_labels))
    y = np.array([rng.choice(n_labels, p=row) for row in special.softmax(logits, axis=1)])
    return y, logits * factor


def mean_loss(logits, y):
    return -special.log_softmax(logits, axis=1)[np.arange(len(y)), y].mean()


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_temperature_is_found_and_is_the_best(factor):
    y, logits = drawn(3000, 4, seed=0, factor=factor)
    fitted = fit_temperature(logits, y)
    best = optimize.minimize(lambda beta: mean_loss(logits * beta[0], y), [1.0], method="BFGS").x[0]
    assert fitted.values[0] == pytest.approx(1 / best, rel=2e-3)
    assert fitted.values[0] == pytest.approx(factor, rel=0.1)
    assert mean_loss(np.log(fitted.apply(logits)), y) <= mean_loss(logits, y) + 1e-6
    assert (fitted.apply(logits).argmax(axis=1) == logits.argmax(axis=1)).all()


def test_multi_label_temperatures_one_each_or_shared():
    rng = np.random.default_rng(1)
    clean = 2 * rng.normal(size=(4000, 2))
    y = (rng.random(clean.shape) < special.expit(clean)).astype(int)
    logits = clean * [3.0, 0.5]
    each = fit_temperature(logits, y, multi_label=True)
    assert each.values == pytest.approx((3.0, 0.5), rel=0.12)
    assert each.apply(logits) == pytest.approx(special.expit(logits / np.array(each.values)))
    shared = fit_temperature(clean * 2, y, multi_label=True, shared=True)
    assert len(shared.values) == 1 and shared.values[0] == pytest.approx(2.0, rel=0.1)
    half = np.where(rng.random(y.shape) < 0.5, y, -1)
    assert fit_temperature(logits, half, multi_label=True).values == pytest.approx((3.0, 0.5), rel=0.2)


def test_all_right_does_not_make_certain():
    """Without a prior the best temperature for ten right answers is 0."""
    logits = np.array([[2.0, -2.0]] * 5 + [[-2.0, 2.0]] * 5)
    fitted = fit_temperature(logits, [0] * 5 + [1] * 5)
    assert 0.5 < fitted.values[0] < 1
    assert fitted.apply(logits).max() < 0.9999


def test_probabilities_serve_as_well_as_logits():
    y, logits = drawn(500, 3, seed=2, factor=2)
    from_logits = fit_temperature(logits, y)
    probs = special.softmax(logits, axis=1)
    assert fit_temperature(to_logits(probs), y).values == pytest.approx(from_logits.values, rel=1e-6)
    assert from_logits.apply_to_probs(probs) == pytest.approx(from_logits.apply(logits))
    each = Temperature((2.0,), True, 1)
    assert each.apply_to_probs(special.expit(logits)) == pytest.approx(each.apply(logits), abs=1e-6)
    assert np.isfinite(to_logits([[0.0, 1.0]])).all() and np.isfinite(to_logits([[0.0, 1.0]], multi_label=True)).all()


def test_temperature_goes_through_json():
    fitted = Temperature((1.25, 0.8), True, 77)
    assert Temperature.from_dict(json.loads(json.dumps(fitted.as_dict()))) == fitted


def test_temperature_names_what_is_wrong():
    with pytest.raises(DataError, match="shape"):
        fit_temperature([[1.0, 2.0]], [0, 1])
    with pytest.raises(DataError, match="no image"):
        fit_temperature([[1.0, 2.0]], [-1])
    with pytest.raises(DataError, match="NaN"):
        fit_temperature([[1.0, math.nan]], [0])


@pytest.mark.parametrize("shift", [[1.0, 0.0, -1.0], [0.0, -2.0, 0.0]])
def test_biases_are_found_beside_the_temperature(shift):
    y, logits = drawn(4000, 3, seed=11)
    fitted = fit_calibration(2 * (logits + shift), y)
    assert fitted.values[0] == pytest.approx(2, rel=0.1)
    assert fitted.bias == pytest.approx(np.mean(shift) - np.array(shift), abs=0.15)
    assert np.abs(fitted.apply(2 * (logits + shift)) - special.softmax(logits, axis=1)).max() < 0.06


def test_without_a_prior_it_is_the_best_vector_scaling(monkeypatch):
    """scikit-learn's unpenalised logistic regression on one label's logit is Platt scaling."""
    from sklearn.linear_model import LogisticRegression

    monkeypatch.setattr(calibration, "_BIAS", 1e3)
    monkeypatch.setattr(calibration, "_LOG_TEMPERATURE", 1e3)
    rng = np.random.default_rng(12)
    logits = rng.normal(-2, 1.5, (800, 1))
    y = (rng.random(logits.shape) < special.expit(0.6 * logits + 0.8)).astype(int)
    fitted = fit_calibration(logits, y, multi_label=True)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(logits, y[:, 0])
    assert 1 / fitted.values[0] == pytest.approx(peer.coef_[0, 0], rel=1e-3)
    assert fitted.bias[0] == pytest.approx(peer.intercept_[0], rel=1e-3)


def test_each_of_several_labels_has_a_scale_and_a_bias():
    rng = np.random.default_rng(13)
    logits = rng.normal(-2, 1.5, (4000, 2))
    y = (rng.random(logits.shape) < special.expit(logits)).astype(int)
    fitted = fit_calibration(logits * [3.0, 1.0] + [0.0, 2.0], y, multi_label=True)
    assert fitted.values == pytest.approx((3.0, 1.0), rel=0.15)
    assert fitted.bias == pytest.approx((0.0, -2.0), abs=0.2)
    assert Temperature.from_dict(json.loads(json.dumps(fitted.as_dict()))) == fitted


def test_a_label_of_few_images_gets_nothing_of_its_own():
    y, logits = drawn(400, 3, seed=14)
    y = np.where(y == 2, 0, y)
    y[:4] = 2
    fitted = fit_calibration(logits + np.array([0.0, 1.0, 0.0]), y)
    assert too_few(y, 3).tolist() == [False, False, True]
    many = np.stack([y == 0, y == 2], 1).astype(int)
    of_many = fit_calibration(logits[:, :2], many, multi_label=True)
    assert of_many.bias[1] == 0 and of_many.values[1] == 1 != of_many.values[0]
    assert len(fitted.bias) == 3


@pytest.mark.parametrize(("factor", "n_patients", "surer"), [(0.3, 6, False), (0.3, 200, True), (3.0, 6, False)])
def test_few_patients_make_no_network_surer(factor, n_patients, surer):
    y, logits = drawn(400, 2, seed=3, factor=factor)
    (temperature,) = fit_calibration(logits, y, groups=np.arange(400) % n_patients).values
    assert temperature < 0.8 if surer else temperature == 1.0 if factor < 1 else temperature > 1.2


@pytest.mark.parametrize("n", [20, 60, 2000])
def test_biases_are_drawn_towards_none_where_images_are_few(n):
    """The same shares in more images: the bias comes nearer to what they say."""
    y = np.arange(n) % 2
    logits = np.zeros((n, 2)) + np.array([0.0, 1.0])
    gap = np.diff(fit_calibration(logits, y).bias)[0]
    assert {20: -0.8, 60: -0.97, 2000: -1.01}[n] < gap < {20: -0.3, 60: -0.6, 2000: -0.97}[n]


def test_images_of_one_patient_count_as_much_as_they_tell():
    """Each image ten times, as one patient's, has the fit of the images alone; as strangers, a surer one."""
    y, logits = drawn(300, 2, seed=7, factor=2)
    logits = logits + np.array([0.0, 0.8])
    patients = np.repeat(np.arange(300), 10)
    alone = fit_calibration(logits, y)
    together, strangers = (
        fit_calibration(logits[patients], y[patients], groups=groups) for groups in (patients, np.arange(3000))
    )
    assert together.values == pytest.approx(alone.values, rel=1e-3)
    assert together.bias == pytest.approx(alone.bias, abs=1e-3)
    assert abs(np.diff(strangers.bias)[0]) > abs(np.diff(alone.bias)[0]) + 0.005


@pytest.mark.parametrize("multi_label", [False, True])
def test_one_patient_with_most_of_a_label_moves_no_other(multi_label):
    """The label is left uncalibrated where fewer than ten patients have it, however many images they have."""
    rng = np.random.default_rng(8)
    y = np.array([1] * 15 + [0] * 200 + [1] * 6)
    patients = np.array([0] * 15 + list(range(1, 207)))
    logits = np.column_stack([np.zeros(221), rng.normal(-3.5, 0.5, 221)])
    truth = np.column_stack([1 - y, y]) if multi_label else y
    assert too_few(truth, 2, multi_label=multi_label).tolist() == [False, False]
    found = too_few(truth, 2, groups=patients, multi_label=multi_label)
    assert found.tolist() == ([True, True] if multi_label else [False, True])

    def moved(groups):  # by the bias, about the mean of the logits
        fitted = fit_calibration(logits, truth, groups=groups, multi_label=multi_label)
        shifts = np.array(fitted.bias) - logits.mean(axis=0) * (1 - 1 / np.array(fitted.values))
        return shifts[1] if multi_label else shifts[1] - shifts[0]

    assert moved(patients) == pytest.approx(0, abs=1e-9) and moved(None) > 0.5


def test_labels_that_may_move_leave_those_that_may_not_where_they_are():
    """Two labels are called wrongly often, a third has too few images: its mean stays."""
    y, logits = drawn(600, 2, seed=9, factor=1)
    logits = np.column_stack([logits + np.array([0.0, 1.5]), np.full(600, -3.0)])
    y[:4] = 2
    fitted = fit_calibration(logits, y)
    assert too_few(y, 3).tolist() == [False, False, True] and fitted.bias[1] - fitted.bias[0] < -1
    shifts = np.array(fitted.bias) - logits.mean(axis=0) * (1 - 1 / fitted.values[0])
    assert shifts[2] - shifts[:2].mean() == pytest.approx(0, abs=1e-6)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1000), st.integers(2, 200), st.floats(0.2, 0.8), st.integers(1, 5))
def test_parts_are_a_partition_with_whole_patients(seed, n, share, images):
    y, groups = np.random.default_rng(seed).integers(0, 3, n), np.arange(n) // images
    fit, report = split_parts(y, groups, share=share, seed=seed)
    assert sorted([*fit, *report]) == list(range(n))
    assert not set(groups[fit]) & set(groups[report])
    assert abs(len(fit) - share * n) <= 2 * images


def test_parts_hold_every_label_in_proportion():
    y = np.repeat([0, 1, 2], [100, 20, 10])
    fit, _ = split_parts(y, seed=3)
    assert np.bincount(y[fit]).tolist() == [50, 10, 5]
    other, _ = split_parts(y, seed=4)
    assert set(fit) != set(other)


def test_out_of_fold_never_uses_an_images_own_label(monkeypatch):
    """With one image's label changed, its own fold's probabilities stay and others' change."""
    fold_of = np.arange(60) // 2 % 5
    monkeypatch.setattr(calibration, "folds", lambda *args, **options: fold_of)  # which labels would move
    y, logits = drawn(60, 3, seed=5, factor=2)
    changed = y.copy()
    changed[7] = (y[7] + 1) % 3
    before, after = (calibrate_out_of_fold(logits, labels, groups=np.arange(60) // 2)[0] for labels in (y, changed))
    same = (before == after).all(axis=1)
    assert same[fold_of == fold_of[7]].all() and not same[fold_of != fold_of[7]].any()


def test_out_of_fold_calibrates_and_ships_what_all_images_fit():
    y, logits = drawn(800, 3, seed=6, factor=3)
    probs, shipped = calibrate_out_of_fold(logits, y)
    assert probs.sum(axis=1) == pytest.approx(1)
    assert shipped == fit_calibration(logits, y) and len(shipped.bias) == 3
    assert ece(y, probs, n_boot=50).value < 0.5 * ece(y, special.softmax(logits, axis=1), n_boot=50).value
    with pytest.raises(DataError, match="one patient"):
        calibrate_out_of_fold(logits, y, groups=["p"] * 800)


def test_a_label_that_no_image_has_is_left_out_of_the_fit():
    """The others are fitted among themselves: the same temperature and odds as without its column."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(500, 3)) * 2
    y = np.array([rng.choice(2, p=row) for row in special.softmax(logits[:, :2] / 2, axis=1)])
    found, without = fit_calibration(logits, y), fit_calibration(logits[:, :2], y)
    assert found.values == pytest.approx(without.values, rel=1e-4)
    assert found.bias[1] - found.bias[0] == pytest.approx(without.bias[1] - without.bias[0], abs=1e-4)
    before, after = special.softmax(logits, axis=1)[:, 2].mean(), found.apply(logits)[:, 2].mean()
    assert after == pytest.approx(before, abs=0.1)
    same = fit_calibration(logits, np.zeros(500, int))  # one label alone
    assert same.values == (1.0,) and np.allclose(same.bias, 0)


def test_a_label_that_training_never_saw_is_not_called_likely():
    """Its held-out probability is 0, its own logit low: sharpening the others must not lift it above them."""
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(40, 2))
    y = (logits[:, 1] > logits[:, 0]).astype(int)  # surer than the logits say
    held_out = np.column_stack([special.softmax(logits, axis=1), np.zeros(40)])
    fitted = fit_calibration(to_logits(held_out), y)
    probs = fitted.apply(np.column_stack([logits, np.full(40, -math.log(81))]))
    assert fitted.values[0] < 0.9 and probs[:, 2].max() < 0.1
