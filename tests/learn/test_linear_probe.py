"""The linear probe against scikit-learn's own logistic regression, and its guards against leaks."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from medclf.errors import DataError, MedclfWarning
from medclf.learn.linear_probe import fit_linear, stored_features


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
    weight, bias, strength, folds, held_out = fit_linear(x, y, n_classes)
    peer = LogisticRegression(C=strength, class_weight="balanced", max_iter=2000, tol=1e-8)
    wanted = peer.fit(StandardScaler().fit_transform(x), y).predict_proba(StandardScaler().fit_transform(x))
    logits = torch.from_numpy(x) @ torch.from_numpy(weight).T + torch.from_numpy(bias)
    assert folds == 5
    assert np.abs(logits.softmax(1).numpy() - wanted).max() < 0.01
    assert held_out.shape == (len(y), n_classes) and np.allclose(held_out.sum(1), 1)


def test_a_feature_that_hardly_varies_in_training_cannot_decide_elsewhere():
    x, y = clouds(2, f=20)
    x[:, 5] = 1e-5 * y  # tells the classes, by a hair
    weight, bias, *_ = fit_linear(x, y, 2)
    x[:, 5] = 3 * (1 - y)  # what it may be in another image: as much as other features vary, and against its class
    assert ((x @ weight.T + bias).argmax(1) == y).all()


def test_rare_classes_count_as_much_as_common_ones():
    """Both classes overlap alike: with balanced weights the border lies half-way whatever their numbers."""
    rng = np.random.default_rng(1)
    y = (np.arange(2000) < 100).astype(int)
    x = rng.normal(size=(2000, 1)).astype(np.float32) + 2 * y[:, None]
    weight, bias, *_ = fit_linear(x, y, 2)
    border = -(bias[1] - bias[0]) / (weight[1, 0] - weight[0, 0])
    assert abs(border - 1) < 0.2


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


def test_dropout_stands_before_the_linear_layer():
    from medclf.models.backbones import build_head

    head = build_head(8, 3)
    assert isinstance(head[-1], nn.Linear) and isinstance(head[-2], nn.Dropout)


@pytest.fixture
def drawn(tmp_path):
    from medclf.demo_images import draw_endoscopy

    return draw_endoscopy(tmp_path / "drawn", n_per_class=5, size=(48, 48))


def learner(folder, **kwargs):
    from medclf import MedDataLoaders, med_learner

    settings = {"modality": "endoscopy", "size": 32, "cache": True, "progress": False, "split": "stratified"}
    dls = MedDataLoaders.from_folder(folder, **(settings | kwargs))
    torch.manual_seed(0)
    return med_learner(dls, "resnet18", weights=None, linear_probe=True)


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_views_are_the_images_augmented_and_kept(drawn, monkeypatch):
    learn = learner(drawn)
    plain, _ = stored_features(learn.model, learn.dls.train, progress=False)
    first, targets = stored_features(learn.model, learn.dls.train, view=1, progress=False)
    second, _ = stored_features(learn.model, learn.dls.train, view=2, progress=False)
    assert first.shape == plain.shape and len(targets) == len(plain)
    for a, b in ((plain, first), (plain, second), (first, second)):
        assert np.abs(a - b).max() > 1e-3
    assert learn.fit_head(progress=False, views=2).views == 2 and learn.head.n_train == len(plain)
    monkeypatch.setattr("medclf.learn.linear_probe.body_features", None)  # nothing is computed again
    again, _ = stored_features(learn.model, learn.dls.train, view=2, progress=False)
    assert np.array_equal(again, second)


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_a_view_of_an_image_is_the_same_whether_or_not_it_was_kept(drawn, tmp_path, monkeypatch):
    """Kept by a training on all images, where each has another position, and computed for the fold alone."""
    found = []
    for splits in (("kfold",), ("all", "kfold")):
        monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / str(len(splits))))
        for split in splits:
            learn = learner(drawn, split=split, n_folds=3, fold=0)
            features, _ = stored_features(learn.model, learn.dls.train, view=1, progress=False)
        found.append(features)
    assert np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_views_of_what_is_not_augmented_are_refused(drawn):
    with pytest.raises(DataError, match="views=1 needs augmentation, and the loaders augment nothing"):
        learner(drawn, modality=None).fit_head(progress=False, views=1)
