"""The linear classifier against scikit-learn's own logistic regression, and its guards against leaks."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from medclf.errors import MedclfWarning
from medclf.models import linear_probe as probe
from medclf.models.linear_probe import STRENGTHS, _sure_part, fit_linear
from medclf.models.logistic import fit_path


def clouds(n_classes=3, n=120, f=20, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    x = rng.normal(size=(n, f)) * rng.uniform(1, 5, f) + 3
    x[np.arange(n), y] += 20
    return x.astype(np.float32), y


@pytest.mark.parametrize("f", [20, 300])  # more images than features, and fewer
@pytest.mark.parametrize("n_classes", [2, 3])
def test_equals_logistic_regression_on_standardised_features(f, n_classes):
    x, y = clouds(n_classes, f=f)
    weight, bias, strength, folds, held_out, n_untold = fit_linear(x, y, n_classes)
    peer = LogisticRegression(C=strength, max_iter=2000, tol=1e-8)
    wanted = peer.fit(StandardScaler().fit_transform(x), y).predict_proba(StandardScaler().fit_transform(x))
    logits = torch.from_numpy(x) @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    assert folds == 5 and n_untold == 0
    assert np.abs(logits.softmax(1).numpy() - wanted).max() < 0.01
    assert held_out.shape == (len(y), n_classes) and np.allclose(held_out.sum(1), 1)


def test_parts_of_the_features_count_alike_however_many_columns_they_have():
    """Each column divided by the root of its part's width, as scikit-learn is given them here by hand."""
    x, y = clouds(3, f=90)
    widths = (10, 80)
    weight, bias, strength, *_ = fit_linear(x, y, 3, widths=widths)
    scaled = StandardScaler().fit_transform(x) / np.repeat(np.sqrt([10 / 45, 80 / 45]), widths)
    wanted = LogisticRegression(C=strength, max_iter=2000, tol=1e-8).fit(scaled, y).predict_proba(scaled)
    logits = torch.from_numpy(x) @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    assert np.abs(logits.softmax(1).numpy() - wanted).max() < 0.01
    assert np.abs(weight - fit_linear(x, y, 3).weight).max() > 1e-4


def test_a_feature_that_hardly_varies_in_training_cannot_decide_elsewhere():
    x, y = clouds(2, f=20)
    x[:, 5] = 1e-5 * y  # tells the classes, by a hair
    weight, bias, *_ = fit_linear(x, y, 2)
    x[:, 5] = 3 * (1 - y)  # what it may be in another image: as much as other features vary, and against its class
    assert ((x @ weight.T + bias).argmax(1) == y).all()


def overlapping(n=2000, rare=100, seed=1):
    """Two classes of one feature, a distance of 2 apart: log odds are 2 x - 2 + log(rare / others)."""
    y = (np.arange(n) < rare).astype(int)
    return np.random.default_rng(seed).normal(size=(n, 1)).astype(np.float32) + 2 * y[:, None], y


@pytest.mark.parametrize("balance", ["none", "loss", "sampling", "focal", "logits"])
def test_probabilities_stand_for_the_frequencies_whatever_the_balance(balance):
    x, y = overlapping()
    fit = fit_linear(x, y, 2, balance=balance)
    slope, offset = fit.weight[1, 0] - fit.weight[0, 0], fit.bias[1] - fit.bias[0]
    assert slope == pytest.approx(2, abs=0.3) and offset == pytest.approx(-2 + np.log(100 / 1900), abs=0.45)
    probs = 1 / (1 + np.exp(-(x[:, 0] * slope + offset)))
    assert probs.mean() == pytest.approx(0.05, rel=0.1)
    assert fit.held_out[:, 1].mean() == pytest.approx(0.05, rel=0.1)
    assert np.allclose(fit.held_out.sum(1), 1)


