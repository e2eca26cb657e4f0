"""What a set of predictions is worth, on populations whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import special

from medclf.auditing.assess import answers
from medclf.auditing.calibrate import calibrate
from medclf.auditing.calibration_set import CalibrationSet
from medclf.auditing.decisions import DecisionPolicy, decision_section
from medclf.errors import DataError
from medclf.metrics.thresholds import OperatingPoint
from medclf.results.calibration import Calibration
from medclf.results.predictions import Predictions
from medclf.results.results import by_fold, leak_free, summarize
from medclf.results.wording import confidence_gap


def population(n, sharpness=3.0, seed=0, vocab=("normal", "polyp", "dyed")):
    """Labels drawn from known probabilities, and a classifier whose logits are `sharpness` times too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, len(vocab)))
    true = special.softmax(logits, axis=1)
    y = (true.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    table = pd.DataFrame({"path": [f"{seed}-{i}.png" for i in range(n)]})
    return Predictions(list(vocab), False, y, special.softmax(sharpness * logits, axis=1), np.zeros(n), table), true


@pytest.mark.parametrize("own", [True, False])
def test_too_sure_by_three_is_found_and_put_right(own):
    shown, true = population(3000)
    other, _ = population(2000, seed=1)
    fitted_on = (
        CalibrationSet.of(shown, "the others") if own else CalibrationSet(other.y, other.probs, None, "other images")
    )
    found = calibrate(shown, fitted_on)
    assert found.calibration.temperature.values[0] == pytest.approx(3, abs=0.25)
    assert np.abs(found.predictions.probs - true).max() < 0.06
    errors = found.sections["calibration"]["ece"]
    said = found.sections["calibration"]["sentence"]  # where it was found, and what it comes to here
    assert said.startswith(
        "The model's" if own else "On other images (2000 images), the model's confidence was too high"
    )
    assert f"On the 3000 images here {confidence_gap(errors['after'])}." in said
    assert errors["before"]["low"] > 0.1 and errors["after"]["value"] < 0.03
    assert (found.predictions.probs.argmax(1) == shown.probs.argmax(1)).mean() > 0.97
    assert found.predictions.losses.mean() < -np.log(shown.probs[np.arange(3000), shown.y].clip(1e-7)).mean()


def test_no_image_has_a_part_in_what_it_is_judged_by():
    """Turning one image's label moves the limits of the other folds, not its own."""
    shown, _ = population(200)
    fitted_on = CalibrationSet.of(shown, "the others")
    seen = []
    limits = fitted_on.held_out_thresholds(lambda rows: seen.append(set(rows)) or float(len(seen)))
    for row, limit in enumerate(limits):
        assert row not in seen[int(limit) - 1]


def test_patients_are_whole_when_limits_are_chosen():
    shown, _ = population(120)
    shown.table["patient"] = [f"p{i // 6}" for i in range(120)]
    patients = shown.table["patient"].to_numpy()
    kept = []
    CalibrationSet.of(shown, "").held_out_thresholds(lambda rows: kept.append(rows) or 0.0)
    for rows in kept:
        assert not set(patients[rows]) & set(np.delete(patients, rows))


def test_a_label_of_few_patients_is_called_uncalibrated_however_many_images_they_have():
    shown, _ = population(600, vocab=("normal", "polyp"))
    alone = calibrate(shown, CalibrationSet.of(shown, "the others")).sections["calibration"]
    assert alone["uncalibrated"] == [] and "Uncalibrated" not in alone["sentence"]
    shown.table["patient"] = np.where(shown.y == 1, np.arange(600) % 6, np.arange(600)).astype(str)
    found = calibrate(shown, CalibrationSet.of(shown, "the others")).sections["calibration"]
    assert found["uncalibrated"] == ["polyp"]
    said = "with fewer than 10 images (those of one patient, and near-duplicates, count once): polyp."
    assert found["sentence"].endswith(said)
    other = CalibrationSet(shown.y, shown.probs, shown.groups, "other images")
    assert calibrate(shown, other).sections["calibration"]["uncalibrated"] == ["polyp"]


def test_too_few_patients_are_not_said_to_show_that_a_network_is_calibrated():
    """A network that is not sure enough, as 600 images of six patients have it."""
    shown, _ = population(600, sharpness=0.3)
    strangers = calibrate(shown, CalibrationSet.of(shown, "the others")).sections["calibration"]
    shown.table["patient"] = (np.arange(600) % 6).astype(str)
    found = calibrate(shown, CalibrationSet.of(shown, "the others")).sections["calibration"]
    assert "confidence was too low" in strangers["sentence"] and strangers["temperature"] < 0.5
    assert "confidence was not shown to be too high" in found["sentence"] and found["temperature"] == 1.0


def test_the_wished_accuracy_is_kept_on_other_images():
    shown, _ = population(4000)
    other, _ = population(4000, seed=1)
    found = calibrate(
        shown, CalibrationSet(other.y, other.probs, None, "other images"), DecisionPolicy(keep_accuracy=0.9)
    )
    numbers = found.sections["abstain"]["numbers"]
    assert numbers["accuracy"]["value"] == pytest.approx(0.9, abs=0.03) and 0.1 < numbers["coverage"]["value"] < 0.9
    unsure = (found.predictions.table["flags"] == "unsure").to_numpy()
    assert 1 - unsure.mean() == pytest.approx(numbers["coverage"]["value"])
    assert (found.predictions.probs.max(1)[unsure] < found.calibration.abstain_below).all()


def test_a_wish_that_nothing_keeps_is_said():
    shown, _ = population(300)
    shown.y, shown.unit = (shown.probs.argmax(1) + 1) % 3, "patient"  # always wrong
    found = calibrate(shown, CalibrationSet.of(shown, "the others"), DecisionPolicy(keep_accuracy=0.999))
    said = "No threshold keeps an accuracy of 0.999 on 300 patients: no answer is flagged unsure."
    assert found.sections["abstain"]["sentence"] == said and found.calibration.abstain_below is None


def test_a_threshold_is_chosen_on_one_part_and_judged_on_the_other():
    shown, _ = population(3000, vocab=("normal", "polyp"))
    other, _ = population(3000, seed=1, vocab=("normal", "polyp"))
    policy = DecisionPolicy(rule="sensitivity=0.95", prevalence=0.01)
    found = calibrate(shown, CalibrationSet(other.y, other.probs, None, "other images"), policy)
    point = found.sections["operating_point"]
    called = found.predictions.probs[:, 1] >= point["threshold"]
    table = {"tp": (called & (shown.y == 1)).sum(), "fp": (called & (shown.y == 0)).sum()}
    table |= {"fn": (~called & (shown.y == 1)).sum(), "tn": (~called & (shown.y == 0)).sum()}
    assert point["table"] == table and point["label"] == "polyp"
    assert point["sensitivity"]["value"] == pytest.approx(0.95, abs=0.02)
    se, sp = point["sensitivity"]["value"], point["specificity"]["value"]
    assert point["restated"]["ppv"]["value"] == pytest.approx(se * 0.01 / (se * 0.01 + (1 - sp) * 0.99))  # Bayes
    assert found.calibration.thresholds == {"polyp": point["threshold"]}
    unasked = calibrate(shown, CalibrationSet(other.y, other.probs, None, "other images"))
    assert "operating_point" in unasked.sections and not unasked.calibration.thresholds


@pytest.mark.parametrize("way", ["accuracy", "balanced", "threshold"])
def test_labels_are_chosen_by_one_stated_rule(way):
    """Of 2 and 18 in 20: the rule for balanced accuracy calls more images rare, and scores better in it."""
    rng = np.random.default_rng(5)
    y = (np.arange(2000) % 10 == 0).astype(int)
    logit = rng.normal(2.0 * y - 1.0, 1.0) + np.log(1 / 9)
    p = special.expit(2 * (logit - np.log(1 / 9)) + np.log(1 / 9))
    shown = Predictions(
        ["normal", "polyp"],
        False,
        y,
        np.stack([1 - p, p], 1),
        np.zeros(2000),
        pd.DataFrame({"path": [f"{i}" for i in range(2000)]}),
    )
    found = calibrate(shown, CalibrationSet.of(shown, "the others"), DecisionPolicy(decide=way))
    section, probs = found.sections["decision"], found.predictions.probs[:, 1]
    cut = {"accuracy": 0.5, "balanced": 0.1, "threshold": found.sections["operating_point"]["threshold"]}[way]
    assert section["rule"] == way and set(section["scores"]) == {"accuracy", "balanced", "threshold"}
    assert (found.predictions.predicted[:, 1] == (probs >= cut)).mean() > 0.999
    facts = summarize(found.predictions, n_boot=10)
    for key in ("accuracy", "balanced_accuracy"):
        assert facts[key]["value"] == pytest.approx(section["scores"][way][key])
    assert section["scores"]["balanced"]["balanced_accuracy"] > section["scores"]["accuracy"]["balanced_accuracy"] + 0.1
    assert section["scores"]["accuracy"]["accuracy"] > section["scores"]["balanced"]["accuracy"]
    again = Calibration.from_dict(found.calibration.as_dict(), multi_label=False)
    chosen = again.decided(found.predictions.probs, ["normal", "polyp"])
    assert (found.predictions.predicted == chosen).all() if chosen is not None else way == "accuracy"


def test_a_model_is_held_against_one_that_sees_no_image():
    """Hand-worked: 8 of 10 have b; always saying 0.2 and 0.8 has a Brier score of 0.16."""
    y = np.array([0] * 2 + [1] * 8)
    probs = np.where(np.arange(10)[:, None] < 4, [0.9, 0.1], [0.4, 0.6])
    shown = Predictions(["a", "b"], False, y, probs, np.zeros(10), pd.DataFrame({"path": list("abcdefghij")}))
    facts = summarize(shown, n_boot=10)["baseline"]
    assert facts["label"] == "b" and facts["accuracy"] == 0.8
    assert facts["brier"]["frequencies"] == pytest.approx(0.16)
    assert facts["log_loss"]["frequencies"] == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.2))
    assert facts["brier"]["model"] == pytest.approx((2 * 0.01 + 2 * 0.81 + 6 * 0.16) / 10)
    assert "Always predicting 'b' would be right in 80.0 %" in facts["sentence"]


