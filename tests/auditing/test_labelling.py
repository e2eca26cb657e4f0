"""What to label next: every cluster once, then where the probe is unsure, no near-duplicate and no patient twice."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from medclf.auditing import labelling
from medclf.auditing.labelling import Probe, choose_next, margin_of, self_trained, skill_of
from medclf.errors import DataError


def blobs(n_clusters=5, each=30, seed=0, spread=0.3, f=16):
    rng = np.random.default_rng(seed)
    centres = np.eye(f)[:n_clusters] * 5
    y = np.repeat(np.arange(n_clusters), each)
    return centres[y] + rng.normal(size=(len(y), f)) * spread, y


def test_without_labels_each_cluster_is_asked_for_once():
    features, y = blobs()
    found = choose_next(features, np.zeros(len(y), bool), 5)
    assert sorted(y[found["row"]]) == [0, 1, 2, 3, 4]
    assert found["margin"].isna().all()


def test_clusters_that_have_a_label_come_last():
    features, y = blobs()
    labelled = np.zeros(len(y), bool)
    labelled[[0, 30, 60]] = True  # one each of clusters 0, 1 and 2
    assert set(y[choose_next(features, labelled, 2)["row"]]) == {3, 4}


def test_with_probabilities_the_unsure_are_taken_and_they_differ():
    features, y = blobs()
    probs = np.tile([0.98, 0.02], (len(y), 1))
    unsure = [0, 1, 2, 3, 40, 100]  # clusters 0, 1 and 3
    probs[unsure] = [0.55, 0.45]
    found = choose_next(features, np.zeros(len(y), bool), 3, probs=probs)
    assert set(found["row"]) <= set(unsure)
    assert set(y[found["row"]]) == {0, 1, 3}
    assert found["margin"].round(6).eq(0.1).all()


def test_a_near_duplicate_of_what_is_labelled_or_chosen_comes_last():
    features, _ = blobs(spread=1.5)
    copies = np.concatenate([features, features])
    labelled = np.zeros(len(copies), bool)
    labelled[:10] = True
    rows = choose_next(copies, labelled, 100)["row"].to_numpy()
    assert len(set(rows % len(features))) == len(rows)
    assert not set(rows % len(features)) & set(range(10))


def test_a_patient_is_taken_again_only_when_none_is_left():
    features, y = blobs(2, 20, spread=2.0)
    patients = np.arange(len(y)) % 8
    rows = choose_next(features, np.zeros(len(y), bool), 12, patients=patients)["row"].to_numpy()
    assert len(rows) == 12
    assert set(patients[rows[:8]]) == set(range(8))


def test_the_same_choice_again():
    features, y = blobs()
    first, again = (choose_next(features, np.zeros(len(y), bool), 7) for _ in range(2))
    assert first.equals(again)


def test_what_cannot_be_chosen_from_is_refused():
    features, y = blobs()
    with pytest.raises(DataError, match="every image is labelled"):
        choose_next(features, np.ones(len(y), bool))
    features[0, 0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        choose_next(features, np.zeros(len(y), bool))


def test_the_margin_of_several_labels_is_that_of_the_least_sure():
    assert margin_of(np.array([[0.9, 0.5], [1.0, 0.1]]), True).round(2).tolist() == [0.0, 0.8]


def test_the_probe_is_scikit_learns_on_standardised_features():
    features, y = blobs(3, 20, spread=2.0)
    rows, asked = np.arange(0, 60, 2), np.arange(1, 60, 2)
    x = Probe(features, 0.1, 3).x
    model = LogisticRegression(C=0.1, class_weight="balanced", max_iter=200).fit(x[rows], y[rows])
    np.testing.assert_allclose(
        Probe(features, 0.1, 3).probs(rows, y[rows], asked), model.predict_proba(x[asked]), atol=1e-3
    )


def test_the_probes_parts_count_alike_however_many_columns_they_have():
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    narrow = y[:, None] + rng.normal(0, 1, (80, 1))
    features = np.hstack([narrow, rng.normal(0, 1, (80, 99))])
    first = [Probe(features, 0.01, 2, widths).x[:, 0] for widths in ((), (1, 99))]
    told = [abs(np.corrcoef(axis, narrow[:, 0])[0, 1]) for axis in first]
    assert told[0] < 0.5 and told[1] > 0.95  # the first main axis is then that column


def test_self_training_is_kept_where_it_helps_and_only_there():
    features, y = blobs(3, 100, seed=1, spread=1.2)
    known = np.full(len(y), -1)
    known[::20] = y[::20]
    filled, said = self_trained(Probe(features, 0.003, 3), known)
    assert (filled >= 0).sum() > 100 and (filled[filled >= 0] == y[filled >= 0]).mean() > 0.9
    assert "improved" in said
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, 60)
    known = np.where(np.arange(60) < 30, noise, -1)
    filled, said = self_trained(Probe(rng.normal(size=(60, 16)), 0.1, 2), known)
    assert (filled == known).all() and "not used" in said


@pytest.mark.parametrize("skill", [1.0, 0.5, 0.0])
def test_each_choice_lowers_the_mean_variance_most(skill):
    """Against the same written out: each time every model anew, by inverses alone."""
    rng = np.random.default_rng(0)
    features, labelled = rng.normal(size=(60, 6)), np.arange(60) < 4
    probs = rng.dirichlet([1, 1, 1], 60)
    found = choose_next(features, labelled, 8, probs=probs, skill=skill)["row"].tolist()
    vectors = labelling.directions(features)
    doubts = (1.001 - margin_of(probs)) ** skill

    def variance(rows):
        told = 0.5 * np.eye(7) + sum(doubts[row] * np.outer(vectors[row], vectors[row]) for row in rows)
        return np.mean(doubts**3 * np.einsum("ij,jk,ik->i", vectors, np.linalg.inv(told), vectors))

    taken = list(range(4))
    for _ in range(8):
        taken.append(min(set(range(60)) - set(taken), key=lambda row: variance([*taken, row])))
    assert found == taken[4:]


def test_without_skill_the_probabilities_have_no_part():
    features, y = blobs(spread=1.5)
    labelled = np.arange(len(y)) < 4
    probs = np.random.default_rng(0).dirichlet([1, 1], len(y))
    chosen = [
        choose_next(features, labelled, 9, **given)["row"].tolist() for given in ({}, {"probs": probs, "skill": 0})
    ]
    assert chosen[0] == chosen[1]


def test_skill_is_what_the_probe_tells_out_of_fold():
    features, y = blobs(3, 100, spread=0.5)
    known = np.full(len(y), -1)
    known[::10] = y[::10]
    told = skill_of(Probe(features, 0.1, 3), known)
    rng = np.random.default_rng(0)
    noise = skill_of(Probe(rng.normal(size=(300, 16)), 0.1, 3), np.where(known >= 0, rng.integers(0, 3, 300), -1))
    assert told > 0.7 and noise < 0.3
    assert skill_of(Probe(features, 0.1, 3), np.where(np.arange(len(y)) < 5, y, -1)) == 0.0  # one class alone


def test_of_a_large_pool_each_image_is_looked_at():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(20_000, 8)) * 0.1 + np.eye(8)[0]
    probs = np.tile([0.98, 0.02], (len(features), 1))
    few = slice(17_120, 17_123)
    features[few] += np.eye(8)[5]
    probs[few] = 0.5
    assert choose_next(features, np.zeros(len(features), bool), 3, probs=probs)["row"][0] in range(17_120, 17_123)
