"""Settings are checked when they are made, come back from run.json, and read alike on both roads."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from medclf.config import TrainConfig
from medclf.dataset.scan import scan
from medclf.dataset.splits import split_table
from medclf.errors import DataError, argument, in_shell
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner
from medclf.learn.presets import tfms_for
from medclf.learn.stores import decoding
from medclf.options import options
from medclf.run.audit import audit_run


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": -1}, "epochs must be 0 or more, not -1"),
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"size": 8}, "size must be 32 or more, not 8"),
        ({"size": (16, 64)}, "size must be 32 or more, not 16"),
        ({"size": 100_000}, "size must be 4096 or less, not 100000"),
        ({"size": (64, 5000)}, "size must be 4096 or less, not 5000"),
        ({"size": (224, 128)}, "size must end with the largest, not be 224,128"),
        ({"valid_pct": 1.0}, "valid_pct must be between 0 and 1, not 1"),
        ({"valid_pct": 20}, "for 20 % write valid_pct=0.2"),
        ({"keep_accuracy": 95}, "for 95 % write keep_accuracy=0.95"),
        ({"prevalence": float("nan")}, "prevalence must be between 0 and 1, not nan"),
        ({"folds": 1}, "folds must be 2 or more, not 1"),
        ({"lr": 0.0}, "lr must be above 0, not 0"),
        ({"budget": float("inf")}, "budget must be above 0, not inf"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
        ({"test": ""}, "test is empty"),
        ({"tabular": ["age", ""]}, "tabular is empty"),
        ({"bs": True}, "bs must be a whole number, not True"),
        ({"split": "stratifed"}, "did you mean 'stratified'?"),
        ({"resize": "stretch"}, "resize must be squish, crop or pad, not 'stretch'"),
        ({"frame": "frist"}, "did you mean 'first'?"),
        ({"modality": "colonoscopy"}, "modality must be endoscopy, radiograph"),
        ({"cache": "no"}, "cache must be True or False, not 'no'"),
    ],
)
def test_values_that_an_option_cannot_have(changes, says):
    with pytest.raises(DataError) as found:
        TrainConfig(data="x", out="y", **changes)
    assert says in str(found.value)


def test_the_shell_is_told_of_options():
    with in_shell(), pytest.raises(DataError) as found:
        TrainConfig("x", "y", valid_pct=20)
    assert str(found.value) == "--valid-pct must be between 0 and 1, not 20\nfor 20 % write --valid-pct 0.2"
    with pytest.raises(DataError, match=r"^valid_pct must"):
        TrainConfig("x", "y", valid_pct=20)


def test_what_turns_an_option_off_is_called_as_the_shell_has_it():
    with in_shell():
        told = {name: argument(name, False) for name, one in options(TrainConfig).items() if "bool" in str(one.kind)}
    shown = {name: "/".join(options(TrainConfig)[name].option.flags).partition("/")[2] for name in told}
    assert {shown[name] or f"--no-{name.replace('_', '-')}" for name in told} == set(told.values())
    assert told["hide_names"] == "--show-names" and told["linear_probe"] == "--no-linear-probe"


def test_none_may_be_written_as_a_word():
    words = dict.fromkeys(("weights", "window", "modality", "split", "device", "train_from"), "none")
    assert TrainConfig("x", "y", **words) == TrainConfig("x", "y", **dict.fromkeys(words))
    assert TrainConfig("x", "y", positive="none").positive == "none"  # a class may be called so


BY_PATIENT = {"unit": "patient", "split": "patient"}


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ({}, "auto"),
        ({"epochs": 3}, "tune"),
        ({"weights": None}, "tune"),
        (BY_PATIENT, "probe"),
        ({"tabular": ["age"]}, "probe"),
        ({**BY_PATIENT, "epochs": 3}, "tune"),
        ({**BY_PATIENT, "weights": None}, "tune"),
        ({**BY_PATIENT, "recipe": "auto"}, "auto"),
        ({**BY_PATIENT, "budget": 5}, "auto"),
    ],
)
def test_what_stands_on_frozen_features_trains_the_probe_unless_asked_otherwise(given, way):
    assert TrainConfig("DATA", "RUN", **given).way == way


def test_a_unit_and_columns_beside_single_images_are_refused():
    with pytest.raises(DataError, match="tabular stands beside single images, and unit answers for several"):
        TrainConfig("DATA", "RUN", **BY_PATIENT, tabular=["age"])


def test_settings_come_back_from_json():
    config = TrainConfig(Path("d"), Path("o"), window=(40, 400), label_col=["a", "b"], size=(96, 128, 224), frame=3)
    assert (config.data, config.size, config.first_sizes) == ("d", 224, (96, 128))
    kept = json.loads(json.dumps(config.as_dict()))
    assert TrainConfig.from_dict(kept) == config
    assert TrainConfig.from_dict(kept, size=(64,)).first_sizes == ()
    assert TrainConfig("d", "o", label_col=["a"]).label_col == "a"
    with pytest.raises(DataError, match="did you mean 'size'"):
        TrainConfig.from_dict(config.as_dict() | {"sise": 3})


def test_it_is_light():
    code = (
        "import sys, medclf.config, medclf.cli; print({'torch', 'numpy', 'pandas', 'fastai', 'PIL'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# As the weights and as the table have it; and the rate of fastai's Learner, where the shell plans.
OTHERWISE = {"linear_probe", "split", "lr"}
CALLED = {"n_folds": "folds"}


@pytest.mark.parametrize(
    "function", [scan, split_table, MedDataLoaders.from_table, decoding, med_learner, tfms_for, audit_run]
)
def test_python_has_the_defaults_of_the_shell(function):
    known = options(TrainConfig)
    given = inspect.signature(function).parameters.items()
    shared = {CALLED.get(name, name): one.default for name, one in given if one.default is not one.empty}
    shared = {name: default for name, default in shared.items() if name in {*known} - OTHERWISE}
    assert shared == {name: known[name].default for name in shared} != {}