def test_a_label_that_no_image_was_read_for_has_no_part_in_guessing():
    """Hand-worked: of a, 2 of 4 images have it; of b nothing is known."""
    y = np.array([[1, -1], [1, -1], [0, -1], [0, -1]])
    probs = np.array([[0.8, 0.3]] * 2 + [[0.2, 0.3]] * 2)
    shown = Predictions(["a", "b"], True, y, probs, np.zeros(4), pd.DataFrame({"path": list("abcd")}))
    facts = summarize(shown, n_boot=10)["baseline"]
    assert facts["accuracy"] == 0.5 and facts["brier"] == pytest.approx({"model": 0.04, "frequencies": 0.25})


def test_each_labels_probabilities_are_judged():
    shown, _ = population(3000, sharpness=1.0)
    found = calibrate(shown, CalibrationSet.of(shown, "the others")).sections["calibration"]
    assert set(found["by_label"]) == set(shown.vocab) and found["uncalibrated"] == []
    for k, row in enumerate(found["by_label"].values()):
        assert row["mean_probability"] == pytest.approx((shown.y == k).mean(), abs=0.02)
        assert row["ece"] < 0.04 and row["brier"] < row["brier_of_share"]
    rare = shown.y == 2
    rare[np.flatnonzero(rare)[:4]] = False
    some = shown.subset(~rare)
    assert calibrate(some, CalibrationSet.of(some, "the others")).sections["calibration"]["uncalibrated"] == ["dyed"]


