"""Settings that cannot be are refused before anything heavy is imported, and the names agree with those in use."""

import subprocess
import sys

import pytest

from medclf.dataset.splits import KINDS
from medclf.errors import DataError, MedclfError
from medclf.learn.presets import PRESETS
from medclf.run.config import MODALITIES, SPLITS, TrainConfig


def test_names_are_those_in_use():
    assert set(MODALITIES) == set(PRESETS)
    assert set(SPLITS) == set(KINDS)


@pytest.mark.parametrize(
    "changes", [{"epochs": -1}, {"size": 8}, {"valid_pct": 1.0}, {"folds": 1}, {"lr": 0.0}, {"bs": 0}]
)
def test_settings_that_cannot_be(changes):
    with pytest.raises(DataError, match="cannot be"):
        TrainConfig(data="x", out="y", **changes)


@pytest.mark.parametrize(
    "changes", [{"data": "gone"}, {"labels": "gone.csv"}, {"modality": "x"}, {"split": "x"}, {"weights": "gone.pth"}]
)
def test_what_can_be_seen_early(tmp_path, changes):
    with pytest.raises(MedclfError):
        TrainConfig(**({"data": str(tmp_path), "out": "y"} | changes)).check_early()


def test_a_dict_comes_back(tmp_path):
    config = TrainConfig(data="d", out="o", window=(40, 400), label_col=["a", "b"])
    assert TrainConfig.from_dict(config.as_dict()) == config
    with pytest.raises(DataError, match="later medclf"):
        TrainConfig.from_dict(config.as_dict() | {"colour": "blue"})


def test_an_early_mistake_loads_no_torch():
    code = (
        "import sys; sys.argv = ['medclf', 'train', 'nowhere', '--out', 'X']\n"
        "from medclf.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False"]
