import hashlib
import math
import os
import random
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from medclf.dataset.folds import linked
from medclf.dataset.splitters import (
    FolderSplitter,
    KFoldSplitter,
    PatientSplitter,
    SeededSplitter,
    StratifiedGroupSplitter,
    StratifiedSplitter,
)
from medclf.errors import DataError, MedclfWarning, SplitError

pytestmark = pytest.mark.filterwarnings("ignore::medclf.errors.MedclfWarning")

few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.lists(
    st.text("abcdé/_0123456789", min_size=1, max_size=12),
    min_size=2,
    max_size=60,
    unique_by=lambda name: os.path.normpath("/" + name.lstrip("/")),  # of one path a split refuses two names
)
pcts = st.floats(0.01, 0.99)
seeds = st.integers(-(2**40), 2**40)


@st.composite
def labelled(draw, max_classes: int = 5, at_least: int = 2):
    """Names with a label each, every class with `at_least` images."""
    sizes = draw(st.lists(st.integers(at_least, 25), min_size=1, max_size=max_classes))
    labels = [f"c{number}" for number, size in enumerate(sizes) for _ in range(size)]
    labels = draw(st.permutations(labels))
    return [f"{index}.png" for index in range(len(labels))], labels


@st.composite
def grouped(draw):
    """Names with a label and a group each, at least two groups."""
    sizes = draw(st.lists(st.integers(1, 12), min_size=2, max_size=25))
    groups = [number for number, size in enumerate(sizes) for _ in range(size)]
    labels = draw(st.lists(st.sampled_from("xyz"), min_size=len(groups), max_size=len(groups)))
    return [f"{index}.png" for index in range(len(groups))], labels, groups


def check_exact(splits, n: int) -> None:
    train, valid = splits
    assert sorted(train + valid) == list(range(n)) and train and valid


def named(splits, items) -> tuple[set, set]:
    return tuple({items[index] for index in side} for side in splits)


def assert_order_does_not_matter(splitter_of, items, *columns) -> None:
    """`splitter_of(columns)` must say the same of items in another order."""
    turned = np.random.default_rng(0).permutation(len(items))
    one = splitter_of(*columns)(items)
    other_items = [items[i] for i in turned]
    other = splitter_of(*[[column[i] for i in turned] for column in columns])(other_items)
    assert named(one, items) == named(other, other_items)


# ---- properties


@few
@given(names, pcts, seeds)
def test_random(items, pct, seed):
    splits = SeededSplitter(pct, seed)(items)
    check_exact(splits, len(items))
    wished = min(max(len(items) * pct, 1), len(items) - 1)
    assert abs(len(splits[1]) - wished) <= 0.5 + 1e-6
    assert_order_does_not_matter(lambda: SeededSplitter(pct, seed), items)


@few
@given(labelled(), pcts, seeds)
@example(([f"{i}.png" for i in range(8)], ["a"] * 2 + ["b"] * 6), 0.75, 0)  # the odd image fits one class only
def test_stratified_within_one_image_a_class(data, pct, seed):
    items, labels = data
    splits = StratifiedSplitter(labels, pct, seed)(items)
    check_exact(splits, len(items))
    valid = Counter(labels[index] for index in splits[1])
    for label, size in Counter(labels).items():
        assert abs(valid[label] - size * pct) < 1 + 1e-6
        assert 1 <= valid[label] <= size - 1
    bounds = [(max(1, math.floor(n * pct)), min(n - 1, math.ceil(n * pct))) for n in Counter(labels).values()]
    low, high = sum(max(low, 1) for low, _ in bounds), sum(high for _, high in bounds)
    best = min(range(low, high + 1), key=lambda total: abs(total - len(items) * pct))
    assert abs(len(splits[1]) - len(items) * pct) <= abs(best - len(items) * pct) + 1e-6
    assert_order_does_not_matter(lambda found: StratifiedSplitter(found, pct, seed), items, labels)


@few
@given(grouped(), pcts, seeds)
def test_patients_stay_together_and_the_size_is_near(data, pct, seed):
    items, _, patients = data
    splits = PatientSplitter(patients, pct, seed)(items)
    check_exact(splits, len(items))
    train, valid = ({patients[index] for index in side} for side in splits)
    assert not train & valid
    sizes = Counter(patients)
    if len(train) > 1 and len(valid) > 1:  # else a side could have been left empty
        assert abs(len(splits[1]) - pct * len(items)) <= max(sizes.values()) / 2 + 1e-6
    assert_order_does_not_matter(lambda found: PatientSplitter(found, pct, seed), items, patients)


