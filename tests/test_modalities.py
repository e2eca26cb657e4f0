"""The table of modalities: its rows are the options' choices, and each can be augmented with."""

import inspect
import json
from typing import get_args

import pytest
from fastai.vision.augment import aug_transforms

from medclf.config import TrainConfig
from medclf.errors import DataError
from medclf.learn.presets import endoscopy_tfms, tfms_for
from medclf.modalities import MODALITIES, Modality, Preset, changes_of
from medclf.run.config import check_early


def test_the_choices_are_the_rows():
    assert get_args(Modality) == tuple(MODALITIES)
    assert TrainConfig("data", "RUN", modality="fundus").modality == "fundus"


@pytest.mark.parametrize("modality", [*MODALITIES])
def test_each_row_has_a_reason_and_settings_that_augment_knows(modality):
    row = MODALITIES[modality]
    assert len(row.reason) > 20
    _, (augment,) = tfms_for(modality, 32)
    assert row.settings.items() <= augment.settings().items()


def test_one_more_row_is_one_more_modality(monkeypatch):
    monkeypatch.setitem(MODALITIES, "capsule", Preset("it tumbles", dict(max_rotate=180.0)))
    _, (augment,) = tfms_for("capsule", 32)
    assert augment.settings()["max_rotate"] == 180.0 and augment.settings()["flip_ud"] is False


def test_the_function_of_a_modality_is_its_row():
    assert endoscopy_tfms(32)[1][0].settings() == tfms_for("endoscopy", 32)[1][0].settings()
    assert endoscopy_tfms.__name__ == "endoscopy_tfms" and "lamp" in endoscopy_tfms.__doc__


def test_photo_is_what_fastai_does_by_default():
    usual = {name: one.default for name, one in inspect.signature(aug_transforms).parameters.items()}
    settings = tfms_for("photo", 32)[1][0].settings()
    assert settings["brightness"] == settings["contrast"] == usual["max_lighting"]
    assert (settings["flip_lr"], settings["flip_ud"]) == (usual["do_flip"], usual["flip_vert"])
    assert settings["p_rotate"] == usual["p_affine"]
    for name in ("max_rotate", "min_zoom", "max_zoom", "max_warp", "p_affine", "p_lighting"):
        assert settings[name] == usual[name], name


@pytest.mark.parametrize("aug", [{"max_rotate": 20, "flip_lr": False}, ["max_rotate=20", "flip_lr=false"]])
def test_numbers_of_a_preset_are_changed_from_python_and_from_the_shell(aug):
    config = TrainConfig("data", "RUN", modality="oct", aug=aug)
    again = TrainConfig.from_dict(json.loads(json.dumps(config.as_dict())))
    for one in (config, again):
        settings = tfms_for("oct", 32, **changes_of(one.aug))[1][0].settings()
        assert settings["max_rotate"] == 20 and settings["flip_lr"] is False and settings["max_shear"] == 5.0


@pytest.mark.parametrize(
    ("aug", "said"),
    [
        ({"max_rotat": 5}, "did you mean 'max_rotate'"),
        ({"max_rotate": 500}, "max_rotate must be a number from 0 to 180, not 500"),
        (["max_rotate=far"], "max_rotate must be a number from 0 to 180, not 'far'"),
        (["flip_lr=perhaps"], "flip_lr must be True or False"),
        (["hue=nan"], "hue must be a number from 0 to 0.5"),
        (["max_rotate"], "aug must be NAME=VALUE, not 'max_rotate'"),
    ],
)
def test_wrong_names_and_values_are_refused(aug, said):
    with pytest.raises(DataError) as error:
        tfms_for("oct", 32, **changes_of(aug))
    assert said in str(error.value)


def test_there_is_nothing_to_change_without_a_modality():
    with pytest.raises(DataError, match="without a modality"):
        tfms_for(None, 32, max_rotate=5)
    with pytest.raises(DataError, match="modality"):
        check_early(TrainConfig(".", "RUN", aug=["max_rotate=5"]))
