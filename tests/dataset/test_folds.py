"""One fold maker: groups whole, labels shared out, the same again with the same seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medclf.dataset.folds import folds, group_codes, sides


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=60),
    images_a_patient=st.integers(1, 4),
    n_folds=st.integers(2, 6),
    seed=st.integers(0, 5),
)
def test_patients_stay_whole_and_every_image_has_a_fold(labels, images_a_patient, n_folds, seed):
    patients = [f"p{index // images_a_patient}" for index in range(len(labels))]
    found = folds(labels, patients, n_folds, seed=seed)
    assert found.shape == (len(labels),) and found.min() >= 0 and found.max() < n_folds
    for patient in set(patients):
        assert len(set(found[[name == patient for name in patients]])) == 1
    assert (found == folds(labels, patients, n_folds, seed=seed)).all()
    assert len(set(found)) == min(n_folds, len(set(patients)))


@pytest.mark.parametrize("grouped", [False, True])
def test_each_label_is_shared_out(grouped):
    labels = np.array([0] * 40 + [1] * 10)
    groups = np.arange(50) // 2 if grouped else None
    found = folds(labels, groups, 5, seed=3)
    for label, n in ((0, 8), (1, 2)):
        counts = np.bincount(found[labels == label], minlength=5)
        assert np.abs(counts - n).max() <= (2 if grouped else 0)


def test_several_labels_an_image_are_shared_out():
    y = np.zeros((60, 2), int)
    y[:10, 0] = y[5:20, 1] = 1
    found = folds(y, None, 5)
    assert [np.bincount(found[y[:, k] == 1], minlength=5).tolist() for k in (0, 1)] == [[2] * 5, [3] * 5]


def test_another_seed_is_another_draw_and_big_patients_weigh():
    labels = np.zeros(40, int)
    assert (folds(labels, seed=0) != folds(labels, seed=1)).any()
    side = sides(labels, [0] * 20 + list(range(1, 21)), (0.5, 0.5))
    assert (side == side[0]).sum() == 20  # one patient of twenty images against twenty of one


def test_no_patient_is_a_patient_of_its_own():
    assert group_codes([None, "a", float("nan"), "a"], 4).tolist() == [0, 1, 2, 1]