@few
@given(grouped(), pcts, seeds)
def test_groups_stay_together_with_labels_balanced(data, pct, seed):
    items, labels, groups = data
    splits = StratifiedGroupSplitter(labels, groups, pct, seed)(items)
    check_exact(splits, len(items))
    assert not {groups[i] for i in splits[0]} & {groups[i] for i in splits[1]}
    assert_order_does_not_matter(
        lambda found, ids: StratifiedGroupSplitter(found, ids, pct, seed), items, labels, groups
    )


@few
@given(labelled(), st.integers(2, 6), seeds, st.booleans())
def test_each_image_is_valid_in_one_fold(data, n_folds, seed, stratify):
    items, labels = data
    labels = labels if stratify else None
    if len(items) < n_folds:
        return
    folds = [KFoldSplitter(fold, n_folds, seed, labels=labels)(items) for fold in range(n_folds)]
    for splits in folds:
        check_exact(splits, len(items))
    assert sorted(index for _, valid in folds for index in valid) == list(range(len(items)))
    sizes = [len(valid) for _, valid in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels or []):
        counts = [sum(labels[index] == label for index in valid) for _, valid in folds]
        assert max(counts) - min(counts) <= 1


@few
@given(grouped(), st.integers(2, 5), seeds)
def test_groups_stay_in_one_fold(data, n_folds, seed):
    items, labels, groups = data
    if len(set(groups)) < n_folds:
        return
    folds = [KFoldSplitter(fold, n_folds, seed, labels=labels, groups=groups)(items) for fold in range(n_folds)]
    for splits in folds:
        check_exact(splits, len(items))
        assert not {groups[i] for i in splits[0]} & {groups[i] for i in splits[1]}
    assert sorted(index for _, valid in folds for index in valid) == list(range(len(items)))


@few
@given(grouped(), seeds)
def test_other_patient_numbers_split_the_same(data, seed):
    items, labels, groups = data
    renamed = [f"patient {1000 - group}" for group in groups]
    for given_labels in (None, labels):
        one = PatientSplitter(groups, 0.3, seed, labels=given_labels)(items)
        assert PatientSplitter(renamed, 0.3, seed, labels=given_labels)(items) == one


@few
@given(st.lists(st.tuples(st.integers(0, 6) | st.none(), st.integers(0, 6) | st.none()), min_size=1, max_size=30))
def test_linked_agrees_with_scipy(pairs):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    columns = [list(column) for column in zip(*pairs, strict=True)]
    edges = [
        (i, j)
        for column in columns
        for i in range(len(pairs))
        for j in range(i)
        if column[i] is not None and column[i] == column[j]
    ]
    rows, others = zip(*edges, strict=True) if edges else ((), ())
    n = len(pairs)
    _, expected = connected_components(coo_matrix((np.ones(len(edges)), (rows, others)), shape=(n, n)), directed=False)
    found = linked(*columns)
    assert all((found[i] == found[j]) == (expected[i] == expected[j]) for i in range(n) for j in range(n))


@few
@given(names, pcts, seeds)
def test_one_image_more_moves_at_most_one_other(items, pct, seed):
    fewer, more = items[:-1], items
    if len(fewer) < 2 or any(item.startswith("/") for item in items):  # which go by the folder that all share
        return
    one, other = named(SeededSplitter(pct, seed)(fewer), fewer), named(SeededSplitter(pct, seed)(more), more)
    assert len((one[1] ^ other[1]) - {items[-1]}) <= 1


# ---- seeds, names, global state


def test_another_seed_is_another_split_and_each_image_gets_its_turn():
    items = [f"{index}.png" for index in range(50)]
    counts = Counter(index for seed in range(400) for index in SeededSplitter(0.2, seed)(items)[1])
    expected, deviation = 80, math.sqrt(400 * 0.2 * 0.8)
    assert all(abs(counts[index] - expected) < 5 * deviation for index in range(50))


def test_the_split_of_seed_42_is_for_ever():
    """Pins the keyed hash: published splits must not change with a release."""
    items = [f"{letter}.png" for letter in "abcdefghij"]
    assert SeededSplitter(0.3, 42)(items)[1] == [1, 5, 9]
    by_hash = sorted(items, key=lambda name: hashlib.blake2b(f"42:{name}".encode(), digest_size=16).digest())
    assert sorted(by_hash[:3]) == ["b.png", "f.png", "j.png"]


