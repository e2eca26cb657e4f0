import warnings
from types import SimpleNamespace

import pandas as pd
import pytest

from medclf.config import TrainConfig
from medclf.dataset.scan import scan
from medclf.errors import DataError, MedclfWarning
from medclf.images.preprocessing import Preprocessing
from medclf.results.results import summarize
from medclf.run.evaluate import as_test, as_trained, check_test, predict_table, with_flags
from medclf.run.run import Run


class Always:
    """A bundle that gives each image the same answer."""

    def __init__(self, multi_label, **probs):
        self.calibration, self.fields, self.spec = {}, [], SimpleNamespace(ordinal=False)
        self.vocab, self.multi_label, self.probs = list(probs), multi_label, probs

    def predict_stream(self, paths, fields=None):
        for _ in paths:
            yield SimpleNamespace(probs=self.probs, flags=())


def evaluated(bundle, *args, **kwargs):
    """Predictions, table, what is missing, and all that was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = predict_table(bundle, scan(*args, **kwargs, progress=False))
    return *found, " ".join(str(w.message) for w in said if issubclass(w.category, MedclfWarning))


@pytest.fixture
def findings(make_images):
    """Eight images: two with edema, two with edema and scar, four without any finding."""
    root = make_images(*(f"{i}.png" for i in range(8)))
    return pd.DataFrame(
        {"path": [f"{i}.png" for i in range(8)], "edema": [1] * 4 + [0] * 4, "scar": [0, 0, 1, 1] * 2}
    ), root


def test_images_without_a_finding_are_negatives(findings):
    table, root = findings
    table["scar"] = 0
    bundle = Always(True, edema=0.9, scar=0.1)
    predictions, _, missing, _ = evaluated(bundle, table, root=root, label_col=["edema", "scar"])
    facts = summarize(predictions, n_boot=10)
    assert facts["n"] == 8 and not missing
    assert facts["per_class"]["edema"]["specificity"] | {"low": 0, "high": 0, "note": ""} == {
        "value": 0.0, "low": 0, "high": 0, "n": 4, "note": ""
    }  # fmt: skip
    assert facts["per_class"]["scar"]["specificity"]["n"] == 8


def test_a_label_that_the_data_have_no_column_for_is_not_measured(findings):
    table, root = findings
    bundle = Always(True, edema=0.9, hernia=0.1)
    predictions, _, missing, said = evaluated(bundle, table, root=root, label_col=["edema", "scar"])
    facts = summarize(predictions, n_boot=10)
    assert facts["n"] == 8 and facts["per_class"]["hernia"]["specificity"]["n"] == 0
    assert missing["unread_labels"] == ["hernia"] and missing["further_labels"] == {"scar": 4}
    assert "hernia" in said and "scar (4 images)" in said


def test_a_single_column_that_is_called_like_a_label_holds_0_and_1(findings):
    table, root = findings
    bundle = Always(True, edema=0.9, scar=0.1)
    predictions, _, missing, _ = evaluated(bundle, table, root=root, **with_flags({"label_col": "edema"}, bundle))
    assert predictions.y[:, 0].tolist() == [1] * 4 + [0] * 4 and missing["unread_labels"] == ["scar"]
    assert with_flags({"label_col": "label"}, bundle) == {"label_col": "label"}
    for column in ("edema", ["edema"]):
        assert with_flags({"label_col": column}, Always(False, edema=0.9, scar=0.1)) == {"label_col": "edema"}


def test_images_of_a_class_that_the_model_has_not_are_counted_and_named(make_images):
    root = make_images("normal/1.png", "Polyp/2.png", "serrated/3.png", "serrated/4.png")
    predictions, table, missing, said = evaluated(Always(False, normal=0.9, polyp=0.1), root)
    assert predictions.labels == ["polyp", "normal"]
    assert (missing["n"], missing["of"]) == (2, 4) and "serrated" in said and "'Polyp' as 'polyp'" in said
    lost = table.loc[table["problem"] != "", ["path", "problem"]].to_numpy().tolist()
    assert [path for path, _ in lost] == ["serrated/3.png", "serrated/4.png"] and "serrated" in lost[0][1]


def test_nothing_to_measure_says_what_there_is(make_images):
    root = make_images("x/1.png", "y/2.png")
    with pytest.raises(DataError, match=r"no label 'x'.*no label 'y'"):
        evaluated(Always(False, a=0.9, b=0.1), root)


def test_files_are_read_as_in_training_and_another_way_is_refused():
    """--frame and --window of evaluate were taken and not obeyed."""
    how = Preprocessing(32, window="lung", frame="first")
    own = {"frame": "first", "window": "lung"}
    assert as_trained(how, {}) == own == as_trained(how, {"window": (-600, 1500), "limit": 3})
    assert as_trained(how, {"frame": "all"}) == own | {"frame": "all"}
    for given in ({"frame": "middle"}, {"frame": 0}, {"window": None}, {"window": (40, 400)}):
        with pytest.raises(DataError, match=f"{next(iter(given))} goes against the model"):
            as_trained(how, given)


def test_test_images_are_read_as_the_data_are(make_images):
    root = make_images("dyed/1.png", "polyp/2.png", "normal/3.png")
    asked = dict(merge=["growth=dyed+polyp+ulcer"], frame="all", unit="file", patient_col="case", path_col="img")
    config = TrainConfig(str(root), "RUN", test=str(root), **asked)
    table = scan(root, merge=asked["merge"][0].removesuffix("+ulcer"), progress=False)
    found = check_test(config, table)
    assert found["merge"] == {"growth": ["dyed", "polyp"]} and found["frame"] == "all" and "path_col" not in found
    (root / "t.csv").write_text("img,label,case\ndyed/1.png,dyed,1\npolyp/2.png,normal,2\n")
    with_csv = TrainConfig(str(root), "RUN", test=str(root / "t.csv"), **asked)
    found = check_test(with_csv, table)
    assert found["path_col"] == "img" and found["merge"] == {"growth": ["dyed"]}
    filtered = TrainConfig(str(root), "RUN", test=str(root / "t.csv"), where=["case!=2", "view=PA"], path_col="img")
    assert as_test(filtered)["where"] == ["case!=2"]
    with pytest.raises(DataError, match=r"no image has a label of the data \(growth, normal\)"):
        check_test(filtered, table)  # what is left is dyed, and no option merges it


def test_labels_of_several_that_are_dropped_are_dropped_in_the_test_too(make_images):
    root = make_images("1.png", "2.png", "3.png")
    (root / "t.csv").write_text("path,label\n1.png,none\n2.png,mass|edema\n3.png,mass\n")
    asked = {"label_delim": "|", "drop": ["none", "hernia"]}
    config = TrainConfig(str(root / "t.csv"), "RUN", test=str(root / "t.csv"), **asked)
    table = scan(root / "t.csv", label_delim="|", drop="none", progress=False)
    assert check_test(config, table)["drop"] == ["none"]


def test_a_test_without_a_label_of_the_data_is_refused_before_the_training(make_images):
    root = make_images("a/1.png", "b/2.png")
    table = scan(root, progress=False).assign(label=["normal", "polyp"])
    with pytest.raises(DataError, match=r"test=.*no image has a label of the data \(normal, polyp\)"):
        check_test(TrainConfig(str(root), "RUN", test=str(root)), table)
    (root / "t.csv").write_text("path,label\na/1.png,a\n")
    with pytest.raises(DataError, match=r"is read as the data are: t\.csv has no column 'img'"):
        check_test(TrainConfig(str(root), "RUN", test=str(root / "t.csv"), path_col="img"), table)


def test_a_test_without_labels_is_told_how_to_give_them(make_images):
    """`--labels` would have been those of the training."""
    root = make_images("a/1.png", "b/2.png")
    table = scan(root, progress=False)
    flat = make_images("3.png", root=root / "flat")
    with pytest.raises(DataError, match="none of 1 images can be used") as error:
        check_test(TrainConfig(str(root), "RUN", test=str(flat)), table)
    assert error.value.remedy.startswith('put each class into a folder, or give test="labels.csv"')


def test_a_run_says_through_which_windows_its_images_were_shown(tmp_path):
    assert Run(tmp_path).own_windows == {}
    (tmp_path / "run.json").write_text('{"format": 1, "settings": {}, "own_windows": {"40,400": 3}}')
    assert Run(tmp_path).own_windows == {"40,400": 3}