@pytest.mark.parametrize("balance", ["none", "loss", "sampling", "focal", "logits"])
def test_so_do_those_of_several_labels(balance):
    x, y = overlapping()
    other = x[:, 0] > 0.5
    fit = fit_linear(x, np.stack([y, other], 1).astype(float), 2, balance=balance)
    probs = 1 / (1 + np.exp(-(x @ fit.weight.T + fit.bias)))
    assert probs[:, 0].mean() == pytest.approx(0.05, rel=0.1)
    assert fit.held_out[:, 0].mean() == pytest.approx(0.05, rel=0.1)


def test_the_weights_of_a_loss_function_are_obeyed():
    """Weights that make both classes as frequent put the border half-way; those of none leave it where it is."""
    x, y = overlapping()
    fit = fit_linear(x, y, 2, weights=np.array([100 / 1900, 1.0]))
    border = -(fit.bias[1] - fit.bias[0]) / (fit.weight[1, 0] - fit.weight[0, 0])
    assert border == pytest.approx(1, abs=0.2)
    plain = fit_linear(x, y, 2)
    border = -(plain.bias[1] - plain.bias[0]) / (plain.weight[1, 0] - plain.weight[0, 0])
    assert border == pytest.approx(1 + np.log(19) / 2, abs=0.3)


def test_each_label_of_multi_label_is_its_own():
    x, y = clouds(3)
    targets = np.stack([y == 0, (y == 1) | (y == 0), np.zeros_like(y)], 1).astype(float)
    weight, bias, *_ = fit_linear(x, targets, 3)
    probs = 1 / (1 + np.exp(-(x @ weight.T + bias)))
    assert ((probs[:, :2] > 0.5) == (targets[:, :2] > 0.5)).mean() > 0.97
    assert (probs[:, 2] < 0.01).all()  # a label that no training image has


def test_a_class_without_training_images_is_not_predicted():
    x, y = clouds(2)
    weight, bias, *_ = fit_linear(x, np.where(y == 1, 2, 0), 3)
    logits = x @ weight.T + bias
    assert set(logits.argmax(1)) == {0, 2}


def test_patients_are_kept_together_when_the_penalty_is_chosen():
    """Features that name the patient look perfect to random folds and worthless to patient folds."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 10)
    y = (patients % 2).astype(int)
    x = (np.eye(40)[patients] * 5 + rng.normal(size=(400, 40)) * 0.1).astype(np.float32)
    alone, grouped = fit_linear(x, y, 2), fit_linear(x, y, 2, groups=patients)
    assert grouped.folds == 5 and grouped.strength < alone.strength
    right = [(fit.held_out.argmax(1) == y).mean() for fit in (alone, grouped)]
    assert right[0] > 0.99 and right[1] < 0.7  # what held-out patients say of them is honest


def test_too_few_images_of_a_class_are_said():
    x, y = clouds(2, n=10)
    y[:] = 0
    y[0] = 1
    with pytest.warns(MedclfWarning, match="too few"):
        fit_linear(x, y, 2)


def test_repeats_exactly():
    x, y = clouds()
    first, second = fit_linear(x, y, 3), fit_linear(x, y, 3)
    assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])


def test_one_image_of_a_class_leaves_the_others_their_cross_validation():
    """Its own image is judged by nobody; elsewhere it has its share, and the rest is scikit-learn's on the others."""
    x, y = clouds(2, n=61)
    y[60] = 2
    with pytest.warns(MedclfWarning, match="too few images of a class"):
        fit = fit_linear(x, y, 3)
    with_others = fit_linear(x[:60], y[:60], 2)
    assert fit.folds == 5 and np.isnan(fit.held_out[60]).all()
    judged = fit.held_out[:60]
    assert np.isfinite(judged).all() and np.allclose(judged.sum(1), 1)
    assert (judged.argmax(1) == y[:60]).mean() == (with_others.held_out.argmax(1) == y[:60]).mean()


