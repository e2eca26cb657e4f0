"""What a learner says of loaders with other labels than its network's."""

import numpy as np
import pytest
from PIL import Image

from medclf.errors import DataError
from medclf.learn.dataloaders import MedDataLoaders
from medclf.learn.learner import med_learner


def loaders(folder, labels):
    for label in labels:
        for number in range(4):
            path = folder / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    return MedDataLoaders.from_folder(folder, size=32, cache=False, progress=False)


def test_a_network_is_not_given_loaders_of_other_labels(tmp_path):
    dls = loaders(tmp_path / "one", "abc")
    learn = med_learner(dls, "resnet18", weights=None)
    with pytest.raises(DataError, match="have the labels x, y, z, and the network predicts a, b, c"):
        learn.dls = loaders(tmp_path / "two", "xyz")
    assert learn.dls is dls
    again = learn.dls = loaders(tmp_path / "three", "abc")
    assert learn.dls is again
