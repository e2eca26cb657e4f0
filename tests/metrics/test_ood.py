import json

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_sample_images
from sklearn.decomposition import PCA

from medclf.errors import DataError
from medclf.metrics.ood import OodDetector, ood_fit


def usual(n, seed, d=40):
    """Features on a few main axes, like a network's."""
    rng = np.random.default_rng(seed)
    axes = np.random.default_rng(0).normal(size=(6, d))
    return rng.normal(size=(n, 6)) @ axes + 0.3 * rng.normal(size=(n, d)) + 5


def test_score_is_that_of_probabilistic_pca():
    """scikit-learn's PCA scores samples by the log-likelihood of the same model."""
    train, test = usual(400, 1), usual(50, 2)
    detector = ood_fit(train)
    pca = PCA(len(detector.spread)).fit(train)
    likelihood = pca.score_samples(test)
    ours = -0.5 * detector.score(test) * train.shape[1]
    assert np.diff(ours) == pytest.approx(np.diff(likelihood), rel=0.02, abs=0.05)


def test_images_alike_pass_and_others_do_not():
    detector = ood_fit(usual(300, 1))
    assert detector.unlike(usual(1000, 2)).mean() < 0.05
    assert 0.7 < np.median(detector.score(usual(1000, 2))) < 1.5
    rng = np.random.default_rng(3)
    assert detector.unlike(rng.normal(size=(100, 40)) + 5).mean() > 0.9  # off the axes
    assert detector.unlike(usual(100, 4) * 3).all()  # along them, too far


def test_held_out_images_set_the_threshold():
    held_out = usual(500, 5)
    detector = ood_fit(usual(300, 1), held_out=held_out, quantile=0.9)
    assert detector.unlike(held_out).mean() == pytest.approx(0.1, abs=0.005)
    assert detector.threshold < ood_fit(usual(300, 1), held_out=held_out, quantile=0.99).threshold


def test_more_features_than_images():
    """In-sample scores would be far too small: the threshold comes from images out of fold."""
    train, fresh = usual(60, 1, d=400), usual(500, 2, d=400)
    detector = ood_fit(train)
    assert detector.unlike(fresh).mean() < 0.1


def test_patients_stay_in_one_fold():
    """Copies of an image in other folds would make each look familiar."""
    patients = np.repeat(np.arange(40), 8)
    train = np.repeat(usual(40, 1, d=100), 8, axis=0) + 1e-6
    honest, fooled = ood_fit(train, groups=patients), ood_fit(train)
    assert honest.threshold > 1.5 * fooled.threshold


def test_digits_against_photographs():
    digits = load_digits().data
    detector = ood_fit(digits[:1000])
    photo = load_sample_images().images[0][:400:50, :400:50].mean(axis=2).reshape(1, 64) / 16
    assert detector.unlike(digits[1000:]).mean() < 0.06
    assert detector.unlike(photo).all()


def test_state_goes_through_json_and_float32():
    detector, fresh = ood_fit(usual(200, 1)), usual(50, 2)
    facts = json.loads(json.dumps(detector.facts()))
    back = OodDetector.from_state(facts, {k: v.astype(np.float32) for k, v in detector.arrays().items()})
    assert back.score(fresh) == pytest.approx(detector.score(fresh), rel=1e-4)
    assert back.threshold == detector.threshold and back.n == 200


def test_constant_features_divide_nothing_by_zero():
    detector = ood_fit(np.ones((20, 5)))
    assert np.isfinite(detector.score(np.ones((3, 5)))).all()
    assert detector.unlike(np.full((1, 5), 2.0)).all()


def test_the_same_in_gives_the_same_out():
    assert ood_fit(usual(200, 1)).threshold == ood_fit(usual(200, 1)).threshold


@pytest.mark.parametrize(
    ("features", "options", "words"),
    [
        (np.zeros((3, 4)), {}, "too few"),
        (np.full((20, 4), np.nan), {}, "NaN"),
        (np.zeros((20, 4)), {"quantile": 99}, "quantile"),
        (np.zeros((20, 4)), {"groups": ["p"]}, "groups"),
    ],
)
def test_what_is_wrong_is_named(features, options, words):
    with pytest.raises(DataError, match=words):
        ood_fit(features, **options)
    with pytest.raises(DataError, match="backbone"):
        ood_fit(usual(50, 1)).score(np.zeros((2, 3)))