def test_a_label_of_few_images_leaves_the_other_labels_their_cross_validation():
    x, y = clouds(2, n=60)
    one = (np.arange(60) == 7).astype(int)
    with pytest.warns(MedclfWarning, match="too few images of a class"):
        fit = fit_linear(x, np.stack([y, one, np.ones(60)], 1), 3)
    others = np.arange(60) != 7
    assert (
        np.isnan(fit.held_out[7, 1])
        and np.allclose(fit.held_out[others, 1], 1 / 60)
        and (fit.held_out[:, 2] > 0.98).all()
    )
    assert ((fit.held_out[:, 0] > 0.5) == y).mean() > 0.9


@pytest.mark.parametrize("seed", range(4))
def test_features_that_tell_nothing_leave_the_frequencies(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(100, 200)).astype(np.float32), (np.arange(100) % 5 == 0).astype(int)
    fit = fit_linear(x, y, 2)
    probs = 1 / (1 + np.exp(x @ (fit.weight[0] - fit.weight[1]) + fit.bias[0] - fit.bias[1]))
    assert fit.strength == min(STRENGTHS) and fit.n_untold == 1 and np.abs(probs - 0.2).max() < 0.02


def test_a_gain_that_is_hardly_sure_is_kept_in_part():
    """Gains of 1 and 3 nats: 2 on average, standard error 1 / sqrt(2), so 1 - (1 / sqrt(8)) ** 2 = 7/8 is kept."""
    first = np.array([[np.exp(-2), 1 - np.exp(-2)], [np.exp(-4), 1 - np.exp(-4)]])
    second = np.array([[np.exp(-1), 1 - np.exp(-1)]] * 2)
    y, weights = np.zeros(2, int), np.ones(2)
    assert _sure_part(np.stack([first, second]), y, weights, None) == pytest.approx(7 / 8)
    assert _sure_part(np.stack([second, first]), y, weights, None) == 0  # a loss
    assert _sure_part(np.stack([first, first]), y, weights, None) == 0
    assert _sure_part(np.stack([first, second]).repeat(100, axis=1), y.repeat(100), weights.repeat(100), None) > 0.99


def held_out_brier(signal, seed, n=400):
    """Brier score of new patients, relative to that of the frequency; five images a patient, one in five with it."""
    rng = np.random.default_rng(seed)
    patients = np.repeat(np.arange(2 * n // 5), 5)
    y = (rng.random(2 * n // 5) < 0.2).astype(int)[patients]
    x = rng.normal(size=(2 * n // 5, 60))[patients] + rng.normal(size=(2 * n, 60)) * 0.5
    x[:, 0] += signal * y
    fit = fit_linear(x[:n].astype(np.float32), y[:n], 2, patients[:n])
    logits = x[n:] @ (fit.weight[1] - fit.weight[0]) + fit.bias[1] - fit.bias[0]
    probs, share = 1 / (1 + np.exp(-logits)), y[:n].mean()
    return ((probs - y[n:]) ** 2).mean() / ((share - y[n:]) ** 2).mean()


def test_labels_without_signal_get_their_frequency_and_others_keep_what_is_learnt():
    assert max(held_out_brier(0, seed) for seed in range(3, 6)) < 1.01
    assert max(held_out_brier(1, seed) for seed in range(5, 8)) < 1.015  # what little is learnt is not told too boldly
    assert max(held_out_brier(6, seed) for seed in range(3)) < 0.25


def test_of_very_many_classes_the_first_fold_says_which_strengths_the_others_try(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(240) % 12
    x = (rng.normal(0, 0.7, (12, 40))[y] + rng.normal(0, 1, (240, 40))).astype(np.float32)
    every = fit_linear(x, y, 12)
    fits: list[int] = []
    monkeypatch.setattr(probe, "fit_path", lambda *args, **how: fits.append(len(args[3])) or fit_path(*args, **how))
    monkeypatch.setattr(probe, "_VAST", 0)
    some = fit_linear(x, y, 12)
    assert fits[0] == len(STRENGTHS) and max(fits[1:]) < fits[0]
    assert some.strength == every.strength
    np.testing.assert_allclose(some.held_out, every.held_out, atol=0.01)
    np.testing.assert_allclose(some.weight, every.weight, atol=1e-4)
