"""The table of modalities: its rows are the options' choices, and each can be augmented with."""

from typing import get_args

import pytest

from medclf.config import TrainConfig
from medclf.learn.presets import endoscopy_tfms, tfms_for
from medclf.modalities import MODALITIES, Modality, Preset


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
