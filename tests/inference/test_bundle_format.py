"""bundle.json: what is not as save_bundle writes it is refused in one named error, before anything is built."""

import copy
import json
import time

import pytest

from medclf.errors import BundleError
from medclf.inference.bundle import load_bundle, save_bundle
from medclf.inference.bundle_format import content_hash, parse, read
from medclf.metrics.ood import ood_fit

from .conftest import fake_learn


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    import numpy as np

    features = np.random.default_rng(0).normal(size=(60, 1280))
    calibration = {"temperature": 1.5, "abstain": {"threshold": 0.6}, "ood": ood_fit(features)}
    folder = save_bundle(fake_learn(), tmp_path_factory.mktemp("b") / "a.bundle", calibration=calibration)
    return json.loads((folder / "bundle.json").read_text())


def with_value(content, path, value):
    changed = copy.deepcopy(content)
    *parents, last = path
    place = changed
    for key in parents:
        place = place[key]
    place[last] = value
    return changed


def written(content):
    """With a hash of its own, as whoever forges a bundle would write it."""
    return json.dumps(content | {"hash": content_hash(content)})


TEMPERATURE = ("calibration", "temperature")
OOD = ("calibration", "ood")


def test_the_genuine_one_passes(saved):
    assert parse(written(saved), "x")["recipe"] == saved["recipe"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (TEMPERATURE, 10**400),
        (("recipe", "normalization", "mean", 0), 10**400),
        (("recipe", "preprocessing", "size"), [10**30, 64]),
        (("recipe", "preprocessing", "size"), [4096, 4096]),
        (("recipe", "preprocessing", "size"), [0, 64]),
        (("golden", "logits", 0, 0), float("inf")),
        (("golden", "logits", 1, 2), float("nan")),
        (TEMPERATURE, 1e-310),
        (TEMPERATURE, -1.0),
        (TEMPERATURE, float("inf")),
        (("calibration", "abstain", "threshold"), -1),
        ((*OOD, "rest"), -1),
        ((*OOD, "rest"), 0),
        ((*OOD, "threshold"), -5),
        ((*OOD, "threshold"), float("nan")),
        ((*OOD, "quantile"), 1.5),
        (("card", "note"), "half a pair: \ud800"),
        (("recipe", "vocab", 0), "\udfff"),
    ],
)
def test_values_that_no_bundle_has_are_refused(saved, path, value):
    with pytest.raises(BundleError, match="description"):
        parse(written(with_value(saved, path, value)), "the description")


def test_numbers_beyond_a_float_are_refused_in_any_place(saved):
    text = written(saved).replace('"temperature": 1.5', '"temperature": 1e999')
    with pytest.raises(BundleError, match="finite numbers"):
        parse(text, "x")


def test_a_size_is_refused_before_it_costs_anything(tmp_path):
    folder = save_bundle(fake_learn(), tmp_path / "a.bundle")
    content = json.loads((folder / "bundle.json").read_text())
    content = with_value(content, ("recipe", "preprocessing", "size"), [4096, 4096])
    (folder / "bundle.json").write_text(written(content))
    started = time.process_time()
    with pytest.raises(BundleError, match="pixels"):
        load_bundle(folder)
    assert time.process_time() - started < 5


def test_a_missing_folder_is_called_missing(tmp_path):
    with pytest.raises(BundleError, match=r"nope does not exist"):
        load_bundle(tmp_path / "nope")


def test_the_run_around_a_bundle_is_told_from_the_bundle(tmp_path):
    save_bundle(fake_learn(), tmp_path / "run" / "bundle")
    with pytest.raises(BundleError, match="it has no bundle") as error:
        load_bundle(tmp_path / "run")
    assert error.value.remedy == f"give {tmp_path / 'run' / 'bundle'}"


def test_a_file_in_place_of_a_bundle_s_folder_is_called_one(tmp_path):
    (tmp_path / "m.pth").write_bytes(b"weights")
    with pytest.raises(BundleError, match=r"is a file, where a bundle's folder is meant"):
        read(tmp_path / "m.pth")
