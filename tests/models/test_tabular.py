import json

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from medclf.errors import DataError
from medclf.models.tabular import TableEncoder, is_unknown

ROWS = {"age": [40, 60, None, 50, 80], "sex": ["f", "m", "f", "unknown", "M"]}


def test_encoding_is_scikit_learns():

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.normal(50, 20, 60), "site": rng.choice(["arm", "back", "leg"], 60)})
    table.loc[[3, 5], "age"] = np.nan
    new = pd.DataFrame({"age": [30.0, np.nan], "site": ["leg", "toe"]})  # a category that training did not have
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True))
    wanted = make_column_transformer((numbers, ["age"]), (OneHotEncoder(handle_unknown="ignore"), ["site"]))
    wanted.fit(table)
    scaler = StandardScaler().fit(wanted.transform(table)[:, :1])
    expected = wanted.transform(new)
    expected[:, :1] = scaler.transform(expected[:, :1])
    encoder, left_out = TableEncoder.fit(dict(table.items()))
    assert encoder.encode(dict(new.items())) == pytest.approx(expected) and not left_out
    again = TableEncoder.from_dict(json.loads(json.dumps(encoder.as_dict())))
    assert again == encoder


def test_columns_that_say_nothing_are_left_out_by_name():
    n = 40
    rows = {
        "constant": ["a"] * n,
        "empty": [None] * n,
        "id": [f"ISIC_{k}" for k in range(n)],
        "row": list(range(n)),
        "weight": np.random.default_rng(0).normal(70, 10, n).tolist(),
    }
    encoder, left_out = TableEncoder.fit(rows)
    assert encoder.names == ["weight"] and set(left_out) == {"constant", "empty", "id", "row"}
    assert "'a' in every" in left_out["constant"] and "ID" in left_out["id"] and "running number" in left_out["row"]
    with pytest.raises(DataError, match=r"no column is left.*constant"):
        TableEncoder.fit({"constant": ["a"] * n})


def test_fields_of_one_image_are_checked():
    encoder, _ = TableEncoder.fit(ROWS)
    assert encoder.check({"age": "unknown", "sex": "M"}) == []
    assert encoder.check({"age": 60, "sex": "x"}) == ["sex=x"]
    for fields, said in (({"age": "old"}, "'age' must be a number"), ({"agee": 3}, "no field 'agee'")):
        with pytest.raises(DataError, match=said):
            encoder.check(fields)
    with pytest.raises(DataError, match="must be a number"):
        encoder.encode({"age": [float("inf")], "sex": ["f"]})


def test_a_number_beyond_the_training_images_counts_as_the_nearest_of_theirs_and_is_told():
    encoder, _ = TableEncoder.fit(ROWS)
    wide, ends = ({"age": ages, "sex": ["f", "f"]} for ages in ([1e9, -5], [80, 40]))
    assert encoder.encode(wide).tolist() == encoder.encode(ends).tolist()
    assert encoder.check({"age": "1e9"}) == ["age outside 40 to 80"] and encoder.check({"age": 80}) == []
    (age, *_) = encoder.as_dict()
    older = TableEncoder.from_dict([{key: value for key, value in age.items() if key not in ("low", "high")}])
    assert older.check({"age": 1e9}) == [] and older.encode({"age": [1e9]})[0, 0] > 1e6


def test_numbers_as_categories_are_one_however_written():
    encoder, _ = TableEncoder.fit({"code": ["1", "2", "b", "b"]})
    assert encoder.encode({"code": [1, 1.0, "1 ", "B"]}).argmax(axis=1).tolist() == [0, 0, 0, 2]
    assert is_unknown("n/a") and is_unknown(pd.NA) and not is_unknown("none")


def test_true_and_false_are_categories_in_a_data_frame_as_they_are_in_a_csv():
    encoder, _ = TableEncoder.fit({"smoker": [True, False, np.True_, None]})
    assert encoder.described() == [{"name": "smoker", "kind": "category", "categories": ["false", "true", "unknown"]}]
    assert encoder.encode({"smoker": [True, "True", "unknown"]}).argmax(axis=1).tolist() == [1, 1, 2]