def test_several_labels_an_image():
    rng = np.random.default_rng(3)
    logits = rng.normal(-1, 2, (1500, 3))
    y = (rng.random((1500, 3)) < special.expit(logits)).astype(int)
    y[::7, 2] = -1
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(1500)]})
    shown = Predictions(["a", "b", "c"], True, y, special.expit(2 * logits), np.zeros(1500), table)
    found = calibrate(shown, CalibrationSet.of(shown, "the others"), DecisionPolicy(rule="youden", keep_accuracy=0.7))
    assert found.calibration.temperature.values[0] == pytest.approx(2, abs=0.2)
    assert set(found.sections["operating_point"]) == {"a", "b", "c"} == set(found.calibration.thresholds)
    assert sum(found.sections["operating_point"]["c"]["table"].values()) == (y[:, 2] >= 0).sum()
    right, sure = answers(np.array([[1, -1], [0, 1]]), np.array([[0.9, 0.1], [0.8, 0.6]]), True)
    assert right.tolist() == [1, 0] and sure.tolist() == pytest.approx([0.9, 0.6])


def test_labels_of_which_only_some_are_known_count_for_these():
    y = np.array([[1, -1], [0, 1], [1, 0], [-1, -1]])
    probs = np.array([[0.9, 0.4], [0.2, 0.8], [0.6, 0.1], [0.5, 0.5]])
    shown = Predictions(["a", "b"], True, y, probs, np.zeros(4), pd.DataFrame({"path": list("wxyz")}))
    facts = summarize(shown, n_boot=50)
    assert facts["n"] == 3
    assert np.sum(facts["confusion_matrix"]["a"]) == 3 and np.sum(facts["confusion_matrix"]["b"]) == 2


