import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from medclf.errors import DataError
from medclf.images.box_places import iou
from medclf.metrics.detection import Detections, centres_in
from medclf.metrics.intervals import wilson

SIDES = ["x_min", "y_min", "x_max", "y_max"]


def boxes(*rows: tuple) -> pd.DataFrame:
    """(path, label, x_min, y_min, x_max, y_max[, prob])"""
    return pd.DataFrame(rows, columns=["path", "label", *SIDES, "prob"][: len(rows[0]) if rows else 7])


def drawn(seed: int, n_images: int = 25) -> tuple[list[str], pd.DataFrame, pd.DataFrame]:
    """Findings of two labels, and predictions near them, doubled, missing and out of the air."""
    random = np.random.default_rng(seed)
    given, predicted = [], []
    for number in range(n_images):
        path = f"{number}.png"
        for _ in range(random.integers(0, 4)):
            label = str(random.choice(["polyp", "ulcer"]))
            x, y, w, h = random.uniform(0, 60), random.uniform(0, 60), *random.uniform(10, 40, 2)
            given.append((path, label, x, y, x + w, y + h))
            for _ in range(random.integers(0, 3)):
                a, b, c, d = np.array([x, y, x + w, y + h]) + random.normal(0, 4, 4)
                predicted.append((path, label, min(a, c - 1), min(b, d - 1), c, d, random.uniform(0.3, 1)))
        for _ in range(random.integers(0, 3)):
            x, y = random.uniform(0, 60, 2)
            predicted.append((path, "polyp", x, y, x + 20, y + 20, random.uniform(0, 0.8)))
    return [f"{number}.png" for number in range(n_images)], boxes(*given), boxes(*predicted)


