import pandas as pd
import pytest

from medclf.errors import MedclfWarning
from medclf.learn.partitions import partitioned


def table():
    rows = [(f"{n}.png", "ab"[n % 2], "valid" if n > 5 else "train", "") for n in range(8)]
    return pd.DataFrame(rows, columns=["path", "label", "partition", "problem"])


def test_a_share_that_the_folders_overrule_is_said():
    with pytest.warns(MedclfWarning, match=r"valid_pct=0\.4 changes nothing"):
        found, kind = partitioned(table(), None, valid_pct=0.4, seed=0)
    assert "changes nothing" in found.attrs["notes"][0]
    assert kind == "folders" and list(found["partition"]) == list(table()["partition"])


def test_a_share_or_a_number_of_folds_that_no_split_uses_is_said():
    unused = ((dict(n_folds=3), "random"), (dict(valid_pct=0.4, fold=0, n_folds=5), "kfold"), (dict(fold=2), "random"))
    for given, split in unused:
        with pytest.warns(MedclfWarning, match="changes nothing"):
            found, _ = partitioned(table().assign(partition=None), split, seed=0, **given)
        assert sum("changes nothing" in text for text in found.attrs["notes"]) == 1
    for given, split in ((dict(n_folds=3, fold=0), "kfold"), (dict(valid_pct=0.4), "random"), (dict(n_folds=3), "all")):
        found, _ = partitioned(table().assign(partition=None), split, seed=0, **given)
        assert not any("changes nothing" in text for text in found.attrs.get("notes", []))


def test_labels_that_one_side_lacks_are_kept_with_the_table():
    one_sided = table()
    one_sided.loc[one_sided["partition"] == "valid", "label"] = "b"
    with pytest.warns(MedclfWarning, match="not in valid"):
        found, _ = partitioned(one_sided, "folders", seed=0)
    (said,) = found.attrs["notes"]
    assert said.startswith("label 'a' is in train and not in valid: it cannot be measured. split=")


def test_a_share_that_whole_patients_do_not_allow_is_kept_with_the_table():
    of_one = table().assign(patient=["p"] * (len(table()) - 1) + ["q"], partition=None)
    with pytest.warns(MedclfWarning, match="stay together"):
        found, _ = partitioned(of_one, "patient", valid_pct=0.5, seed=0)
    assert sum("of the images were asked for validation" in text for text in found.attrs["notes"]) == 1


def test_images_of_no_partition_are_warned_of_and_left_to_the_assessment():
    parted = table()
    parted.loc[0, "partition"] = None
    with pytest.warns(MedclfWarning, match="in no partition"):
        found, _ = partitioned(parted, "folders", seed=0)
    assert not any("no partition" in text for text in found.attrs.get("notes", ()))


@pytest.mark.filterwarnings("error::medclf.errors.MedclfWarning")
@pytest.mark.parametrize(("split", "share"), [(None, 0.2), ("random", 0.4)])
def test_a_share_that_nobody_gave_or_that_holds_is_not_spoken_of(split, share):
    own = table() if split is None else table().assign(partition=None)
    partitioned(own, split, valid_pct=share, seed=0)


@pytest.mark.parametrize(
    ("parts", "split", "remedy"),
    [(["train", "valid"], "random", "folders"), ([None, "valid"], None, "Name the others train")],
)
def test_partitions_of_the_data_that_a_split_mixes_are_told(parts, split, remedy):
    own = table()
    own["partition"] = own["partition"].map({"train": parts[0], "valid": parts[1]})
    with pytest.warns(MedclfWarning, match=r"training and 2 validation images of their own.*mixes them"):
        found, _ = partitioned(own, split, seed=0)
    assert remedy in found.attrs["notes"][0]


@pytest.mark.filterwarnings("error::medclf.errors.MedclfWarning")
def test_the_fit_on_all_images_speaks_of_no_split():
    """A k-fold ended in advice about split="all", which its user never gave."""
    found, _ = partitioned(table(), "all", seed=0)
    assert set(found["partition"].dropna()) <= {"train", "test"}
