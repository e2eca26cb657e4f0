import numpy as np
import pandas as pd
import pytest

from medclf.auditing.fusion import TrainingRows, check_fields, column_names, fused, with_table
from medclf.errors import DataError
from medclf.results.predictions import Predictions


def drawn(n, seed, *, hint=1.0, image=1.0, many=False):
    """A label that the image and a column each know a part of; the column noise knows nothing."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    logit = image * (y - 0.5) * 2 + rng.normal(size=n)
    probs = 1 / (1 + np.exp(-logit))
    table = pd.DataFrame(
        {
            "path": [f"{seed}-{k}.png" for k in range(n)],
            "label": np.where(y == 1, "polyp", "normal"),
            "hint": hint * y + rng.normal(size=n),
            "noise": rng.normal(size=n),
            "sex": rng.choice(["f", "m"], n),
        }
    )
    if many:
        return np.stack([y], 1), probs[:, None], table
    return y, np.stack([1 - probs, probs], 1), table


def both(names, many=False, **kinds):
    y, probs, table = drawn(300, 1, many=many, **kinds)
    reported = drawn(200, 2, many=many, **kinds)
    vocab = ["polyp"] if many else ["normal", "polyp"]
    predictions = Predictions(vocab, many, reported[0], reported[1], np.zeros(200), reported[2])
    return predictions, with_table(predictions, TrainingRows(y, probs, table), names)


@pytest.mark.parametrize("many", [False, True])
def test_a_column_that_helps_is_used_and_three_models_stand_side_by_side(many):
    predictions, found = both(["hint", "sex"], many=many)
    section = found.section
    assert section["used"] and section["gain"]["low"] > 0 and "uses image and table" in section["sentence"]
    auroc = {name: row["auroc"]["value"] for name, row in section["numbers"].items()}
    assert list(auroc) == ["image alone", "table alone", "both"] and auroc["both"] > auroc["image alone"]
    difference = section["differences"]["both less image alone"]["auroc"]
    assert difference["value"] == pytest.approx(auroc["both"] - auroc["image alone"])
    assert found.calibration_set is not None and len(found.calibration_set) == 300
    assert np.abs(fused(predictions, found.fusion).probs - predictions.probs).max() > 0.05


def test_noise_is_left_out_and_said_so():
    _, found = both(["noise", "sex"])
    assert not found.section["used"] and found.fusion is None and found.calibration_set is None
    assert "uses the image alone" in found.section["sentence"] and not found.section["shortcuts"]


def test_a_column_that_does_as_well_alone_is_called_a_shortcut():
    _, found = both(["hint", "noise"], hint=3.0)
    (of_table, of_column) = found.section["shortcuts"]
    assert of_table.startswith("Shortcut: the table alone") and of_column.startswith("Shortcut: 'hint' alone")


def test_a_table_that_does_as_well_on_the_reported_images_alone_is_called_a_shortcut():
    """Where held-out training images speak for the image, those that are reported may not."""
    y, probs, table = drawn(300, 1, image=3.0)
    seen, weaker, of_seen = drawn(200, 2, image=0.5)
    predictions = Predictions(["normal", "polyp"], False, seen, weaker, np.zeros(200), of_seen)
    (sentence,) = with_table(predictions, TrainingRows(y, probs, table), ["hint"]).section["shortcuts"]
    assert sentence.startswith("Shortcut: on the reported images the table alone")


def test_unknown_and_unseen_values_are_counted():
    y, probs, table = drawn(100, 1)
    reported = drawn(50, 2)
    reported[2].loc[:9, "hint"] = None
    reported[2].loc[0, "sex"] = "x"
    predictions = Predictions(["normal", "polyp"], False, reported[0], reported[1], np.zeros(50), reported[2])
    notes = with_table(predictions, TrainingRows(y, probs, table), ["hint", "sex"]).section["notes"]
    unseen, unknown = (text for text in notes if "hint outside" not in text)
    assert unseen.startswith("No training image has sex=x (1 images): a category that is new counts as none")
    assert unknown == "'hint' is unknown in 10 of 50 images (20 %)."


def test_categories_that_each_go_with_one_label_may_be_patients():
    y, probs, table = drawn(100, 1)
    table["subject"] = [f"s{k % 10}{label}" for k, label in enumerate(y)]
    predictions = Predictions(["normal", "polyp"], False, y, probs, np.zeros(100), table)
    notes = with_table(predictions, TrainingRows(y, probs, table), ["subject", "sex"]).section["notes"]
    assert [text[:46] for text in notes if "one label alone" in text] == [
        "Each of the 20 values of 'subject' has trainin"
    ]


def test_numbers_that_may_be_codes_or_stand_for_unknown_are_named():
    y, probs, table = drawn(100, 1)
    table["site"], table["age"], table["male"] = np.arange(100) % 4 + 1, np.arange(100) + 20, np.arange(100) % 2
    for value in (-1, 999, 20, 130):
        table[f"age {value}"] = np.where(np.arange(100) % 10, np.arange(100) % 60 + 20, value)
    predictions = Predictions(["normal", "polyp"], False, y, probs, np.zeros(100), table)
    names = ["site", "age", "male", *(name for name in table if str(name).startswith("age "))]
    notes = with_table(predictions, TrainingRows(y, probs, table), names).section["notes"]
    assert [text for text in notes if "codes" in text] == [
        "'site' is read as a number, of 1, 2, 3, 4. If these are codes, write them as words."
    ]
    assert [text for text in notes if "stands for unknown" in text] == [
        f"'age {value}' is {value} in 10 training images, apart from all other values. "
        "If it stands for unknown, leave these cells empty."
        for value in (-1, 999)
    ]


def test_bad_columns_are_refused_by_name():
    *_, table = drawn(30, 1)
    table["dx"] = table["label"].str.upper()
    for name, said in (("dx", "the label itself"), ("sexx", "no column 'sexx'"), ("path", "not a field")):
        with pytest.raises(DataError, match=said):
            check_fields(table, [name])
    with pytest.raises(DataError, match=r"in every image.*\n(?!.*odd)"):
        check_fields(table.assign(odd=1), ["odd"])
    check_fields(table, ["hint", "sex"])
    assert column_names(("a,b", "a")) == ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["2020-01-03", "2020-02-11"], "holds dates, such as '2020-01-03'"),
        (["03.01.1950", "unknown"], "holds dates"),
        (["41,5", "38"], r"decimal commas, such as '41,5'"),
        (["3 000", "12\u202f500", "38"], "thousands set apart, such as '3 000'"),
        ([*map(str, range(40, 59)), "90+"], "57 of 60 values are numbers, and '90\\+' is none"),
        ([*map(str, range(40, 55)), *["<40"] * 15], "30 of 60 values are numbers, and '<40' is none"),
        ([f"{age:03}Y" for age in range(40, 60)], "numbers with a unit, such as '040Y'"),
        ([""], "unknown in every image"),
        (["x"], "is 'x' in every image"),
        ([f"c{k}" for k in range(60)], "looks like an ID"),
    ],
)
def test_a_column_that_is_neither_numbers_nor_categories_is_refused_before_the_training(cells, said):
    *_, table = drawn(60, 1)
    table["odd"] = [cells[k % len(cells)] for k in range(60)]
    with pytest.raises(DataError, match=said):
        check_fields(table, ["odd"])


def test_categories_that_look_a_little_like_numbers_stay_categories():
    *_, table = drawn(60, 1)
    for cells in (["3a", "3b", "4"], ["True", "False"], ["0 mm", "2 mm"], ["1-2", "3-5"], ["1", "2", "3", "4a"]):
        check_fields(table.assign(odd=[cells[k % len(cells)] for k in range(60)]), ["odd"])


def test_too_few_training_images_are_refused():
    y, probs, table = drawn(15, 1)
    predictions = Predictions(["normal", "polyp"], False, y, probs, np.zeros(15), table)
    with pytest.raises(DataError, match="15 training images are too few"):
        with_table(predictions, TrainingRows(y, probs, table), ["hint"])