def test_the_same_names_elsewhere_or_in_other_types():
    relative = [f"{label}/{index}.png" for label in "ab" for index in range(20)]
    expected = SeededSplitter()(relative)
    for items in (
        [Path(name) for name in relative],
        [Path("/data/set") / name for name in relative],
        [f"C:/x/{name}" if os.name == "nt" else f"/elsewhere/{name}" for name in relative],
        [name.replace("/", "\\") for name in relative],
        [(name, "label") for name in relative],
        pd.DataFrame({"path": relative}),
    ):
        assert SeededSplitter()(items) == expected
    composed, apart = ["caf\u00e9.png", "b", "c", "d"], ["cafe\u0301.png", "b", "c", "d"]
    assert all(SeededSplitter(0.5, seed)(composed) == SeededSplitter(0.5, seed)(apart) for seed in range(20))


def test_global_random_state_is_left_alone():
    torch = pytest.importorskip("torch")
    items, labels, groups = [f"{i}.png" for i in range(40)], list("ab") * 20, [i // 3 for i in range(40)]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for splitter in (
        SeededSplitter(),
        StratifiedSplitter(labels),
        PatientSplitter(groups, labels=labels),
        KFoldSplitter(0, labels=labels, groups=groups),
    ):
        splitter(items)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_random_state_does_not_matter():
    items = [f"{i}.png" for i in range(40)]
    random.seed(1)
    np.random.seed(1)
    one = SeededSplitter()(items)
    random.seed(2)
    np.random.seed(2)
    assert SeededSplitter()(items) == one


@pytest.mark.slow
def test_fastai_takes_them():
    from fastai.data.block import DataBlock

    items = [f"{i}.png" for i in range(10)]
    sets = DataBlock(get_items=lambda source: source, splitter=SeededSplitter(0.3, 1)).datasets(items)
    assert (len(sets.train), len(sets.valid)) == (7, 3)


# ---- multi-label, balance


def test_multi_label_shares_out_rare_labels():
    generator = np.random.default_rng(3)
    rates = {"common": 0.5, "some": 0.1, "rare": 0.01}
    labels = [tuple(name for name, rate in rates.items() if generator.random() < rate) for _ in range(1000)]
    items = [f"{i}.png" for i in range(1000)]
    train, valid = StratifiedSplitter(labels, 0.2, 7)(items)
    check_exact((train, valid), 1000)
    assert abs(len(valid) - 200) <= 2
    for name in rates:
        total = sum(name in found for found in labels)
        assert abs(sum(name in labels[index] for index in valid) - 0.2 * total) <= 1.5


def worst_fold(labels, folds) -> float:
    """The largest gap between a fold's share of a label and the label's share of everything."""
    shares = pd.crosstab(folds, labels, normalize="index")
    return float((shares - pd.Series(labels).value_counts(normalize=True)).abs().max().max())


def test_grouped_folds_are_as_balanced_as_scikit_learns():
    ours, theirs = [], []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        groups = np.repeat(np.arange(70), generator.integers(1, 22, 70))
        labels = np.where(generator.random(70)[groups] * 0.7 + generator.random(len(groups)) * 0.3 < 0.3, "a", "b")
        items = [f"{i}.png" for i in range(len(groups))]
        mine = np.empty(len(groups), int)
        for fold in range(5):
            mine[KFoldSplitter(fold, 5, seed, labels=list(labels), groups=list(groups))(items)[1]] = fold
        peer = np.empty(len(groups), int)
        peers = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(items, labels, groups)
        for fold, (_, valid) in enumerate(peers):
            peer[valid] = fold
        ours.append(worst_fold(labels, mine) + np.ptp(np.bincount(mine)) / len(items))
        theirs.append(worst_fold(labels, peer) + np.ptp(np.bincount(peer)) / len(items))
    assert np.mean(ours) <= np.mean(theirs)


# ---- impossible requests


LABELS, ITEMS = list("aaab"), ["1.png", "2.png", "3.png", "4.png"]


