"""What a bundle says of its network: 0.1's form is read, what cannot be is refused."""

import pytest

from medclf.errors import BundleError
from medclf.images.preprocessing import Preprocessing
from medclf.models.spec import LoaderSettings, ModelSpec, Normalization, SplitSettings

OF_0_1 = {
    "modality": "endoscopy",
    "vocab": ["normal", "polyp"],
    "multi_label": False,
    "preprocessing": {"size": [64, 64], "resize": "squish", "channels": 1, "window": None, "frame": "middle"},
    "split": {"kind": "random", "valid_pct": 0.2, "seed": 42, "fold": 0, "n_folds": 5},
    "bs": 16,
    "seed": 42,
    "arch": "resnet18",
    "weights": "default",
    "n_in": 1,
    "n_out": 2,
    "dropout": 0.2,
    "normalization": {"mean": [0.5], "std": [0.25]},
}


def test_a_recipe_of_0_1_is_read_and_written_alike():
    spec = ModelSpec.from_dict(OF_0_1)
    assert spec.as_dict() == OF_0_1
    assert (spec.n_in, spec.n_out, spec.preprocessing.size) == (1, 2, (64, 64))
    assert spec.settings == LoaderSettings("endoscopy", SplitSettings("random"), 16, 42)
    few = {key: OF_0_1[key] for key in OF_0_1.keys() - {"split", "bs", "seed", "weights", "modality"}}
    assert ModelSpec.from_dict(few).settings == LoaderSettings()


@pytest.mark.parametrize("key", sorted(OF_0_1.keys() - {"split", "bs", "seed", "weights", "modality"}))
def test_what_is_missing_or_of_another_kind_is_refused(key):
    with pytest.raises(BundleError):
        ModelSpec.from_dict({name: value for name, value in OF_0_1.items() if name != key})
    for value in (None, 7, "", [], {}, [None], float("nan")):
        if (key, value) in [("arch", "")]:
            continue
        with pytest.raises(BundleError):
            ModelSpec.from_dict(OF_0_1 | {key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab": ("a", "a")},
        {"dropout": 1.0},
        {"arch": "hub:evil"},
        {"normalization": Normalization((0.5,) * 3, (1.0,) * 3)},
    ],
)
def test_a_spec_that_no_network_has(changes):
    values = {"arch": "x", "vocab": ("a",), "preprocessing": Preprocessing(8, channels=1)}
    with pytest.raises(BundleError):
        ModelSpec(**({**values, "normalization": Normalization((0.5,), (0.5,))} | changes))
    with pytest.raises(BundleError):
        Normalization((0.5,), (0.0,))