def test_unknown_labels_come_back_from_the_file(tmp_path):
    y = np.array([[1, -1], [0, 1]])
    shown = Predictions(["a", "b"], True, y, np.full((2, 2), 0.5), np.zeros(2), pd.DataFrame({"path": ["x", "y"]}))
    shown.save(tmp_path / "p.csv")
    assert (Predictions.load(tmp_path / "p.csv", ["a", "b"], True).y == y).all()


def test_too_few_images_fit_nothing():
    shown, _ = population(12)
    found = calibrate(shown, CalibrationSet.of(shown, "the others"))
    assert found.calibration.temperature is None and found.calibration == Calibration() and found.predictions is shown
    assert "12 images are too few" in found.sections["calibration"]["sentence"]


@pytest.mark.parametrize("rule", ["best", "sensitivity", "sensitivity=2", "youden=0.5", "cost=x", "cost=0"])
def test_a_rule_that_cannot_be(rule):
    with pytest.raises(DataError, match="operating_point must be a rule"):
        DecisionPolicy(rule=rule)


def test_a_policy_is_held_against_the_labels():
    with pytest.raises(DataError, match="must be a label"):
        DecisionPolicy(positive="cancer").check(["a", "b"], False)
    with pytest.raises(DataError, match="positive="):
        DecisionPolicy(rule="youden").check(["a", "b", "c"], False)
    with pytest.raises(DataError, match=r"prevalence=0\.1 needs one of the 3 labels"):
        DecisionPolicy(prevalence=0.1).check(["a", "b", "c"], False)
    DecisionPolicy(prevalence=0.1, positive="c").check(["a", "b", "c"], False)
    with pytest.raises(DataError, match=r"prevalence=0\.1 needs one of the 2 labels"):  # not each is as frequent
        DecisionPolicy(rule="youden", prevalence=0.1).check(["a", "b"], True)
    DecisionPolicy(rule="youden", prevalence=0.1, positive="b").check(["a", "b"], True)
    DecisionPolicy(rule="youden", decide="threshold").check(["a", "b"], True)
    DecisionPolicy(rule="youden").check(["a", "b", "c"], True)


