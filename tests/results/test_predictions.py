import numpy as np
import pandas as pd
import pytest

from medclf.results.predictions import Predictions


def saved(tmp_path, predictions: Predictions) -> Predictions:
    predictions.save(tmp_path / "predictions.csv")
    return Predictions.load(tmp_path / "predictions.csv", predictions.vocab, predictions.multi_label)


def single(vocab, y, **columns) -> Predictions:
    n = len(y)
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(n)], **columns})
    return Predictions(list(vocab), False, np.array(y), np.full((n, len(vocab)), 1 / len(vocab)), np.zeros(n), table)


@pytest.mark.parametrize("name", ["None", "NA", "N/A", "n/a", "null", "NULL", "nan", "NaN", "001", "1e5", "<NA>"])
def test_a_class_of_any_name_comes_back(tmp_path, name):
    back = saved(tmp_path, single([name, "tumor"], [0, 1, -1], patient=[name, "7", None]))
    assert back.y.tolist() == [0, 1, -1] and back.labels == [name, "tumor", ""]
    assert list(back.table["patient"]) == [name, "7", None]


@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_of_no_image_come_back(tmp_path, multi_label):
    empty = Predictions(
        ["a", "b"],
        multi_label,
        np.zeros((0, 2) if multi_label else 0, int),
        np.zeros((0, 2)),
        np.zeros(0),
        pd.DataFrame({"path": []}),
    )
    back = saved(tmp_path, empty)
    assert len(back.y) == 0 and back.probs.shape == back.predicted.shape == (0, 2)


def test_numbers_and_texts_of_other_columns_come_back(tmp_path):
    back = saved(tmp_path, single("ab", [0, 1], age=[60, 61], sex=["F", None], flags=["unsure|strange", ""]))
    assert list(back.table["age"]) == [60, 61] and list(back.table["sex"]) == ["F", None]
    assert back.losses.tolist() == [0, 0] and back.probs.shape == (2, 2)


def test_no_finding_unknown_and_partly_unknown_are_three_things(tmp_path):
    y = np.array([[1, 0], [0, 0], [-1, -1], [0, -1]])
    table = pd.DataFrame({"path": list("abcd")})
    one = Predictions(["edema", "mass"], True, y, np.full((4, 2), 0.2), np.zeros(4), table)
    assert saved(tmp_path, one).y.tolist() == y.tolist()
    written = pd.read_csv(tmp_path / "predictions.csv", keep_default_na=False)
    assert list(written["label"]) == ["edema", "(none)", "", "(none)"] and set(written["pred"]) == {"(none)"}
    assert list(written["unknown"]) == ["", "", "edema|mass", "mass"]


def test_a_users_own_column_unknown_of_an_older_run_is_the_users(tmp_path):
    header = "path,partition,label,pred,loss,prob_A,prob_B,unknown"
    rows = ["1.png,valid,A,A,0.1,0.9,0.1,A", "2.png,valid,,,0.1,0.1,0.1,B"]
    (tmp_path / "predictions.csv").write_text("\n".join([header, *rows, ""]))
    assert Predictions.load(tmp_path / "predictions.csv", ["A", "B"], True).y.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("y", "some", "all_of_them"),
    [
        (np.array([0, -1, 1]), [True, False, True], [True, False, True]),
        (np.array([[0, -1], [-1, -1], [1, 0]]), [True, False, True], [False, False, True]),
        (np.zeros(0, int), [], []),
        (np.zeros((0, 2), int), [], []),
    ],
)
def test_which_labels_are_known(y, some, all_of_them):
    table = pd.DataFrame({"path": [f"{row}.png" for row in range(len(y))]})
    found = Predictions(["a", "b"], y.ndim == 2, y, np.full((len(y), 2), 0.5), np.zeros(len(y)), table)
    assert found.known.tolist() == some and found.fully_known.tolist() == all_of_them
