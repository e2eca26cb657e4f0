"""The picture of what the augmentation does: its tiles are the image as it is, then changed ones."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medclf.demo_images import draw_endoscopy
from medclf.images.resize import resize_pixels
from medclf.learn.assess import assess
from medclf.learn.augmentation_picture import augmentation_picture, described
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_endoscopy(tmp_path_factory.mktemp("drawn"), n_per_class=4, size=(80, 80))


def tiles(uri):
    kind, _, encoded = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded)))).astype(float)
    return image.reshape(2, 128, 4, 128, 3).swapaxes(1, 2).reshape(8, 128, 128, 3)


@pytest.mark.parametrize("cache", [False, True])
def test_the_first_tile_is_the_image_and_the_others_are_changed(folder, cache):
    dls = MedDataLoaders.from_folder(folder, modality="endoscopy", size=64, bs=8, seed=1, cache=cache)
    first, *others = tiles(augmentation_picture(dls))
    file = resize_pixels(np.asarray(Image.open(dls.train_ds.items[0]).convert("RGB")), (64, 64), "squish")
    expected = np.asarray(Image.fromarray(file).resize((128, 128), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(first - expected).mean() < 4  # JPEG
    assert all(np.abs(other - expected).mean() > 8 for other in others)


def test_the_same_seed_draws_the_same_picture_and_leaves_the_random_state_alone(folder):
    dls = MedDataLoaders.from_folder(folder, modality="fundus", size=64, bs=8, seed=1)
    before = np.random.get_state()[1].copy()
    assert augmentation_picture(dls) == augmentation_picture(dls)
    assert (np.random.get_state()[1] == before).all()


def test_without_augmentation_there_is_none(folder):
    dls = MedDataLoaders.from_folder(folder, size=64, bs=8, seed=1)
    assert augmentation_picture(dls) == "" and described(dls) == {}


def test_an_image_that_may_not_be_shown_is_not(folder, monkeypatch):
    monkeypatch.setattr("medclf.learn.augmentation_picture.why_withheld", lambda path: "its burned-in flag is YES")
    dls = MedDataLoaders.from_folder(folder, modality="ct", size=64, bs=8, seed=1)
    assert augmentation_picture(dls) == ""
    told = described(dls)["augmentation"]
    assert "Hounsfield" in told["sentence"] and told["settings"]["min_zoom"] == 0.9


def test_the_results_keep_the_learner_s_own_settings_beside_those_of_the_augmentation(folder):
    dls = MedDataLoaders.from_folder(folder, modality="endoscopy", size=64, bs=8, seed=1, valid_pct=0.5)
    learn = med_learner(dls, "efficientnet_lite0")
    learn.fit_head()
    results = assess(learn, audit=False, saliency=0).results
    assert results["settings"]["arch"] == "efficientnet_lite0" and "preprocessing" in results["settings"]
    assert "polyp's outline" in results["augmentation"]["sentence"] and "sentence" not in results