def test_images_seen_in_train_are_left_out():
    shown, _ = population(40, vocab=("normal", "polyp"))
    twin = np.arange(40) < 10
    facts = summarize(shown, n_boot=50)
    found = leak_free(shown, (twin, np.zeros(40, bool)), facts)
    everything, left = found["numbers"].values()
    assert (everything["n"], left["n"]) == (40, 30)
    right = shown.probs.argmax(1) == shown.y
    assert left["accuracy"]["value"] == pytest.approx(right[10:].mean())
    assert found["sentence"].startswith(
        "10 of the 40 validation images are near-duplicates of training images. "
        f"Without them accuracy is {100 * right[10:].mean():.0f} % (95 % CI "
    )
    one = leak_free(shown, (np.zeros(40, bool), np.arange(40) < 1), facts)
    assert one["sentence"].startswith("1 of the 40 validation images comes from a patient with training images.")
    assert leak_free(shown, (np.zeros(40, bool), np.zeros(40, bool)), facts) is None
    grouped = leak_free(shown, (np.zeros(40, bool), np.arange(40) < 1, np.arange(40) > 37), facts)
    assert grouped["n_leaking"] == 3 and grouped["n_grouped"] == 2
    assert "2 of the 40 validation images are in groups with training images." in grouped["sentence"]
    assert "No images are left" in leak_free(shown, (np.ones(40, bool), twin), facts)["sentence"]


def test_folds_by_hand():
    y, probs = np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6]])
    table = pd.DataFrame({"path": list("abcd"), "fold": [0, 0, 1, 1]})
    folds, spread = by_fold(Predictions(["n", "p"], False, y, probs, np.zeros(4), table))
    assert [row["accuracy"] for row in folds] == [1.0, 0.5] and [row["n"] for row in folds] == [2, 2]
    assert spread["accuracy"]["mean"] == 0.75 and spread["accuracy"]["deviation"] == pytest.approx(0.5**1.5)


def test_cuts_of_each_image_decide():
    facts = decision_section(
        np.array([1, 0, 1, 0]),
        np.array([0.6, 0.6, 0.6, 0.6]),
        "polyp",
        OperatingPoint(0.5),
        None,
        cuts=np.array([0.5, 0.7, 0.7, 0.5]),
    )
    assert facts["table"] == {"tp": 1, "fp": 1, "fn": 1, "tn": 1}
    assert facts["sentence"].startswith("polyp is predicted from a probability of 0.500")


def test_a_threshold_that_does_not_decide_is_not_told_as_if_it_did():
    shown, _ = population(200, vocab=("normal", "polyp"))
    for decide in ("accuracy", "threshold"):
        found = calibrate(shown, CalibrationSet.of(shown, "the others"), DecisionPolicy(decide=decide))
        sentence = found.sections["operating_point"]["sentence"]
        assert ("is predicted from" in sentence) == (decide == "threshold") == ("does not decide" not in sentence)


