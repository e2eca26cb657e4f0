"""A table split into its partitions, and what a split could not do."""

import time
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from medclf.dataset.splits import split_table, usual_split
from medclf.errors import MedclfWarning, SplitError

pytestmark = pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")


@pytest.fixture
def table() -> pd.DataFrame:
    n = 60
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(n)],
            "label": [("a", "b", "c")[i % 3] for i in range(n)],
            "patient": [f"p{i // 4}" for i in range(n)],
            "partition": ["test" if i >= 50 else None for i in range(n)],
            "problem": ["" if i % 10 else "truncated" for i in range(n)],
        },
        index=range(100, 160),
    )


@pytest.mark.parametrize("split", ["random", "stratified", "patient", "grouped", "kfold"])
def test_every_split_leaves_out_problems_and_keeps_test(table, split):
    partition = split_table(table, split, fold=0)
    assert list(partition.index) == list(table.index)
    assert partition[table["problem"] != ""].isna().all()
    assert (partition[(table["partition"] == "test") & (table["problem"] == "")] == "test").all()
    placed = partition.drop(table.index[50:])[table["problem"] == ""]
    assert set(placed) == {"train", "valid"} and 7 <= (placed == "valid").sum() <= 11


def test_what_is_left_out_does_not_move_the_others(table):
    whole = split_table(table, "random")
    used = split_table(table[table["problem"] == ""], "random")
    assert whole.dropna().equals(used)


def test_patient_and_kfold_keep_patients_together(table):
    for split in ("patient", "grouped", "kfold"):
        partition = split_table(table.drop(columns=["partition", "problem"]), split, fold=1)
        assert table["patient"].groupby(partition).agg(set).pipe(lambda sides: not sides["train"] & sides["valid"])


@pytest.mark.parametrize("split", ["patient", "grouped", "kfold"])
def test_a_patient_column_with_gaps_is_named(table, split):
    table = table.assign(patient=table["patient"].where(np.arange(60) > 2, None), problem="", partition=None)
    with pytest.warns(MedclfWarning, match="3 of 60 images have no patient"):
        split_table(table, split, fold=0)


def test_grouped_links_patients_and_clusters(table):
    table = table.drop(columns=["partition", "problem"])
    table["group"] = [7 if i in (0, 4, 8) else None for i in range(60)]  # joins the first three patients
    partition = split_table(table, "grouped")
    assert partition[:12].nunique() == 1


def test_folders(table):
    table["partition"] = ["valid", "train", "test", None] * 15
    partition = split_table(table, "folders")
    good = table["problem"] == ""
    assert partition[good].fillna("").tolist() == table["partition"][good].fillna("").tolist()
    assert partition[~good].isna().all()


def test_tables_that_cannot_be_split_so(table):
    for split, changes, reason in [
        ("halves", {}, "split must be one of random, "),
        ("folders", {}, "no image is in train"),
        ("patient", {"patient": None}, 'split="patient" needs patients'),
        ("grouped", {"patient": None}, "needs patients, and there is no column 'group'"),
        ("kfold", {}, "needs a fold"),
        ("stratified", {"label": None}, "have no label"),
    ]:
        with pytest.raises(SplitError, match=reason):
            split_table(table.assign(**changes), split)


def test_a_label_that_falls_into_valid_alone_is_named():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": ["a"] * 9 + ["rare"]})
    said = set()
    for seed in range(30):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            partition = split_table(table, "random", seed=seed)
        where = partition.iloc[9]
        expected = {
            "valid": "label 'rare' is only in valid, never in train: it cannot be learned",
            "train": "label 'rare' is in train and not in valid: it cannot be measured",
        }[where] + '. split="stratified" shares out the labels that have images enough'
        assert [str(warning.message) for warning in record] == [expected]
        said.add(where)
    assert said == {"train", "valid"}


@pytest.mark.parametrize("split", ["patient", "grouped"])
def test_patients_that_are_the_classes_leave_nothing_to_learn(split):
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": list("ab") * 5, "patient": list("xy") * 5})
    with pytest.raises(SplitError, match=r"of one patient or group, and training has '[ab]' alone\nadd .*patient_col"):
        split_table(table, split)
    assert set(split_table(table, "random")) == {"train", "valid"}


