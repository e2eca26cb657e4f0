"""The linear probe on features of images and of their augmented views, each computed once."""

import numpy as np
import pytest
import torch
from torch import nn

from medclf.errors import DataError, MedclfWarning
from medclf.learn.features import image_features


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


def test_images_that_tell_nothing_are_said_to(make_images):
    from PIL import Image

    rng, names = np.random.default_rng(0), [f"{label}/{i}.png" for label in "ab" for i in range(12)]
    root = make_images(*names)
    for name in names:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / name)
    learn = learner(root, modality=None)
    with pytest.warns(MedclfWarning, match="does not surely tell the labels"):
        found = learn.fit_head(progress=False)
    assert found.n_untold == 1 and found.as_dict()["n_untold"] == 1


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_views_are_the_images_augmented_and_kept(drawn, monkeypatch):
    learn = learner(drawn)
    plain, _ = image_features(learn.model, learn.dls.train, keep=True, progress=False)
    first, targets = image_features(learn.model, learn.dls.train, keep=True, view=1, progress=False)
    second, _ = image_features(learn.model, learn.dls.train, keep=True, view=2, progress=False)
    assert first.shape == plain.shape and len(targets) == len(plain)
    for a, b in ((plain, first), (plain, second), (first, second)):
        assert np.abs(a - b).max() > 1e-3
    assert learn.fit_head(progress=False, views=2).views == 2 and learn.head.n_train == len(plain)
    monkeypatch.setattr("medclf.learn.features.extract", None)  # nothing is computed again
    again, _ = image_features(learn.model, learn.dls.train, keep=True, view=2, progress=False)
    assert np.array_equal(again, second)


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_a_view_of_an_image_is_the_same_whether_or_not_it_was_kept(drawn, tmp_path, monkeypatch):
    """Kept by a training on all images, where each has another position, and computed for the fold alone."""
    found = []
    for splits in (("kfold",), ("all", "kfold")):
        monkeypatch.setenv("MEDCLF_CACHE", str(tmp_path / str(len(splits))))
        for split in splits:
            learn = learner(drawn, split=split, n_folds=3, fold=0)
            features, _ = image_features(learn.model, learn.dls.train, keep=True, view=1, progress=False)
        found.append(features)
    assert np.allclose(found[0], found[1], atol=1e-5)


@pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")
def test_views_of_what_is_not_augmented_are_refused(drawn):
    with pytest.raises(DataError, match="views=1 needs augmentation, and the loaders augment nothing"):
        learner(drawn, modality=None).fit_head(progress=False, views=1)