@pytest.mark.parametrize("own", [True, False])
def test_probabilities_stand_for_the_prevalence_that_is_given(own):
    """Weighted to it, the images have the label as often as it is said of them, and the limit keeps its accuracy."""
    shown, _ = population(6000, vocab=("normal", "polyp"))
    other = CalibrationSet.of(shown, "the others") if own else CalibrationSet(shown.y, shown.probs, None, "others")
    at = DecisionPolicy(prevalence=0.05)
    plain, found = calibrate(shown, other), calibrate(shown, other, at)
    shift = found.calibration.shift
    weights = shift.weights(shown.y, shown.vocab, False)
    probs = found.predictions.probs[:, 1]
    assert np.average(probs, weights=weights) == pytest.approx(0.05, abs=0.004)
    assert np.average(shown.y == 1, weights=weights) == pytest.approx(0.05)
    assert (found.predictions.predicted[:, 1] == (probs > 0.5)).all()
    kept = found.predictions.probs.max(1) >= found.calibration.abstain_below
    right = found.predictions.predicted[np.arange(6000), shown.y]
    assert np.average(right[kept], weights=weights[kept]) >= 0.95
    # what the bundle holds gives the same from the network's own
    given = found.calibration.temperature.apply_to_probs(shown.probs)
    assert given == pytest.approx(found.predictions.probs, abs=0.05 if own else 1e-9)
    # and what is measured against labels is as without
    section, before = found.sections["calibration"], plain.sections["calibration"]
    assert section["ece"] == before["ece"] and section["by_label"] == before["by_label"]
    assert "stand for a prevalence of 5 % of polyp" in section["sentence"]
    results, same = summarize(found.predictions), summarize(plain.predictions)
    assert results["brier"]["value"] == pytest.approx(same["brier"]["value"])
    assert results["auroc"] == same["auroc"] and results["baseline"]["log_loss"] == pytest.approx(
        same["baseline"]["log_loss"]
    )
    assert results["baseline"]["accuracy"] is None and "another prevalence" in results["baseline"]["sentence"]
    assert results["confusion_matrix"] != same["confusion_matrix"]


def test_a_threshold_decides_the_same_images_at_any_prevalence():
    shown, _ = population(2000, vocab=("normal", "polyp"))
    fitted_on = CalibrationSet.of(shown, "the others")
    for rule in ({"rule": "sensitivity=0.9"}, {"decide": "balanced"}):
        plain, found = (calibrate(shown, fitted_on, DecisionPolicy(**rule, prevalence=p)) for p in (None, 0.02))
        assert (plain.predictions.predicted == found.predictions.predicted).mean() > 0.999
        assert found.predictions.probs[:, 1].mean() < plain.predictions.probs[:, 1].mean() / 3


def test_the_prevalence_of_one_of_several_labels_leaves_the_others():
    rng = np.random.default_rng(0)
    probs = rng.random((1500, 2))
    y = (rng.random((1500, 2)) < probs).astype(int)
    y[:100, 0] = -1
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(1500)]})
    shown = Predictions(["effusion", "mass"], True, y, probs, np.zeros(1500), table)
    fitted_on = CalibrationSet.of(shown, "the others")
    plain, found = (calibrate(shown, fitted_on, DecisionPolicy(positive="mass", prevalence=p)) for p in (None, 0.03))
    assert found.predictions.probs[:, 0] == pytest.approx(plain.predictions.probs[:, 0], abs=1e-6)
    odds = [p[:, 1] / (1 - p[:, 1]) for p in (found.predictions.probs, plain.predictions.probs)]
    share = y[:, 1].mean()
    assert np.median(odds[0] / odds[1]) == pytest.approx(0.03 / 0.97 * (1 - share) / share)
    with pytest.raises(DataError, match=r"prevalence=0\.03 needs one of the 2 labels"):
        calibrate(shown, fitted_on, DecisionPolicy(prevalence=0.03))


def test_a_prevalence_without_calibration_is_said_not_to_hold():
    shown, _ = population(12, vocab=("normal", "polyp"))
    found = calibrate(shown, CalibrationSet.of(shown, "the others"), DecisionPolicy(prevalence=0.02))
    assert found.calibration.shift is None and found.predictions.probs == pytest.approx(shown.probs)
    assert "do not stand for the prevalence" in found.sections["calibration"]["sentence"]
    absent, _ = population(200, vocab=("normal", "polyp"))
    absent = absent.subset(absent.y == 0)
    other = calibrate(
        absent, CalibrationSet.of(absent, "the others"), DecisionPolicy(positive="polyp", prevalence=0.02)
    )
    assert other.calibration.shift is None
    assert "do not stand for the prevalence" in other.sections["calibration"]["sentence"]
