"""Which maps of where the model looked a report gets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medclf.errors import MedclfWarning
from medclf.images.heatmap import check_places
from medclf.images.preprocessing import Preprocessing
from medclf.results.maps import ACTUAL, described, map_pictures, save_maps, with_maps
from medclf.results.predictions import Predictions, losses_of


def test_an_error_has_a_map_of_each_class_and_a_correct_answer_one() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    y = np.array([0, 0, -1])  # correct, wrong, unknown
    table = pd.DataFrame({"path": ["a.png", "b.png", "c.png"], "height": 30, "width": 40})
    predictions = Predictions(["dark", "light"], False, y, probs, losses_of(y, probs, False), table)
    asked: list[tuple[str, str]] = []

    def maps(files, labels):
        asked.extend((file.name, label) for file, label in zip(files, labels, strict=True))
        return [np.ones((4, 4), np.float32) for _ in files]

    found = map_pictures(predictions, Path("data"), maps, Preprocessing((8, 8)), limit=3)
    assert sorted(asked) == [("a.png", "dark"), ("b.png", "dark"), ("b.png", "light"), ("c.png", "dark")]
    assert set(found) == {"a.png", "b.png", "c.png", f"{ACTUAL}b.png"}
    assert described(found)["saliency"]["n_images"] == 3
    rows = with_maps(table, found)
    assert (rows["saliency"] != "").all() and (rows["saliency_actual"] != "").tolist() == [False, True, False]
    assert with_maps(table, {}) is table


def test_what_is_too_coarse_to_show_where_is_said_in_place_of_maps(tmp_path) -> None:
    probs = np.array([[0.9, 0.1]])
    table = pd.DataFrame({"path": ["a.png"], "height": 30, "width": 40})
    predictions = Predictions(["dark", "light"], False, np.array([0]), probs, np.zeros(1), table)

    def maps(files, labels):
        check_places((len(files), 1, 3))

    with pytest.warns(MedclfWarning, match="the feature map has 1 x 3 places: too coarse to show where"):
        found = map_pictures(predictions, Path("data"), maps, Preprocessing((8, 8)), limit=3)
    told = "Not shown: the feature map has 1 x 3 places: too coarse to show where."
    assert described(found) == {"saliency": {"method": "Grad-CAM", "n_images": 0, "note": told}}
    assert with_maps(table, found) is table and described({}) == {}
    save_maps(tmp_path, found)
    assert not any(tmp_path.iterdir())
    check_places((1, 5, 2, 2))