def coco_stats(images: list[str], given: pd.DataFrame, predicted: pd.DataFrame) -> np.ndarray:
    labels = sorted(set(given["label"]))

    def rows(frame: pd.DataFrame) -> list[dict]:
        return [
            {
                "image_id": images.index(row.path),
                "category_id": labels.index(row.label),
                "bbox": [row.x_min, row.y_min, row.x_max - row.x_min, row.y_max - row.y_min],
            }
            for row in frame.itertuples()
        ]

    truth = COCO()
    annotations = [
        row | {"id": i + 1, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]} for i, row in enumerate(rows(given))
    ]
    categories = [{"id": i, "name": label} for i, label in enumerate(labels)]
    truth.dataset = {
        "images": [{"id": i} for i in range(len(images))],
        "annotations": annotations,
        "categories": categories,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found = truth.loadRes([row | {"score": p} for row, p in zip(rows(predicted), predicted["prob"], strict=True)])
        judged = COCOeval(truth, found, "bbox")
        judged.evaluate()
        judged.accumulate()
        judged.summarize()
    return judged.stats


@pytest.mark.parametrize("seed", range(6))
def test_map_is_that_of_pycocotools(seed: int) -> None:
    images, given, predicted = drawn(seed)
    found, wanted = Detections(images, given, predicted), coco_stats(images, given, predicted)
    assert 0.05 < wanted[0] < 0.95
    assert found.value("map") == pytest.approx(wanted[0], abs=1e-9)
    assert found.value("map50") == pytest.approx(wanted[1], abs=1e-9)


def test_a_weight_of_two_is_an_image_that_stands_there_twice() -> None:
    images, given, predicted = drawn(3, 8)
    twice = [frame.assign(path="again-" + frame["path"]) for frame in (given, predicted)]
    both = Detections(
        [*images, *(f"again-{path}" for path in images)], pd.concat([given, twice[0]]), pd.concat([predicted, twice[1]])
    )
    one = Detections(images, given, predicted)
    for label in one.vocab:
        np.testing.assert_allclose(
            one.average_precision(label, np.full(8, 2.0)), both.average_precision(label), atol=1e-12
        )
    np.testing.assert_allclose(one.sensitivities(np.full((1, 8), 2.0)), both.sensitivities())


def test_overlap_and_centres_by_hand() -> None:
    one = np.array([[0.0, 0, 10, 10]])
    assert iou(one, np.array([[0.0, 0, 10, 5]]))[0, 0] == 0.5
    assert iou(one, np.zeros((0, 4))).shape == (1, 0)
    assert centres_in(one, np.array([[4.0, 4, 6, 6], [6, 6, 20, 20]])).tolist() == [[True, False]]


def test_froc_by_hand() -> None:
    """Four images, two findings: the second one is only found once one false alarm an image is let through."""
    images = ["a", "b", "c", "d"]
    given = boxes(("a", "polyp", 0, 0, 10, 10), ("b", "polyp", 0, 0, 10, 10))
    alarms = [(path, "polyp", 50, 50, 60, 60, 0.8) for path in images]
    predicted = boxes(("a", "polyp", 0, 0, 10, 10, 0.9), ("b", "polyp", 1, 1, 9, 9, 0.5), *alarms)
    found = Detections(images, given, predicted)
    assert found.sensitivities()[0].tolist() == [0.5, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert found.value("froc") == pytest.approx(5.5 / 7)
    assert found.value("hit_rate", 0.6) == 0.5
    assert found.value("false_alarms", 0.6) == 1.0
    assert found.value("first_hit_rate", 0.6) == 0.5
    assert found.best_threshold() == 0.9


def test_two_predictions_in_one_finding_are_no_false_alarm_but_one_of_them_is_wrong_for_coco() -> None:
    given = boxes(("a", "polyp", 0, 0, 10, 10))
    twice = boxes(("a", "polyp", 0, 0, 10, 10, 0.8), ("a", "polyp", 0, 0, 10, 9, 0.9))
    found = Detections(["a"], given, twice)
    assert found.value("false_alarms", 0.1) == 0
    assert found.average_precision("polyp").tolist() == [1.0] * 9 + [0.5]  # at 0.95 only the second one is right


def test_a_label_that_was_never_given_is_a_false_alarm() -> None:
    given = boxes(("a", "polyp", 0, 0, 10, 10))
    found = Detections(["a"], given, boxes(("a", "ulcer", 0, 0, 10, 10, 0.9)))
    assert found.value("false_alarms", 0.5) == 1 and found.value("hit_rate", 0.5) == 0


def test_nothing_predicted_and_nothing_given() -> None:
    given, none = boxes(("a", "polyp", 0, 0, 10, 10)), boxes().iloc[:0]
    found = Detections(["a", "b"], given, none).estimates(0.5, n_boot=50)
    assert found["map"].value == 0 and found["hit_rate"].value == 0 and found["false_alarms"].value == 0
    assert found["hit_rate"].low == 0 and found["hit_rate"].high > 0.3
    nothing = Detections(["a"], none, none).estimates(0.5)
    assert np.isnan(nothing["map"].value) and "no finding" in nothing["map"].note
    with pytest.raises(DataError, match="not among the images"):
        Detections(["b"], given, none)


def test_intervals_hold_the_value_and_widen_with_patients() -> None:
    images, given, predicted = drawn(1, 60)
    alone = Detections(images, given, predicted).estimates(0.5, n_boot=200)
    few = Detections(images, given, predicted, [f"p{i % 6}" for i in range(60)]).estimates(0.5, n_boot=200)
    for name, one in alone.items():
        assert one.low <= one.value <= one.high, name
        assert few[name].value == pytest.approx(one.value), name
    assert few["map"].high - few["map"].low > alone["map"].high - alone["map"].low


def test_where_each_image_has_one_finding_the_interval_is_about_wilsons() -> None:
    images = [str(number) for number in range(60)]
    given = boxes(*((path, "polyp", 0, 0, 10, 10) for path in images))
    found = Detections(images, given, given[:42].assign(prob=0.9)).estimates(0.5)["hit_rate"]
    assert found.value == 0.7
    assert (found.low, found.high) == pytest.approx(wilson(42, 60), abs=0.02)
