"""The five checks: what is measured and fine passes; what is not measured never does."""

from __future__ import annotations

from typing import Any

import pytest

from medclf.reporting.checks import Check, checks
from medclf.results.shortcut_words import NO_CONTROL


def metric(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 500}


FINE: dict[str, Any] = {
    "partition": "valid",
    "n": 500,
    "n_patients": 200,
    "accuracy": metric(0.95, 0.92, 0.97),
    "per_class": {"polyp": {"n": 250}, "ulcer": {"n": 250}},
    "audit": {"clues": [], "sentences": []},
    "label_errors": {"n_judged": 900, "n_doubtful": 3, "n_conflicts": 1, "n_unjudged": 0},
    "shortcuts": {"sentences": [{"finding": "No box, text or border was found that is the same across images."}]},
    "calibration": {"ece": {"before": metric(0.2, 0.1, 0.3), "after": metric(0.03, 0.01, 0.05)}},
}


def by_name(results: dict[str, Any]) -> dict[str, Check]:
    return {check.name: check for check in checks(results)}


@pytest.mark.parametrize(
    ("kind", "change", "is_told"),
    [
        ("random", {}, True),
        ("patient", {}, True),
        ("grouped", {}, False),
        ("folders", {}, False),
        ("random", {"n_patients": 1}, False),
        ("random", {"partition": "test"}, False),
    ],
)
def test_the_split_that_keeps_leaks_together_is_named_where_one_can(
    kind: str, change: dict[str, Any], is_told: bool
) -> None:
    leaking = {"leak_free": {"n": 500, "n_leaking": 40}, "data": {"split": {"kind": kind}}}
    assert ("'grouped'" in by_name({**FINE, **leaking, **change})["Leaks"].sentence) is is_told


def test_all_is_well_only_where_all_was_measured() -> None:
    assert [check.state for check in checks(FINE)] == ["pass"] * 5
    assert [check.state for check in checks({"n": 500, "partition": "valid"})][2:] == ["warn"] * 3
    assert by_name({"n": 500})["Leaks"].state == "warn"


@pytest.mark.parametrize(
    ("change", "name", "state", "words"),
    [
        ({"leak_free": {"n": 500, "n_leaking": 10}}, "Leaks", "warn", "10 of 500 validation images (2.0 %)"),
        ({"leak_free": {"n": 500, "n_leaking": 100}}, "Leaks", "fail", "100 of 500"),
        ({"test": {"leak_free": {"n": 120, "n_leaking": 14}}}, "Leaks", "fail", "14 of 120 test images"),
        ({"n_patients": None}, "Leaks", "warn", "Without patient IDs"),
        ({"data": {"split": {"patients_on_both_sides": 7}}}, "Leaks", "fail", "7 patients"),
        ({"data": {"split": {"test_patients_elsewhere": 3}}}, "Leaks", "warn", "3 patients of the test set"),
        ({"accuracy": metric(0.9, 0.8, 0.95)}, "Sample size", "warn", "15 points wide"),
        ({"accuracy": metric(0.9, None, None)}, "Sample size", "warn", "the score has no interval"),
        (
            {"leak_free": {"numbers": {"all": {}, "without leaks": {"n": 7, "accuracy": metric(1.0, 0.65, 1.0)}}}},
            "Sample size",
            "fail",
            "7 without leaked images; the score's interval is 35 points wide",
        ),
        (
            {"task": "multi-label", "auroc": metric(0.55, 0.43, 0.67)},
            "Sample size",
            "warn",
            "the score's interval is 24 points wide",
        ),
        (
            {"per_class": {"polyp": {"n": 490}, "ulcer": {"n": 4}}},
            "Sample size",
            "fail",
            "4 of the rarest class 'ulcer'",
        ),
        (
            {"label_errors": {"n_judged": 100, "n_doubtful": 8, "n_conflicts": 1}},
            "Labels",
            "warn",
            "9 of 100 labels are",
        ),
        ({"label_errors": {"n_judged": 100, "n_doubtful": 20, "n_unjudged": 5}}, "Labels", "fail", "5 were not judged"),
        (
            {"label_errors": {"n_judged": 100, "n_doubtful": 20, "judge_agrees": 0.7}},
            "Labels",
            "warn",
            "agrees with 70 % of all labels",
        ),
        (
            {"label_errors": {"n_judged": 100, "n_doubtful": 7, "judge_agrees": 0.85}},
            "Labels",
            "warn",
            "agrees with 85 % of all labels",
        ),
        (
            {"vocab": ["a", "b"], "label_errors": {"n_judged": 100, "labels_not_judged": ["b"]}},
            "Labels",
            "warn",
            "1 of the 2 classes were not judged",
        ),
        (
            {"vocab": ["a", "b"], "label_errors": {"n_judged": 0, "labels_not_judged": ["a", "b"]}},
            "Labels",
            "warn",
            "The labels were not checked",
        ),
        ({"shortcuts": None, "audit": {"clues": [{}]}}, "Shortcuts", "warn", "medclf shortcuts RUN"),
        (
            {
                "shortcuts": {
                    "sentences": [{"finding": "Overlay 1 (box, top) is on 9 % of 'a'. Masked, it changes 40 %."}]
                }
            },
            "Shortcuts",
            "fail",
            "Predictions depend on 1 of 1 boxes, texts or borders: overlay 1 (box, top).",
        ),
        (
            {
                "shortcuts": {
                    "sentences": [{"finding": f"Overlay {i} (box) is on 9 % of 'a'; {NO_CONTROL}."} for i in (1, 2)]
                }
            },
            "Shortcuts",
            "warn",
            "None of 2 boxes, texts or borders could be compared",
        ),
        ({"calibration": {"ece": metric(0.08, 0.05, 0.1)}}, "Calibration", "warn", "8 points"),
        ({"calibration": {"ece": metric(0.2, 0.1, 0.3)}}, "Calibration", "fail", "20 points"),
    ],
)
def test_what_is_amiss_is_said(change: dict[str, Any], name: str, state: str, words: str) -> None:
    check = by_name(FINE | change)[name]
    assert (check.state, words in check.sentence) == (state, True), check