@pytest.mark.parametrize(
    "splitter, items, reason",
    [
        (SeededSplitter(), [], "at least 2 images, and the data has 0"),
        (SeededSplitter(), ["1.png"], "at least 2 images, and the data has 1"),
        (SeededSplitter(), ["1.png", Path("1.png")], "'1.png' is there 2 times"),
        (SeededSplitter(), pd.DataFrame({"file": ITEMS}), "no column 'path'"),
        (StratifiedSplitter(LABELS), ITEMS, "class 'b' has one image"),
        (StratifiedSplitter(["a", "a", None, "a"]), ITEMS, "1 of 4 images have no label"),
        (StratifiedSplitter([("a",), None, ("a",), ()]), ITEMS, "1 of 4 images have no label"),
        (StratifiedSplitter(LABELS[:3]), ITEMS, "3 labels for 4 items"),
        (StratifiedSplitter("label"), ITEMS, "labels='label' names no column"),
        (PatientSplitter(["ann"] * 4), ITEMS, "at least 2 patients, and the data has 1"),
        (StratifiedGroupSplitter(LABELS, [1] * 4), ITEMS, "at least 2 groups"),
        (KFoldSplitter(0, 5), ITEMS, "5 folds need at least 5 images; there are 4"),
        (KFoldSplitter(0, 3, groups=[1, 1, 2, 2]), ITEMS, "3 folds need at least 3 groups or patients"),
        (KFoldSplitter(0, 2, labels=LABELS), ITEMS, "class 'b' has one image"),
        (FolderSplitter(), ["train/a/1.png"], "no image is in valid"),
        (FolderSplitter(), ["valid/a/1.png"], "no image is in train"),
    ],
)
def test_impossible_splits(splitter, items, reason):
    with pytest.raises(SplitError) as error:
        splitter(items)
    assert reason in error.value.message and error.value.remedy


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: SeededSplitter(0), "valid_pct must be between 0 and 1, not 0"),
        (lambda: SeededSplitter("0.2"), "valid_pct must be between 0 and 1, not '0.2'"),
        (lambda: StratifiedSplitter(LABELS, 1.0), "valid_pct must be between 0 and 1, not 1.0"),
        (lambda: PatientSplitter(LABELS, float("nan")), "valid_pct must be between 0 and 1, not nan"),
        (lambda: KFoldSplitter(5, 5), "fold must be from 0 to 4, not 5"),
        (lambda: KFoldSplitter(0, 1), "n_folds must be 2 or more, not 1"),
        (lambda: KFoldSplitter(0, "3"), "n_folds must be a whole number, not '3'"),
        (lambda: KFoldSplitter(0.5, 3), "fold must be a whole number, not 0.5"),
    ],
)
def test_impossible_arguments(make, reason):
    with pytest.raises(DataError, match=reason):
        make()


def test_images_without_a_patient_are_counted():
    with pytest.warns(MedclfWarning, match="2 of 4 images have no patient"):
        check_exact(PatientSplitter(["ann", "ann", None, float("nan")], 0.5)(ITEMS), 4)


def test_too_few_of_a_class_for_the_folds_is_named():
    with pytest.warns(MedclfWarning, match="class 'b' has 2 images for 3 folds"):
        KFoldSplitter(0, 3, labels=list("aaaabb"))(list("123456"))


# ---- what a split could not do is said


@pytest.mark.parametrize("groups", [["big"] * 54 + list("abcdef"), [None] * 6 + ["big"] * 54], ids=["first", "alone"])
def test_groups_too_large_for_the_share_are_told(groups):
    names = [f"{row:02d}.png" for row in range(60)]
    with pytest.warns(MedclfWarning, match=r"20% of the images were asked for validation, and 10% are \(6 of 60\)"):
        _, valid = StratifiedGroupSplitter(["a", "b"] * 30, groups, 0.2)(names)
    assert len(valid) == 6
    with pytest.warns(MedclfWarning, match=r"the largest has 54; one fold trains on 6 images and is measured on 54"):
        KFoldSplitter(1, 3, groups=groups)(names)


def test_a_share_that_is_met_says_nothing():
    names = [f"{row:02d}.png" for row in range(60)]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MedclfWarning)
        StratifiedGroupSplitter(["a", "b"] * 30, [row // 3 for row in range(60)], 0.2)(names)
        KFoldSplitter(1, 3, groups=[row // 3 for row in range(60)])(names)
        StratifiedGroupSplitter(["a", "b"], ["x", "y"], 0.2)(["1.png", "2.png"])  # one image either way


@pytest.mark.parametrize("patients", [{"1.png": "p", "2.png": "p"}, {"p", "q"}, pd.DataFrame({"a": [1], "b": [2]})])
def test_values_without_an_order_are_refused(patients):
    """A dict's keys would be taken for the patients, each of one image."""
    with pytest.raises(SplitError, match=r"patients are given as a .*\n.*a function of the item"):
        PatientSplitter(patients, 0.5)(["1.png", "2.png"])