def test_one_patient_alone_has_no_advice_to_split_by_patient():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(10)], "label": list("ab") * 5, "patient": "x"})
    with pytest.warns(
        MedclfWarning, match="1 of 1 patients has images in both .*: add images of others, or see whether"
    ):
        split_table(table, "random")


def test_patients_on_both_sides_are_told_before_a_training():
    paths, patients = [f"{i}.png" for i in range(20)], [f"p{i // 2}" for i in range(20)]
    table = pd.DataFrame({"path": paths, "label": list("ab") * 10, "patient": patients, "partition": None})
    with pytest.warns(MedclfWarning, match='of 10 patients have images in both .* split="patient" keeps each'):
        split_table(table, "random")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_table(table, "patient")
    table["partition"] = ["train"] * 9 + ["valid"] * 8 + ["test"] * 3
    with pytest.warns(MedclfWarning, match=r"1 of 10 patients has .* 1 patient of the test set has images outside it"):
        split_table(table, "folders")


def test_stratified_pct_is_exact_where_it_can_be():
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(560)], "label": ["a"] * 480 + ["b"] * 80})
    partition = split_table(table, "stratified")
    assert pd.crosstab(table["label"], partition).to_numpy().tolist() == [[384, 96], [64, 16]]
    assert Fraction((partition == "valid").sum(), 560) == Fraction(1, 5)


@pytest.mark.slow
@pytest.mark.parametrize("split", ["random", "stratified", "patient", "grouped", "kfold"])
def test_a_hundred_thousand_rows(split):
    n = 100_000
    table = pd.DataFrame(
        {
            "path": [f"{i % 50}/{i}.png" for i in range(n)],
            "label": [str(i % 7) for i in range(n)],
            "patient": [f"p{i // 3}" for i in range(n)],
        }
    )
    begun = time.process_time()
    partition = split_table(table, split, fold=0)
    assert abs((partition == "valid").mean() - 0.2) < 0.001
    assert time.process_time() - begun < 5  # about 1 s alone; the machine may be busy


def test_images_in_no_partition_are_counted_by_folder():
    paths = [f"{part}/a/{i}.png" for part, n in (("train", 4), ("val", 2), ("extra", 5)) for i in range(n)]
    parts = ["train"] * 4 + ["valid"] * 2 + [None] * 5
    with pytest.warns(MedclfWarning, match=r"5 of 11 images are in no partition and are not used \(extra 5\)"):
        split_table(pd.DataFrame({"path": paths, "label": "a", "partition": parts}), "folders")


def test_folders_that_make_no_split_are_named():
    paths = ["Training/a/1.png", "Testing/a/2.png"]
    said = r"there are Training \(1 images\), Testing \(1 images\), which make train 1, test 1"
    with pytest.raises(SplitError, match=said):
        split_table(pd.DataFrame({"path": paths, "label": "a", "partition": ["train", "test"]}), "folders")


def test_patients_of_hannover(shared_data):
    table = pd.read_csv(shared_data / "hannover-cxr" / "data.csv")
    table = table.assign(path=table["image_id"], label=table["projection"], patient=table["patient_id"])
    for seed in (42, 7, 2026):
        partition = split_table(table, "patient", seed=seed)
        sides = table.groupby(partition)["patient"].agg(set)
        assert not sides["train"] & sides["valid"]
        assert abs((partition == "valid").mean() - 0.2) < 0.02
        share = table.groupby(partition)["label"].agg(lambda found: (found == "ap").mean())
        assert abs(share["train"] - share["valid"]) < 0.03


@pytest.mark.parametrize(
    ("columns", "split"),
    [
        ({}, "patient"),
        ({"patient": [f"p{i}" for i in range(60)]}, "random"),
        ({"patient": None}, "random"),
        ({"patient": "anonymous"}, "random"),  # one for all tells nobody apart
        ({"group": [1, 1, 2, 3, 4, 5] * 10}, "grouped"),
        ({"group": None}, "patient"),
        ({"partition": ["train", "valid"] * 30}, "folders"),
    ],
)
def test_where_no_split_is_asked_for_what_belongs_together_stays_so(table, columns, split):
    assert usual_split(table.assign(**columns)) == split
    assert usual_split(table.assign(**columns), divided=False) == ("patient" if split == "folders" else split)


def test_patients_of_unusable_images_alone_do_not_count(table):
    assert usual_split(table[table["problem"] != ""]) == "random"
